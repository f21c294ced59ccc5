"""How the scheduled snapshots of a volume are, as AWS described them last."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class SnapshotFacts(Struct, frozen=True):
    """What is known of the snapshots that a schedule of the policy has had taken of a volume."""

    entry: str
    """The policy's name of the volume, whose schedule it is."""
    last_completed_at: datetime | None
    """When the newest completed one began, by AWS's clock: what it holds is of then. None: there is none."""
    due_at: datetime | None
    """When the next one after that is due, or was. None: no minute of the schedule is known to follow."""
    completed: int
    failed: tuple[str, ...] = ()
    """IDs of those that failed at AWS and are still there."""
