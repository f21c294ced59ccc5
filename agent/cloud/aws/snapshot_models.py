"""What AWS answers about locks and fast restores of snapshots, and the call that asks how they are locked.

Source: the EC2 API reference, ``LockedSnapshotsInfo``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import Members, clean
from agent.cloud.aws.call import Call, SentAs

_ZONES_LIMIT = 64
"""No region has as many, and a call of the agent names one snapshot."""
_MESSAGE_LIMIT = 8192


class ZoneRefusal(Struct, frozen=True):
    """Why fast restores of a snapshot were not switched in one zone."""

    zone: str
    code: str
    message: str


def parse_zone_refusals(value: Any) -> tuple[ZoneRefusal, ...]:
    """Return what ``Unsuccessful`` of a call about fast restores says; the call itself has succeeded."""
    members = Members(value, "an answer about fast restores")
    snapshots = [
        Members(one, "a snapshot whose fast restores were refused")
        for one in members.find_list("Unsuccessful", _ZONES_LIMIT)
    ]
    return tuple(
        _parse_zone_refusal(one)
        for snapshot in snapshots
        for one in snapshot.find_list("FastSnapshotRestoreStateErrors", _ZONES_LIMIT)
    )


def _parse_zone_refusal(value: Any) -> ZoneRefusal:
    members = Members(value, "a refusal of fast restores")
    error = members.members("Error")
    message = error.find_free_text("Message", _MESSAGE_LIMIT) or ""
    return ZoneRefusal(
        members.find_text("AvailabilityZone") or "?", error.find_text("Code") or "Unknown", clean(message)
    )


def parse_lock_end(value: Any) -> str | None:
    """Return ``LockExpiresOn`` of LockSnapshot's answer, ISO 8601; None where AWS does not say."""
    return Members(value, "the lock of a snapshot").find_text("LockExpiresOn")


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
