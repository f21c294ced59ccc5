"""Decides when a snapshot is due, what is to be done about those taken, and which one may go.

Deletes only snapshots that carry the agent's mark, this volume's and this schedule's; never the newest
completed one, never more than the policy's ``keep`` calls for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from agent.cloud.calls import CreateSnapshot, DeleteSnapshot, EnableFastSnapshotRestores, LockSnapshot
from agent.cloud.values import (
    MADE_BY,
    TAG_MADE_BY,
    TAG_SCHEDULE,
    TAG_TICK,
    TAG_VOLUME,
    CloudSnapshot,
    CloudVolume,
)
from agent.policy.cron import Schedule
from agent.policy.entries import SnapshotsEntry

TAG_KEPT = "ebs-agent:kept"
"""Set once a snapshot is locked and fast to restore as wanted, so that this is not asked for again."""

_CATCH_UP = timedelta(days=1)
"""How late a snapshot may still be taken: a node that was off for a week takes one, not none and not many."""


def find_tick(schedule: Schedule, last_tick: datetime | None, now: datetime) -> datetime | None:
    """Return the newest minute at which a snapshot was due and that none was taken for; None: none is due."""
    start = now - _CATCH_UP
    if last_tick is not None and last_tick > start:
        start = last_tick
    tick: datetime | None = None
    following = schedule.find_next(start)
    while following is not None and following <= now:
        tick = following
        following = schedule.find_next(tick)
    return tick


def find_scheduled(
    name: str, volume: CloudVolume, snapshots: Sequence[CloudSnapshot]
) -> tuple[CloudSnapshot, ...]:
    """Return the snapshots the agent made of this volume for this entry's schedule, oldest tick first."""
    marks = {TAG_MADE_BY: MADE_BY, TAG_VOLUME: str(volume.volume_id), TAG_SCHEDULE: name}
    found = (
        one
        for one in snapshots
        if one.volume_id == volume.volume_id
        and all(one.tag(key) == value for key, value in marks.items())
        and parse_tick(one.tag(TAG_TICK)) is not None
    )
    return tuple(sorted(found, key=lambda one: (one.tag(TAG_TICK) or "", one.started_at, one.snapshot_id)))


def parse_tick(text: str | None) -> datetime | None:
    """Return the minute a tag names, or None where it names none."""
    try:
        return datetime.strptime(text or "", _TICK_FORMAT).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


_TICK_FORMAT = "%Y-%m-%dT%H:%MZ"


def plan_snapshot(
    name: str,
    entry: SnapshotsEntry,
    volume: CloudVolume,
    snapshots: Sequence[CloudSnapshot],
    now: datetime,
) -> CreateSnapshot | None:
    """Return the snapshot that is due of ``volume``; None while one is pending or none is due.

    A volume that was just made has no first tick behind it: the schedule starts with the volume.
    """
    taken = find_scheduled(name, volume, snapshots)
    if any(one.state == "pending" for one in taken):
        return None
    ticks = [tick for one in taken if (tick := parse_tick(one.tag(TAG_TICK))) is not None]
    last = max(ticks, default=_parse_time(volume.created_at))
    tick = find_tick(entry.schedule, last, now)
    if tick is None:
        return None
    own = {
        TAG_MADE_BY: MADE_BY,
        TAG_VOLUME: str(volume.volume_id),
        TAG_SCHEDULE: name,
        TAG_TICK: tick.strftime(_TICK_FORMAT),
    }
    tags = {"Name": f"{name} {own[TAG_TICK]}", **dict(entry.tags), **own}
    return CreateSnapshot(volume.volume_id, f"{name}, due {own[TAG_TICK]}", tuple(sorted(tags.items())))


def _parse_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def plan_protection(
    entry: SnapshotsEntry, taken: Sequence[CloudSnapshot]
) -> tuple[LockSnapshot | EnableFastSnapshotRestores, ...]:
    """Return the locks and fast restores still to be asked for, of completed snapshots without the mark."""
    wanted: list[LockSnapshot | EnableFastSnapshotRestores] = []
    for one in taken:
        if one.state != "completed" or one.tag(TAG_KEPT) is not None:
            continue
        if entry.lock is not None:
            days = int(entry.lock.duration_s // 86400)
            wanted.append(LockSnapshot(one.snapshot_id, entry.lock.mode, days))
        if entry.fast_restore_zones:
            wanted.append(EnableFastSnapshotRestores(one.snapshot_id, entry.fast_restore_zones))
    return tuple(wanted)


def plan_retention(keep: int | None, taken: Sequence[CloudSnapshot]) -> tuple[DeleteSnapshot, ...]:
    """Return which of the schedule's snapshots are to go: the oldest beyond ``keep`` completed ticks.

    Failed ones go as soon as a newer one has completed. Several of one tick count as one, and all but the
    first completed go: they are what a lost answer leaves behind.
    """
    if keep is None:
        return ()
    completed = [one for one in taken if one.state == "completed"]
    firsts: dict[str, CloudSnapshot] = {}
    for one in completed:
        firsts.setdefault(str(one.tag(TAG_TICK)), one)
    kept_ticks = set(sorted(firsts)[-max(keep, 1) :])
    if not kept_ticks:
        return ()
    kept = {firsts[tick].snapshot_id for tick in kept_ticks}
    newest = max(kept_ticks)
    going = [one for one in completed if one.snapshot_id not in kept]
    going += [one for one in taken if one.state == "error" and str(one.tag(TAG_TICK)) < newest]
    return tuple(DeleteSnapshot(one.snapshot_id) for one in going)
