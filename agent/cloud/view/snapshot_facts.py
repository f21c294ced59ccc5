"""Works out how the scheduled snapshots of a volume are, from nothing but what AWS describes of them.

So it reads the same after a restart, and on another node that has the volume now.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent.cloud.aws.models import TAG_FROZEN, CloudSnapshot, CloudVolume
from agent.cloud.plan.snapshot_schedule import read_tick
from agent.core.model import SnapshotFacts
from agent.core.units import find_time
from agent.policy.entries import SnapshotsEntry

_CLOCK_ERROR = timedelta(minutes=10)
"""How far the clock of a node may be ahead of AWS's, for a snapshot of its minute to be begun before it."""


def is_proven(entry: SnapshotsEntry, one: CloudSnapshot) -> bool:
    """Tell whether a snapshot counts: writes were held when it began, where the policy wants that."""
    return not (entry.freeze and one.tag(TAG_FROZEN) == "no")


def find_facts(
    name: str, entry: SnapshotsEntry, volume: CloudVolume, snapshots: Sequence[CloudSnapshot]
) -> SnapshotFacts:
    """Return how the ``snapshots`` are that the schedule of ``entry`` has had taken of ``volume``."""
    completed = [one for one in snapshots if one.state == "completed" and is_proven(entry, one)]
    begun = [at for one in completed if (at := find_time(one.started_at)) is not None]
    served = _find_served(completed, snapshots, volume)
    return SnapshotFacts(
        entry=name,
        last_completed_at=max(begun, default=None),
        due_at=None if served is None else entry.schedule.find_next(served),
        completed=len(completed),
        failed=tuple(one.snapshot_id for one in snapshots if one.state == "error"),
    )


def find_failed(entry: SnapshotsEntry, snapshots: Sequence[CloudSnapshot]) -> tuple[CloudSnapshot, ...]:
    """Return those that came to nothing since the newest one that counts."""
    counted = [one.started_at for one in snapshots if one.state == "completed" and is_proven(entry, one)]
    newest = max(counted, default="")
    return tuple(
        one
        for one in snapshots
        if one.started_at > newest and (one.state == "error" or not is_proven(entry, one))
    )


def _find_served(
    completed: Sequence[CloudSnapshot], snapshots: Sequence[CloudSnapshot], volume: CloudVolume
) -> datetime | None:
    """Return until when the schedule is served: what is due later is not.

    Before any has completed the first that was begun is due: an old volume may have a new schedule. Before
    that nothing tells since when there is a schedule but the volume's own time.
    """
    if completed:
        return max((at for one in completed if (at := _find_end(one)) is not None), default=None)
    if snapshots:
        return min(map(read_tick, snapshots)) - timedelta(minutes=1)
    return find_time(volume.created_at)


def _find_end(one: CloudSnapshot) -> datetime | None:
    """Return until when one snapshot serves: when it began by AWS's clock, or its minute if that is later.

    A minute that is much later is of a clock that ran ahead, and would keep what is due from being told.
    """
    begun, tick = find_time(one.started_at), read_tick(one)
    if begun is None:
        return None
    return max(begun, tick) if tick - begun < _CLOCK_ERROR else begun
