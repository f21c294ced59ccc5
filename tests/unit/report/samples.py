"""Statuses and a clock for tests of what reports them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from agent.core.model import AttachmentPlaces, Condition, Reason, VolumeId
from agent.core.replace import replace
from agent.report.board.board import Board
from agent.report.board.volume_status import PlannedStep, StepOutcome, Usage, VolumeStatus

CHECKPOINTS = VolumeId("vol-0123456789abcdef0")
DATASETS = VolumeId("vol-0fedcba9876543210")
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=timezone.utc)
GIB = 1 << 30


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


READY = VolumeStatus(
    volume_id=CHECKPOINTS,
    name="checkpoints",
    condition=Condition.READY,
    device="/dev/nvme1n1",
    path="/data/ckpt",
    fstype="ext4",
    size_bytes=500 * GIB,
    usage=Usage(size_bytes=490 * GIB, avail_bytes=245 * GIB, files=1000, files_free=900),
    is_required=True,
    last_step=StepOutcome("mount", "mount at /data/ckpt (rw)", "done", NOON),
    facts=(("device", "/dev/nvme1n1 (259:0)"), ("content", "ext4")),
)

REFUSED = VolumeStatus(
    volume_id=DATASETS,
    name="datasets",
    condition=Condition.REFUSED,
    reason=Reason.NOT_BLANK,
    message="Volume datasets holds data.",
    hint="Mount it with format: never.",
    device="/dev/nvme2n1",
    size_bytes=10 * GIB,
    plan=(PlannedStep("refuse", "refuse: Volume datasets holds data.", "Mount it with format: never."),),
)


def make_status(status: VolumeStatus = READY, **changes: Any) -> VolumeStatus:
    return replace(status, **changes)


def make_board(*statuses: VolumeStatus, is_looked_at: bool = True) -> Board:
    board = Board(now=Clock())
    for status in statuses:
        board.publish(status)
    if is_looked_at:
        board.finish_first_look()
    return board


def make_places(instance_type: str, *attached: VolumeId) -> AttachmentPlaces:
    """Return the 27 places of an instance, one of which AWS says its root volume has."""
    root = VolumeId("vol-0000000000000000f")
    return AttachmentPlaces(instance_type, 27, is_shared=True, attached=frozenset({root, *attached}))
