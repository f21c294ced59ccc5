"""How many volumes the instance takes is found out when kubelet wants to know it, and only then."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import pytest
from structlog.testing import capture_logs

from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces
from agent.csi import instance_room
from agent.csi.calls import NodeInfo
from agent.csi.instance_room import InstanceRoom
from agent.report.board.board import Board

pytestmark = pytest.mark.anyio

NODE = "i-0123456789abcdef0"
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


async def test_it_is_asked_once_kubelet_was_told_no_count() -> None:
    """A node without kubelet, and one whose count is known, ask nothing."""
    aws, board = Aws(), Board()
    room = InstanceRoom(board, aws.ask)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(room.run)
        room.note_told(NodeInfo(NODE, 20))
        await anyio.wait_all_tasks_blocked()
        assert aws.asked == 0
        room.note_told(NodeInfo(NODE))
    assert (aws.asked, board.places) == (1, PLACES)


async def test_it_is_asked_again_until_it_is_told_and_each_failure_is_logged_once() -> None:
    """A permission may come, or the network."""
    aws, board = Aws(["denied", "denied", None, "away", "denied"]), Board()
    room = InstanceRoom(board, aws.ask)
    room.note_told(NodeInfo(NODE))
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
    room.note_told(NodeInfo(NODE))
    await room.run()
    assert board.places is found
