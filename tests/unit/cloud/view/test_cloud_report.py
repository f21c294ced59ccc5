"""What the cloud half says reaches the status of the volume it is about, and no other."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from agent.cloud.view.cloud_report import explain_fault
from agent.core.model import Condition, Expected, Reason
from agent.core.steps import Refuse, Wait
from agent.policy.reading import load_policy
from agent.report.board.board import Board
from agent.report.board.volume_status import VolumeStatus
from tests.unit.report.samples import CHECKPOINTS, make_status

WAITING = make_status(
    name="ckpt",
    condition=Condition.PENDING,
    reason=Reason.WAITING_FOR_CLOUD,
    message="what it was made from is asked",
)
READY = make_status(name="ckpt")
SHRINKING = Refuse(Reason.NOT_GROWN, "volumes never shrink", "say the size it has")
DENIED = Wait(Reason.PERMISSION_DENIED, "ec2:DescribeVolumes is missing", "add it")


async def fall_over() -> None:
    """Meet a bug as the cloud half does: in a task of a group."""

    async def read() -> None:
        raise KeyError("Volumes")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)


def find(board: Board) -> VolumeStatus:
    status = board.find("ckpt")
    assert status is not None
    return status


def test_volume_that_is_not_here_says_why() -> None:
    """An entry without a volume has the reason the cloud half gave."""
    board = Board()
    board.expect([Expected("ckpt", None, is_required=True)])
    board.explain_by_cloud({"ckpt": DENIED}, {})
    assert (find(board).reason, find(board).hint) == (Reason.PERMISSION_DENIED, "add it")


def test_volume_in_use_is_degraded_by_what_cannot_be_changed() -> None:
    """A notice about a volume that is ready degrades it, until it is taken back."""
    board = Board()
    board.publish(READY)
    board.explain_by_cloud({}, {"ckpt": SHRINKING})
    assert (find(board).condition, find(board).message) == (Condition.DEGRADED, "volumes never shrink")
    board.explain_by_cloud({}, {})
    assert find(board).condition is Condition.READY


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (WAITING, Reason.CLOUD_ERROR),
        (READY, None),
        (make_status(name="ckpt", condition=Condition.REFUSED, reason=Reason.NOT_BLANK), Reason.NOT_BLANK),
        (
            make_status(name="ckpt", condition=Condition.PENDING, reason=Reason.STALE_MOUNT),
            Reason.STALE_MOUNT,
        ),
    ],
)
def test_blank_volume_that_waits_for_a_cloud_half_that_fell_over_says_so(
    tmp_path: Path, status: VolumeStatus, reason: Reason | None
) -> None:
    """A bug in the cloud half is told of the volume that waits for its answer, and of nothing else."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"version: 1\nvolumes: [{{name: ckpt, match: {{volume_id: {CHECKPOINTS}}}, block: {{}}}}]\n", "utf-8"
    )
    board = Board()
    board.publish(status)
    with pytest.raises(Exception, match="unhandled errors in a TaskGroup") as raised:
        anyio.run(fall_over)
    board.explain_by_cloud(explain_fault(load_policy(path, trust_owner=True), raised.value), {})
    assert find(board).reason is reason
    if reason is Reason.CLOUD_ERROR:
        assert "KeyError: 'Volumes'" in str(find(board).message)
        assert "bug of the agent" in str(find(board).hint)
