"""Decides when a snapshot is due, what is to be done about those taken, and which one may go.

Deletes only snapshots that carry the agent's mark, this volume's and this schedule's; never the newest
completed one, never more than the policy's ``keep`` calls for, and none at all without it. Which is newer is
told by AWS's clock, which all snapshots share; a tick is of the clock of the node that took it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from itertools import groupby
from typing import TypeAlias

from agent.cloud.aws.calls import (
    CreateSnapshot,
    CreateTags,
    DeleteSnapshot,
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    LockSnapshot,
)
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_MADE_BY,
    TAG_SCHEDULE,
    TAG_TICK,
    TAG_VOLUME,
    CloudSnapshot,
    CloudVolume,
)
from agent.core.replace import replace
from agent.core.units import find_time
from agent.policy.entries import SnapshotsEntry
from agent.policy.values.cron import Schedule

TAG_LOCKED = "ebs-agent:locked-until"
"""When the lock of a snapshot ends, ISO 8601; set once it is locked, so that this is not asked for again."""
TAG_FAST = "ebs-agent:fast-restore"
"""The zones a snapshot is fast to restore in, joined by commas; ``off`` where that was ended."""
_NO_ZONES = "off"
_KNOWN_BEFORE = "ebs-agent:kept"
"""What stood for both before they had tags of their own; when that lock ends is not known."""

_CATCH_UP = timedelta(days=1)
"""How late a snapshot may still be taken: a node that was off for a week takes one, not none and not many."""


def find_tick(schedule: Schedule, last_tick: datetime | None, now: datetime) -> datetime | None:
    """Return the newest minute at which a snapshot was due and that none was taken for; None: none is due."""
    start = now - _CATCH_UP
    return schedule.find_last(now, start if last_tick is None else max(start, last_tick))


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
        and _parse_tick(one.tag(TAG_TICK)) is not None
    )
    return tuple(sorted(found, key=lambda one: (one.tag(TAG_TICK) or "", one.started_at, one.snapshot_id)))


def read_tick(one: CloudSnapshot) -> datetime:
    """Return the minute a snapshot of a schedule was due at."""
    tick = _parse_tick(one.tag(TAG_TICK))
    if tick is None:
        raise ValueError(f"{one.snapshot_id} is of no schedule")
    return tick


def _parse_tick(text: str | None) -> datetime | None:
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

    A volume that was just made has no first tick behind it: the schedule starts with the volume. A snapshot
    that failed is none, and nor is one of a time to come: a clock that once ran ahead stops nothing.
    """
    taken = find_scheduled(name, volume, snapshots)
    if any(one.state == "pending" for one in taken):
        return None
    ticks = [due for one in taken if one.state != "error" and (due := read_tick(one)) <= now]
    last = max(ticks) if ticks else find_time(volume.created_at)
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


def plan_next_snapshot(
    name: str,
    entry: SnapshotsEntry,
    volume: CloudVolume,
    snapshots: Sequence[CloudSnapshot],
    now: datetime,
    *,
    is_due_given_up: bool = False,
) -> tuple[CreateSnapshot, datetime] | None:
    """Return what ``plan_snapshot`` is going to decide, and from when on, if all that is pending completes.

    ``is_due_given_up``: what is due now is not taken any more.
    """
    following = entry.schedule.find_next(now)
    for at in filter(None, (None if is_due_given_up else now, following)):
        done = [replace(one, state="completed") if one.state == "pending" else one for one in snapshots]
        call = plan_snapshot(name, entry, volume, done, at)
        if call is not None:
            tick = _parse_tick(dict(call.tags)[TAG_TICK])
            return call, tick or at
    return None


# -- Those that are taken ------------------------------------------------------------------------------------


