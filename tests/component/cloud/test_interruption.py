"""What AWS says before it takes a Spot instance back is heard, and everything leaves the node in time."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.orders.release import before_end as ending
from agent.cloud.orders.release.before_end import find_returning, release_before_end
from agent.cloud.orders.routes import OrderTaker
from agent.cloud.spot_interruption import PATH, InterruptionWatch, parse_interruption
from agent.core.errors import AgentError
from agent.core.model import Condition, VolumeId
from agent.policy.reading import load_policy
from agent.policy.settings import CloudSettings
from agent.report.board.board import Board
from agent.report.board.events import Event, EventName
from agent.report.board.volume_status import VolumeStatus
from tests.aws.world import World
from tests.component.cloud.test_release import Node, add_volumes
from tests.waiting import until

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 28, 9, 20, tzinfo=timezone.utc)
NOTICE = {"action": "terminate", "time": "2026-11-28T09:22:00Z"}


class Metadata:
    """A metadata service of version 2 that has a notice, or none."""

    def __init__(self) -> None:
        self.notice: bytes | None = None
        self.port = 0

    @property
    def surroundings(self) -> IdentitySources:
        return IdentitySources(Path("/none"), f"http://127.0.0.1:{self.port}", metadata_timeout_s=10.0)

    async def tell(self, request: web.Request) -> web.Response:
        assert request.headers["X-aws-ec2-metadata-token"] == "a-token"
        if self.notice is None:
            raise web.HTTPNotFound
        return web.Response(body=self.notice)


@asynccontextmanager
async def serving() -> AsyncIterator[Metadata]:
    async def give_token(_request: web.Request) -> web.Response:
        return web.Response(text="a-token")

    metadata = Metadata()
    app = web.Application()
    app.router.add_put("/latest/api/token", give_token)
    app.router.add_get(PATH, metadata.tell)
    listener = socket.create_server(("127.0.0.1", 0))
    metadata.port = listener.getsockname()[1]
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    yield metadata
    await runner.cleanup()


class Leaver:
    """Notes why and when everything is to be let go."""

    def __init__(self, metadata: Metadata) -> None:
        self.left: list[tuple[str, float]] = []
        self.watch = InterruptionWatch(lambda: metadata.surroundings, self.leave, lambda: NOW)

    async def leave(self, why: str, left_s: float) -> None:
        self.left.append((why, left_s))


async def test_notice_is_heard_once() -> None:
    """Without a notice nothing is let go; with one everything is, once, with the time that is left."""
    async with serving() as metadata:
        leaver = Leaver(metadata)
        await leaver.watch.look()
        assert leaver.left == []
        metadata.notice = json.dumps(NOTICE).encode()
        await leaver.watch.look()
        await leaver.watch.look()
    ((why, left_s),) = leaver.left
    assert "AWS is about to terminate this instance" in why
    assert left_s == pytest.approx(115)


@pytest.mark.parametrize(
    "notice",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"action": "terminate"}',
        b'{"action": 1, "time": "x"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_what_is_no_notice_lets_nothing_go(notice: bytes) -> None:
    """Words that are not understood are told in the log; on their strength nothing is taken away."""
    async with serving() as metadata:
        metadata.notice = notice
        leaver = Leaver(metadata)
        await leaver.watch.look()
    assert leaver.left == []
    with pytest.raises(ValueError, match=r"."):
        parse_interruption(notice)


async def test_hibernation_and_rebalance_let_nothing_go() -> None:
    """A hibernated instance comes back with its mounts; a rebalance recommendation is not asked about."""
    assert "rebalance" not in PATH
    async with serving() as metadata:
        metadata.notice = json.dumps({**NOTICE, "action": "hibernate"}).encode()
        leaver = Leaver(metadata)
        await leaver.watch.look()
    assert leaver.left == []
    assert parse_interruption(json.dumps({**NOTICE, "action": "stop"}).encode()).is_end


async def test_nobody_is_asked_unless_the_policy_says_so() -> None:
    """The setting is off by default, and takes effect with a reload."""
    assert CloudSettings().release_on == ()
    async with serving() as metadata:
        metadata.notice = json.dumps(NOTICE).encode()
        leaver = Leaver(metadata)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leaver.watch.run)
            await anyio.wait_all_tasks_blocked()
            assert leaver.left == []
            leaver.watch.apply(is_wanted=True)
            await until(lambda: leaver.left or None)
            tasks.cancel_scope.cancel()


@pytest.fixture
def node(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    node = Node(world.add_node(1), tmp_path / "agent.sock")
    node.hands.is_note_needed = False
    return node


async def leave(
    node: Node, left_s: float, only: Collection[VolumeId] | None = None
) -> dict[EventName, Event]:
    """Have everything leave, and return what was told, the last of each event."""

    async def tell(_text: str | None, _percent: float | None = None) -> None: ...

    board = Board()
    taker = OrderTaker(board, node.prepare, node.hands.keep, lambda: node.node.policy, None, node.hands)
    context = taker.open_node_context(tell)
    assert context is not None
    with anyio.fail_after(60):
        await release_before_end(context, "was let go", left_s, only=only)
    return {event.name: event for event in board.history.latest()}


async def test_everything_leaves_and_is_not_noted(world: World, node: Node) -> None:
    """All volumes are detached for others, and a start on the same instance uses them again."""
    async with node.serving():
        await add_volumes(world, node, 2)
    told = await leave(node, 100)
    assert not node.hands.list_devices()
    assert not node.hands.noted
    assert told.keys() == {EventName.INSTANCE_LEFT}
    assert told[EventName.INSTANCE_LEFT].fields == {"volumes": 2, "left": []}


async def test_volume_that_nothing_attaches_again_stays(world: World, node: Node) -> None:
    """It is neither unmounted nor detached: an instance that is started again has it as it was."""
    async with node.serving():
        returning, staying = await add_volumes(world, node, 2)
    node.hands.busy.add(staying)  # so that letting go of it would be told and flushed
    await leave(node, 100, only={returning})
    assert node.hands.list_devices().keys() == {staying}
    assert staying not in node.hands.flushed


@pytest.mark.parametrize(
    ("entry", "is_returning"),
    [
        ("claim: {class: fast, size: 1GiB}", True),
        ("match: {volume_id: vol-0123456789abcdef0}", True),
        ("match: {tags: {role: db}}", True),
        ("match: {tags: {role: db}, size: 1GiB}", True),
        ("match: {device_name: /dev/sdf}", False),
        ("match: {device_name: /dev/sdf, tags: {role: db}}", False),
        ("match: {size: 1GiB}", False),
        ("match: {type: gp3}", False),
    ],
)
def test_what_comes_back_by_itself(tmp_path: Path, entry: str, is_returning: bool) -> None:  # noqa: FBT001 -- a table
    """Only a volume that its entry finds wherever it is; never one that no entry is for."""
    path = tmp_path / "policy.yaml"
    classes = "classes: {fast: {type: gp3}}\n"
    path.write_text(f"version: 1\n{classes}volumes: [{{name: db, {entry}, block: {{}}}}]\n", "utf-8")
    policy, board = load_policy(path, trust_owner=True), Board()
    volume, other = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0123456789abcdef1")
    board.publish(VolumeStatus(volume, "db", Condition.READY))
    board.publish(VolumeStatus(other, None, Condition.UNMANAGED))
    assert find_returning(board, policy) == ({volume} if is_returning else set())


async def test_volume_in_use_is_flushed_and_leaves_once_it_is_free(world: World, node: Node) -> None:
    """Those that are ended meanwhile let go of it; the others do not wait for it, and its data is flushed."""
    async with node.serving():
        used, other = await add_volumes(world, node, 2)
    node.hands.busy.add(used)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave, node, 100)
        await until(lambda: node.hands.list_devices().keys() == {used} or None)
        await until(lambda: used in node.hands.flushed or None)
        node.hands.busy.clear()
    assert not node.hands.list_devices()
    assert other not in node.hands.flushed


async def test_volume_that_is_worked_on_leaves_after_that(world: World, node: Node) -> None:
    """What is being checked is told and asked again for as long as there is time, and nothing is under it."""
    async with node.serving():
        checked, _ = await add_volumes(world, node, 2)
    node.hands.occupied.add(checked)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave, node, 100)
        await until(lambda: node.hands.list_devices().keys() == {checked} or None)
        node.hands.occupied.clear()
    assert not node.hands.list_devices()
    assert checked not in node.hands.flushed


async def test_volume_in_use_to_the_end_stays_with_who_writes(
    world: World, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When time is up it is mounted still, flushed as far as that goes, and not pulled from its users."""
    monkeypatch.setattr(ending, "LEAST_S", 0.2)
    async with node.serving():
        (used,) = await add_volumes(world, node, 1)
    node.hands.busy.add(used)
    told = await leave(node, -5)
    assert node.hands.list_devices().keys() == {used}
    assert told[EventName.VOLUME_NOT_LET_GO].volume_id == used
    assert "python3 (pid 4711)" in told[EventName.VOLUME_NOT_LET_GO].fields["error"]
    assert told[EventName.INSTANCE_LEFT].fields == {"volumes": 1, "left": [used]}
    assert used in node.hands.flushed
    assert used not in node.hands.released
    assert world.aws.calls["DetachClusterNodeVolume"] == 0


async def test_without_aws_everything_is_flushed(world: World, node: Node) -> None:
    """A node that cannot ask AWS any more unmounts and flushes all the same."""
    async with node.serving():
        (volume,) = await add_volumes(world, node, 1)
    node.unreachable = AgentError("AWS does not answer.")
    told = await leave(node, 100)
    assert VolumeId(volume) in node.hands.released
    assert told[EventName.VOLUME_NOT_DETACHED].volume_id == volume
