"""The call that asks how snapshots are locked, and what it says of each.

Source: the EC2 API reference, ``LockedSnapshotsInfo``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import Members
from agent.cloud.aws.call import Call, SentAs


class HeldLock(Struct, frozen=True):
    """The lock of one snapshot; of one that was never locked AWS says nothing."""

    snapshot_id: str
    state: str
    """governance | compliance-cooloff | compliance | expired"""
    duration_days: int | None = None
    """Counted from when the snapshot is complete."""
    expires_at: str | None = None
    """ISO 8601"""


def _parse_lock(value: Any) -> HeldLock:
    members = Members(value, "the lock of a snapshot")
    return HeldLock(
        members.text("SnapshotId"),
        members.text("LockState"),
        members.find_number("LockDuration"),
        members.find_text("LockExpiresOn"),
    )


@dataclass(frozen=True)
class DescribeLockedSnapshots(Call[tuple[HeldLock, ...]], pages="Snapshots", reads=_parse_lock):
    """The locks of these snapshots, ended ones too."""

    snapshot_ids: Annotated[tuple[str, ...], SentAs("SnapshotIds")]