def plan_locks(entry: SnapshotsEntry, taken: Sequence[CloudSnapshot]) -> tuple[LockSnapshot, ...]:
    """Return the locks still to be asked for, of completed snapshots."""
    if entry.lock is None:
        return ()
    days = int(entry.lock.duration_s // 86400)
    return tuple(
        LockSnapshot(one.snapshot_id, entry.lock.mode, days)
        for one in taken
        if one.state == "completed" and one.tag(TAG_LOCKED) is None and one.tag(_KNOWN_BEFORE) is None
    )


def mark_locked(call: LockSnapshot, end: str | None, now: datetime) -> CreateTags:
    """Return the call that notes a lock, by when AWS says it ends, else by when it should."""
    planned = call.expires_at or (now + timedelta(days=call.duration_days or 0)).isoformat(timespec="seconds")
    until = end or planned
    return CreateTags(call.snapshot_id, ((TAG_LOCKED, until),))


def is_locked(one: CloudSnapshot, now: datetime) -> bool:
    """Tell whether the agent's own lock still keeps a snapshot from being deleted."""
    end = find_time(one.tag(TAG_LOCKED) or "")
    return end is not None and end > now


SwitchFastRestores: TypeAlias = "DisableFastSnapshotRestores | EnableFastSnapshotRestores"


def plan_fast_restores(
    entry: SnapshotsEntry, staying: Sequence[CloudSnapshot], others: Sequence[CloudSnapshot] = ()
) -> tuple[tuple[SwitchFastRestores, CreateTags], ...]:
    """Return what is to be switched now, each with the note of what is in force then; one switch a snapshot.

    Of those that stay the newest completed ones are fast, as many as the policy says: each costs by the hour
    and zone.
    """
    completed = sorted((one for one in staying if one.state == "completed"), key=_by_age)
    fast = completed[-entry.fast_restore_count :] if entry.fast_restore_zones else []
    switches: list[tuple[SwitchFastRestores, CreateTags]] = []
    for one in (*completed, *others):
        wanted = set(entry.fast_restore_zones) if one in fast else set()
        present = _list_fast_zones(one, entry)
        if present - wanted:
            disable = DisableFastSnapshotRestores(one.snapshot_id, tuple(sorted(present - wanted)))
            switches.append((disable, _mark_fast(one, wanted & present)))
        elif wanted - present:
            enable = EnableFastSnapshotRestores(one.snapshot_id, tuple(sorted(wanted - present)))
            switches.append((enable, _mark_fast(one, wanted)))
    return tuple(switches)


def _list_fast_zones(one: CloudSnapshot, entry: SnapshotsEntry) -> set[str]:
    noted = one.tag(TAG_FAST)
    if noted is None:
        return set(entry.fast_restore_zones) if one.tag(_KNOWN_BEFORE) is not None else set()
    return set() if noted == _NO_ZONES else set(noted.split(","))


def _mark_fast(one: CloudSnapshot, zones: set[str]) -> CreateTags:
    return CreateTags(one.snapshot_id, ((TAG_FAST, ",".join(sorted(zones)) or _NO_ZONES),))


def is_fast(one: CloudSnapshot) -> bool:
    """Tell whether fast restores of a snapshot are on, by the agent's note: it cannot be deleted then."""
    return one.tag(TAG_FAST) not in {None, _NO_ZONES}


def plan_retention(
    keep: int | None, proven: Sequence[CloudSnapshot], unproven: Sequence[CloudSnapshot] = ()
) -> tuple[DeleteSnapshot, ...]:
    """Return which of the schedule's snapshots are to go: the oldest beyond ``keep`` completed ticks.

    Failed ones go as soon as a newer one has completed. Several of one tick, one after the other, count as
    one, and all but the first completed go: they are what a lost answer leaves behind. ``unproven``: begun
    too late to be known as consistent; they go once a proven one that is newer has completed, and are kept
    like proven ones until then.
    """
    if keep is None:
        return ()
    newest = max((one.started_at for one in proven if one.state == "completed"), default="")
    passed = [one for one in unproven if one.state != "pending" and one.started_at < newest]
    left = [one for one in unproven if one not in passed]
    going = [*_list_surplus(keep, proven), *passed, *_list_surplus(keep, left)]
    return tuple(DeleteSnapshot(one.snapshot_id) for one in going)


def _list_surplus(keep: int, taken: Sequence[CloudSnapshot]) -> list[CloudSnapshot]:
    """Return what goes of snapshots of one kind."""
    completed = sorted((one for one in taken if one.state == "completed"), key=_by_age)
    firsts = [next(same) for _, same in groupby(completed, key=lambda one: one.tag(TAG_TICK))]
    kept = firsts[-max(keep, 1) :]
    if not kept:
        return []
    failed = [one for one in taken if one.state == "error" and one.started_at < kept[-1].started_at]
    return [*(one for one in completed if one not in kept), *failed]


def _by_age(one: CloudSnapshot) -> tuple[str, str]:
    return one.started_at, one.snapshot_id
