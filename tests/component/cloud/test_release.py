"""Everything is released, and one volume taken away and given back, with AWS and without, over the socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from agent.cli.client import Client
from agent.cloud.orders.routes import OrderTaker, add_cloud_routes
from agent.cloud.orders.runner import Follower, Report
from agent.cloud.plan.decisions import AttachApi, NodeView
from agent.cloud.state.released_volumes import EVERYTHING
from agent.core.errors import AgentError, ExitCode
from agent.core.model import VolumeId
from agent.report.board.board import Board
from agent.report.control import json_lines
from agent.report.control.serve import serve_control
from agent.report.http.app import App
from tests.aws.faults import deny
from tests.aws.world import EmulatedHands, NodeUnderTest, World

pytestmark = pytest.mark.anyio


class NodeByItself(EmulatedHands):
    """The emulated node with its note: what is on disk, and whether it was when something was let go."""

    noted: frozenset[VolumeId] = frozenset()
    is_disk_full = False
    is_note_needed = True
    flushed: tuple[VolumeId, ...] = ()

    async def note_by_hand(self, volume_id: VolumeId) -> None:
        self.noted |= {volume_id}

    async def note_all_by_hand(self) -> tuple[VolumeId, ...]:
        here = tuple(sorted(self.list_devices()))
        self.released |= {*here, EVERYTHING}
        await self.write_released()
        return here

    async def write_released(self) -> bool:
        if not self.is_disk_full:
            self.noted = frozenset(self.released)
        return not self.is_disk_full

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        is_noted = self.is_disk_full or volume_id in self.noted
        assert is_noted or not self.is_note_needed, "let go before it was noted"
        try:
            await super().release(volume_id, is_forced=is_forced)
        except AgentError:
            self.keep(volume_id)
            raise

    def keep(self, volume_id: VolumeId) -> None:
        self.released.discard(volume_id)

    async def withdraw_all(self, why: str) -> tuple[VolumeId, ...]:
        del why
        here = tuple(sorted(self.list_devices()))
        self.released |= {*here, EVERYTHING}
        return here

    async def flush(self, volume_id: VolumeId) -> None:
        self.flushed += (volume_id,)


class Node:
    """A node whose control socket is served, and what it was asked."""

    def __init__(self, node: NodeUnderTest, path: Path) -> None:
        self.hands = NodeByItself(node.hands.devices, node.hands.instance_id, released=node.hands.released)
        node.hands = self.hands
        node.restart()
        self.api = AttachApi.HYPERPOD
        self.unreachable: AgentError | None = None
        """What AWS is out of reach for."""
        self.begins = anyio.Event()
        self.begins.set()
        self.node = node
        self.path = path

    async def prepare(self, report: Report) -> tuple[Follower, Callable[[], NodeView]]:
        await self.begins.wait()
        if self.unreachable is not None:
            raise self.unreachable
        note = self.hands.note_by_hand
        return Follower(self.node.make, self.hands, report, pause_s=0.01, note_by_hand=note), self._view

    def _view(self) -> NodeView:
        return NodeView(self.node.identity, self.api, frozenset(self.hands.list_devices()))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        def make_app() -> App:
            app = App(lambda _: None)
            policy = lambda: self.node.policy  # noqa: E731
            taker = OrderTaker(Board(), self.prepare, self.hands.keep, policy, node=self.hands)
            add_cloud_routes(app, taker)
            return app

        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_control, make_app, self.path)
            yield
            tasks.cancel_scope.cancel()

    async def order(self, order: str, **words: Any) -> list[dict[str, Any]]:
        """Give an order over the socket, and return the lines of its answer."""
        client = Client(self.path)

        def read() -> list[dict[str, Any]]:
            asked = client.release_all() if order == "release" else client.order(order, words)
            return list(asked)

        with anyio.fail_after(60):
            return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)


@pytest.fixture
def node(world: World, tmp_path: Path) -> Node:
    return Node(world.add_node(1), tmp_path / "agent.sock")


async def add_volumes(world: World, node: Node, count: int) -> list[VolumeId]:
    volumes = [VolumeId(world.cloud.make_volume()) for _ in range(count)]
    for volume in volumes:
        answer = await node.order("attach", volume=volume)
        assert answer[-1]["done"]
    return volumes


def show_states(answer: list[dict[str, Any]]) -> dict[str, str]:
    return {one["volume_id"]: one["state"] for one in answer[-1]["volumes"]}


async def test_everything_is_detached(world: World, node: Node) -> None:
    """Every volume is let go and detached, how far all is is told, and a second order finds nothing left."""
    async with node.serving():
        volumes = await add_volumes(world, node, 3)
        answer = await node.order("release")
        assert show_states(answer) == dict.fromkeys(volumes, "detached")
        assert answer[-1]["done"] is True
        far = [line["percent"] for line in answer if "percent" in line]
        assert [round(percent) for percent in far] == [17, 33, 50, 67, 83, 100]
        assert not node.hands.list_devices()
        assert (await node.order("release"))[-1] == {"done": True, "volumes": []}
    assert {*volumes, EVERYTHING} <= node.hands.noted


async def test_volume_in_use_stays_and_the_others_go(world: World, node: Node) -> None:
    """Who uses a volume is named, with code 5; the others are detached, and the note tells it apart."""
    async with node.serving():
        used, *others = await add_volumes(world, node, 3)
        node.hands.busy.add(used)
        answer = await node.order("release")
    assert show_states(answer) == {used: "in-use", **dict.fromkeys(others, "detached")}
    assert (answer[-1]["exit_code"], answer[-1]["reason"]) == (ExitCode.REFUSED, "DeviceBusy")
    assert "python3 (pid 4711)" in answer[-1]["error"]
    assert used not in node.hands.noted
    assert {*others, EVERYTHING} == node.hands.noted


async def test_volume_that_cannot_be_flushed_is_a_failure(world: World, node: Node) -> None:
    """Code 5 is for devices in use: a flush that failed ends with code 1, whatever else is in use."""
    async with node.serving():
        broken, used = await add_volumes(world, node, 2)
        node.hands.broken.add(broken)
        node.hands.busy.add(used)
        answer = await node.order("release")
    assert show_states(answer) == {broken: "failed", used: "in-use"}
    assert answer[-1]["exit_code"] == ExitCode.FAILED
    assert world.aws.calls["DetachClusterNodeVolume"] == 0


async def test_without_an_api_it_is_said_who_detaches(world: World, node: Node) -> None:
    """Where no API detaches, all is let go, said to be attached still, and by what to detach it."""
    async with node.serving():
        (volume,) = await add_volumes(world, node, 1)
        node.api = AttachApi.NONE
        answer = await node.order("release")
        assert show_states(answer) == {volume: "released"}
        node.unreachable = AgentError("The policy says agent.cloud.enabled: false.", retryable=False)
        again = await node.order("release")
    for lines_told in (answer, again):
        assert lines_told[-1]["done"] is True
        told = [line["text"] for line in lines_told if "text" in line][-1]
        assert f"Still attached: {volume}" in told
        assert "aws ec2 detach-volume" in told
    assert volume in node.hands.released


async def test_call_that_aws_refuses_leaves_it_released(world: World, node: Node) -> None:
    """A volume that AWS does not detach is unmounted and stays so; that it is attached is told, with why."""
    async with node.serving():
        (volume,) = await add_volumes(world, node, 1)
        denied = deny("DetachClusterNodeVolume", "sagemaker:DetachClusterNodeVolume")
        world.aws.faults.add(denied)
        answer = await node.order("release")
    assert show_states(answer) == {volume: "not-detached"}
    assert answer[-1]["exit_code"] == ExitCode.FAILED
    assert "sagemaker:DetachClusterNodeVolume is missing" in answer[-1]["error"]
    assert volume in node.hands.released


async def test_list_that_cannot_be_written_is_told(world: World, node: Node) -> None:
    """A full disk keeps nobody from releasing, and it is said that a restart would not know."""
    async with node.serving():
        await add_volumes(world, node, 1)
        node.hands.is_disk_full = True
        answer = await node.order("release")
    assert answer[-1]["done"] is True
    assert any("could not be written down" in line.get("text", "") for line in answer)


async def test_words_of_a_release(node: Node) -> None:
    """Releasing takes the one word it has: what is nearly right takes nothing away."""
    client = Client(node.path)
    async with node.serving():
        for body in (b"{}", b'{"all": 1}', b'{"all": true, "but": "x"}', b'{"all": false}'):
            read = lambda body=body: list(client._stream("POST", "/v1/release", 60, body))  # noqa: E731
            (answer,) = await anyio.to_thread.run_sync(read)
            assert answer["exit_code"] == ExitCode.USAGE
            assert answer["hint"] == 'The words are {"all": true}.'
    assert not node.hands.released


async def test_detach_goes_as_far_as_the_node_goes(world: World, node: Node) -> None:
    """Where AWS cannot be asked the volume is let go, and what was not done is said; in use it is not."""
    async with node.serving():
        (volume,) = await add_volumes(world, node, 1)
        node.unreachable = AgentError("AWS does not answer: no route to host.", hint="Is there a network?")
        node.hands.busy.add(volume)
        busy = (await node.order("detach", volume=volume))[-1]
        assert (busy["exit_code"], busy["reason"]) == (ExitCode.REFUSED, "DeviceBusy")
        assert volume not in node.hands.released
        node.hands.busy.clear()
        answer = (await node.order("detach", volume=volume))[-1]
        assert answer["exit_code"] == ExitCode.FAILED
        assert f"{volume} is unmounted and flushed, and stays so; it is still attached" in answer["error"]
        assert "no route to host" in answer["error"]
        assert answer["hint"] == "Is there a network?"
        assert volume in node.hands.released
        assert volume in node.hands.noted
        unknown = (await node.order("detach", volume="vol-0123456789abcdef0"))[-1]
        assert unknown["error"] == "AWS does not answer: no route to host."


@pytest.mark.parametrize("operation", ["DescribeVolumes", "DetachClusterNodeVolume"])
async def test_detach_that_aws_refuses_says_what_was_done(world: World, node: Node, operation: str) -> None:
    """Whichever call fails, the volume is let go, and the answer says so beside AWS's words."""
    async with node.serving():
        (volume,) = await add_volumes(world, node, 1)
        world.aws.faults.add(deny(operation, f"x:{operation}"))
        answer = (await node.order("detach", volume=volume))[-1]
    assert "is unmounted and flushed, and stays so; it is still attached" in answer["error"]
    assert f"x:{operation} is missing" in answer["error"]
    assert volume in node.hands.released


