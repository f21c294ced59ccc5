"""What leaves an instance that ends, and what is told of it, by what AWS or systemd is about to do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from agent.base.off_loop import do_here
from agent.base.paths import Paths
from agent.cloud.identity.identity_sources import IdentitySources
from agent.core.errors import AgentError
from agent.core.model import Condition, EndCause, Seen, VolumeId
from agent.daemon.cloud_half import CloudHalf
from agent.policy.reading import load_policy
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.board.volume_status import VolumeStatus
from tests.component.cloud.test_interruption import NOTICE, serving

pytestmark = pytest.mark.anyio

BY_ID, BY_NAME = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0123456789abcdef1")
POLICY = f"""
version: 1
agent: {{cloud: %s}}
volumes:
  - {{name: returns, match: {{volume_id: {BY_ID}}}, block: {{}}}}
  - {{name: stays, match: {{device_name: /dev/sdg}}, block: {{}}}}
"""


class UnwillingReconciler:
    """Lets go of no volume; whoever asks for one is told so, which is an event."""

    def list_wanted(self) -> tuple[VolumeId, ...]:
        return (BY_ID, BY_NAME)

    def hold(self, volume_id: VolumeId, patience_s: float | None) -> NoReturn:
        assert patience_s is not None
        raise AgentError(f"{volume_id} is not let go.")

    def wake(self, *_about: object) -> None: ...


def make_half(
    tmp_path: Path, settings: str = "{}", sources: IdentitySources | None = None
) -> tuple[CloudHalf, Board]:
    """Return the cloud half of a node with two volumes, and the board it tells."""
    path, board = tmp_path / "policy.yaml", Board()
    path.write_text(POLICY % settings, "utf-8")
    for volume_id, name in ((BY_ID, "returns"), (BY_NAME, "stays")):
        board.publish(VolumeStatus(volume_id, name, Condition.READY))
    node = SimpleNamespace(workers=None, paths=Paths(tmp_path), aside=do_here, list_recorded=tuple)
    in_force = SimpleNamespace(
        policy=load_policy(path, trust_owner=True),
        present={volume_id: Seen("/dev/nvme1n1") for volume_id in (BY_ID, BY_NAME)},
        has_standins=False,
        look_around=IdentitySources,
        identity_sources=sources,
    )
    faces = SimpleNamespace(board=board, counters=SimpleNamespace(count_cloud_request=lambda *_: None))
    parts: tuple[Any, ...] = (node, faces, in_force, None, UnwillingReconciler(), lambda: None)
    return CloudHalf(*parts), board


def list_asked(board: Board) -> set[VolumeId | None]:
    """Return the volumes that were to be let go."""
    events = board.history.latest()
    return {event.volume_id for event in events if event.name is EventName.VOLUME_NOT_LET_GO}


@pytest.mark.parametrize(("action", "leaving"), [("terminate", {BY_ID, BY_NAME}), ("stop", {BY_ID})])
async def test_only_what_comes_back_leaves_an_instance_that_is_stopped(
    tmp_path: Path, action: str, leaving: set[VolumeId]
) -> None:
    """Of one that is terminated all is to be free; one that is stopped would miss the rest when it starts."""
    async with serving() as metadata:
        metadata.notice = json.dumps({**NOTICE, "action": action}).encode()
        half, board = make_half(tmp_path, sources=metadata.surroundings)
        await half.interruptions.look()
    assert list_asked(board) == leaving
    names = [event.name for event in board.history.latest()]
    assert (names[0], names[-1]) == (EventName.INSTANCE_INTERRUPTED, EventName.INSTANCE_LEFT)
    assert board.ending is not None
    assert board.ending.cause is EndCause.SPOT_INTERRUPTION
    assert f"AWS is about to {action} this instance" in board.ending.text


async def test_only_what_comes_back_leaves_a_machine_that_is_powered_off(tmp_path: Path) -> None:
    """It may be started again, be it stopped or terminated: nobody knows here."""
    half, board = make_half(tmp_path)
    await half.leave_before_power_off()
    assert list_asked(board) == {BY_ID}
    assert board.ending is not None
    assert board.ending.cause is EndCause.POWER_OFF
    left = board.history.latest()[-1]
    assert (left.name, left.fields) == (EventName.INSTANCE_LEFT, {"volumes": 1, "left": [BY_ID]})


@pytest.mark.parametrize(
    ("settings", "is_wanted"),
    [
        ("{}", False),
        ("{release_on: [spot-interruption]}", False),
        ("{release_on: [power-off]}", True),
        ("{release_on: [spot-interruption, power-off]}", True),
        ("{release_on: [power-off], attach_api: none}", False),
        ("{release_on: [power-off], enabled: false}", False),
        ("{release_on: [power-off], enabled: true, attach_api: ec2}", True),
    ],
)
def test_policy_says_whether_volumes_leave_at_a_power_off(
    tmp_path: Path, settings: str, *, is_wanted: bool
) -> None:
    """Not by itself, and not where nothing would detach them."""
    assert make_half(tmp_path, settings)[0].leaves_at_power_off is is_wanted
