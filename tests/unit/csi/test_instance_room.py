"""How many volumes the instance takes is found out where there is a kubelet to be told, and only there."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import pytest
from structlog.testing import capture_logs

from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces
from agent.csi import instance_room
from agent.csi.instance_room import InstanceRoom
from agent.report.board.board import Board

pytestmark = pytest.mark.anyio

PLACES = AttachmentPlaces("m5.large", 27, is_shared=True, attached=frozenset())


@dataclass
class Aws:
    """AWS that answers as a test says, and then tells."""

    said: list[AttachmentPlaces | str | None] = field(default_factory=list)
    asked: int = 0

    async def ask(self) -> AttachmentPlaces | None:
        self.asked += 1
        said = self.said.pop(0) if self.said else PLACES
        if isinstance(said, str):
            raise AgentError(said, hint="Allow it.")
        return said


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_room, "PAUSES_S", (0.001,))


async def test_it_is_asked_where_there_is_a_kubelet() -> None:
    """A node without one asks nothing, nor does one whose places are known."""
    aws, board = Aws(), Board()
    room = InstanceRoom(board, aws.ask)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.run)
        await anyio.wait_all_tasks_blocked()
        assert aws.asked == 0
        room.want()
    assert (aws.asked, board.places) == (1, PLACES)
    other = InstanceRoom(board, aws.ask)
    other.want()
    await other.run()
    assert aws.asked == 1


@pytest.mark.parametrize("said", [PLACES, None, "denied"])
async def test_kubelet_waits_for_the_first_answer(said: AttachmentPlaces | str | None) -> None:
    """Whatever it is: a node that AWS denies it is to have pods, too."""
    asked, told = anyio.Event(), anyio.Event()

    async def ask() -> AttachmentPlaces | None:
        asked.set()
        await told.wait()
        if isinstance(said, str):
            raise AgentError(said)
        return said

    room = InstanceRoom(Board(), ask)
    room.want()
    has_waited = anyio.Event()

    async def wait() -> None:
        await room.wait_asked()
        has_waited.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.run)
        tasks.start_soon(wait)
        await asked.wait()
        await anyio.wait_all_tasks_blocked()
        assert not has_waited.is_set()
        told.set()
        await has_waited.wait()
        tasks.cancel_scope.cancel()


async def test_kubelet_waits_no_longer_than_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS that says nothing keeps no node from its volumes."""
    monkeypatch.setattr(instance_room, "FIRST_S", 0.001)
    room = InstanceRoom(Board(), anyio.sleep_forever)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.run)
        room.want()
        await room.wait_asked()
        tasks.cancel_scope.cancel()


async def test_it_is_asked_again_until_it_is_told_and_each_failure_is_logged_once() -> None:
    """A permission may come, or the network."""
    aws, board = Aws(["denied", "denied", None, "away", "denied"]), Board()
    room = InstanceRoom(board, aws.ask)
    room.want()
    with capture_logs() as logs:
        await room.run()
    assert (aws.asked, board.places) == (6, PLACES)
    assert [(line["event"], line["error"]) for line in logs] == [
        ("csi.room_not_known", error) for error in ("denied", "away", "denied")
    ]


async def test_what_the_cloud_half_finds_meanwhile_stands() -> None:
    """It knows who has the places as well."""
    found, board = AttachmentPlaces("m5.large", 27, is_shared=True, attached=frozenset()), Board()

    async def ask() -> AttachmentPlaces | None:
        board.put_calls((), found)
        return PLACES

    room = InstanceRoom(board, ask)
    room.want()
    await room.run()
    assert board.places is found