async def test_released_volume_that_is_here_comes_back_without_aws(world: World, node: Node) -> None:
    """``attach`` gives it back to the policy at once; AWS is asked only for what is not here."""
    async with node.serving():
        (volume,) = await add_volumes(world, node, 1)
        node.api = AttachApi.NONE
        await node.order("release")
        node.unreachable = AgentError("AWS does not answer.")
        answer = await node.order("attach", volume=volume)
        assert answer[-1] == {"done": True, "volume_id": volume}
        assert node.hands.released == {EVERYTHING}
        assert (await node.order("attach", volume=volume))[-1]["error"] == "AWS does not answer."


async def test_loop_brings_nothing_where_everything_was_released(
    world: World, node: Node, tmp_path: Path
) -> None:
    """What the policy names is not attached, and no claim is made; each entry says why."""
    volume = VolumeId(world.cloud.make_volume())
    world.use_policy(
        tmp_path,
        f"""
classes: {{fast: {{type: gp3}}}}
volumes:
  - {{name: data, match: {{volume_id: {volume}}}, block: {{}}}}
  - {{name: ckpt, claim: {{class: fast, size: 1GiB}}, block: {{}}}}
""",
    )
    looking = node.node
    looking.policy = world.policy
    node.hands.released.add(EVERYTHING)
    endings = (await looking.look(3)).endings
    assert {name: ending.reason.value for name, ending in endings.items()} == {
        "data": "Released",
        "ckpt": "Released",
    }
    assert not node.hands.list_devices()
    node.hands.released.clear()
    await looking.settle()
    assert len(node.hands.list_devices()) == 2


async def test_long_order_is_not_silent(world: World, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that has nothing to tell for long has lines that say only that it goes on."""
    monkeypatch.setattr(json_lines, "KEEPALIVE_S", 0.01)
    client = Client(node.path)
    volume = world.cloud.make_volume()
    async with node.serving():
        node.begins = anyio.Event()

        def read() -> list[dict[str, Any]]:
            answer = []
            for line in client.order("attach", {"volume": volume}):
                answer.append(line)
                if len(answer) == 3:
                    anyio.from_thread.run_sync(node.begins.set)
            return answer

        with anyio.fail_after(60):
            answer = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    assert answer[:3] == [{"alive": True}] * 3
    assert answer[-1] == {"done": True, "volume_id": volume}
