"""Takes the snapshots that are due, and tends those taken: locks, fast restores, deletions.

A snapshot counts as consistent only once AWS answered while the filesystem was still frozen; one whose answer
came too late is not, and another is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from agent.cloud import recent
from agent.cloud.call import Change, Make
from agent.cloud.calls import (
    CreateSnapshot,
    CreateTags,
    DeleteSnapshot,
    DescribeSnapshots,
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    LockSnapshot,
)
from agent.cloud.departures import TAG_FINAL
from agent.cloud.errors import CloudError, Failure, explain_failure
from agent.cloud.findings import FREEZE_LIMIT_S
from agent.cloud.frozen_snapshot import Freeze, take_snapshot
from agent.cloud.snapshot_answers import ZoneRefusal
from agent.cloud.snapshot_facts import find_facts, is_proven
from agent.cloud.snapshots import (
    SwitchFastRestores,
    find_scheduled,
    is_fast,
    is_locked,
    mark_locked,
    plan_fast_restores,
    plan_locks,
    plan_retention,
    plan_snapshot,
)
from agent.cloud.values import (
    MADE_BY,
    TAG_FROZEN,
    TAG_MADE_BY,
    TAG_ON_DELETE,
    TAG_TICK,
    CloudSnapshot,
    CloudVolume,
)
from agent.log import get_logger
from agent.model import Reason, SnapshotFacts, VolumeId
from agent.policy.entries import SnapshotsEntry
from agent.steps import Wait

T = TypeVar("T")

MOST_ATTEMPTS = 2
"""Snapshots that may be begun for one tick: they cost money, and what keeps them unproven may last."""

REFUSED_PAUSE_S = 3600.0
"""Until what AWS would not have deleted is tried again: a lock or an image of somebody's may last long."""

log = get_logger(__name__)


@dataclass
class _Rest:
    """A volume whose snapshots need nothing for a while."""

    entry: SnapshotsEntry
    """By identity: a policy that was read again has everything tried again."""
    until: datetime
    notice: Wait | None = None


class SnapshotKeeper:
    """Keeps volumes' snapshots as their schedules say, and describes them only when that may matter."""

    def __init__(self, make: Make, freeze: Freeze, now: Callable[[], datetime]) -> None:
        self._make = make
        self._freeze = freeze
        self._now = now
        self._taken: dict[VolumeId, tuple[str, datetime]] = {}
        """The snapshot taken last of each volume, and when, until it is described."""
        self._rests: dict[VolumeId, _Rest] = {}
        self._kept: dict[str, tuple[datetime, Wait]] = {}
        """By ID, snapshots AWS would not have deleted: until when they are let be, and why."""
        self._facts: dict[VolumeId, SnapshotFacts] = {}
        """What was described last of each volume's snapshots."""

    def count_seconds_to_next(self) -> float | None:
        """Return how long until the next snapshot is due of a volume that rests; None where none does."""
        now = self._now()
        left = [(rest.until - now).total_seconds() for rest in self._rests.values() if rest.until > now]
        return min(left, default=None)

    def list_facts(
        self, here: Collection[VolumeId], scheduled: Collection[str]
    ) -> Mapping[VolumeId, SnapshotFacts]:
        """Return what was described last of the snapshots of volumes; what is of others is done with.

        ``here``: those attached here. ``scheduled``: the entries that have a schedule.
        """
        self._rests = {volume_id: rest for volume_id, rest in self._rests.items() if volume_id in here}
        self._facts = {
            volume_id: facts
            for volume_id, facts in self._facts.items()
            if volume_id in here and facts.entry in scheduled
        }
        return dict(self._facts)

    async def tend(self, name: str, entry: SnapshotsEntry, volume: CloudVolume) -> Wait | None:
        """Take the snapshot that is due, or lock, speed up and delete those taken; returns a notice."""
        now = self._now()
        rest = self._rests.get(volume.volume_id)
        if rest is not None and rest.entry is entry and now < rest.until:
            return rest.notice
        snapshots = find_scheduled(name, volume, await self._describe(volume.volume_id))
        proven = [one for one in snapshots if is_proven(entry, one)]
        self._facts[volume.volume_id] = find_facts(name, entry, volume, snapshots)
        if self._is_unseen(volume.volume_id, proven, now):
            return None
        due = plan_snapshot(name, entry, volume, proven, now)
        given_up = None if due is None else _find_given_up(due, snapshots)
        if due is not None and given_up is None:
            taken = await take_snapshot(self._make, self._freeze if entry.freeze else None, due)
            self._taken[volume.volume_id] = (taken.snapshot_id, now)
            return None
        unproven = [one for one in snapshots if one not in proven]
        going = plan_retention(entry.keep, proven, unproven)
        postponed = {one.snapshot_id for one in snapshots if is_fast(one)}
        staying = [one for one in proven if one.snapshot_id not in {call.snapshot_id for call in going}]
        switches = plan_fast_restores(entry, staying, [one for one in snapshots if one not in staying])
        refused = await self._protect(plan_locks(entry, staying), switches)
        gone, kept = await self._delete([one for one in going if one.snapshot_id not in postponed], snapshots)
        left = [one for one in snapshots if one.snapshot_id not in gone]
        self._facts[volume.volume_id] = find_facts(name, entry, volume, left)
        notice = refused or kept or given_up
        is_pending = any(one.state == "pending" for one in proven)
        is_switching = any(isinstance(call, DisableFastSnapshotRestores) for call, _ in switches)
        following = entry.schedule.find_next(now)
        if not is_pending and not (is_switching and refused is None) and following is not None:
            retried = now + timedelta(seconds=REFUSED_PAUSE_S)
            until = following if notice is None else min(following, retried)
            self._rests[volume.volume_id] = _Rest(entry, until, notice)
        return notice

    def _is_unseen(self, volume_id: VolumeId, counted: Sequence[CloudSnapshot], now: datetime) -> bool:
        """Return whether the last snapshot is not described yet, or not yet as proven: then none is due."""
        snapshot_id, taken_at = self._taken.get(volume_id, ("", now))
        is_seen = snapshot_id in {one.snapshot_id for one in counted}
        if is_seen or now - taken_at > timedelta(seconds=recent.LIMIT_S):
            self._taken.pop(volume_id, None)
        return volume_id in self._taken

    async def _describe(self, volume_id: VolumeId) -> Sequence[CloudSnapshot]:
        filters = (("volume-id", (volume_id,)), (f"tag:{TAG_MADE_BY}", (MADE_BY,)))
        found: Sequence[CloudSnapshot] = await self._make(DescribeSnapshots(filters))
        return found

    async def _protect(
        self, locks: Sequence[LockSnapshot], switches: Sequence[tuple[SwitchFastRestores, CreateTags]]
    ) -> Wait | None:
        """Lock what is to be locked, and have the newest fast to restore; returns what AWS refused first.

        A snapshot that exists without its lock is better than none, so what is refused is told, and no more.
        """
        notices = [await self._lock(lock) for lock in locks]
        notices += [await self._switch(switch, note) for switch, note in switches]
        return next(filter(None, notices), None)

    async def _lock(self, call: LockSnapshot) -> Wait | None:
        try:
            end = await self._change(call)
            await self._make(mark_locked(call, end, self._now()))
        except CloudError as error:
            return _tell(error)
        return None

    async def _switch(self, call: SwitchFastRestores, note: CreateTags) -> Wait | None:
        try:
            refusals = await self._change(call)
            # What is to end, and AWS says is not on, has ended.
            if refusals and isinstance(call, EnableFastSnapshotRestores):
                return _tell(_explain_refusal(call, refusals))
            await self._make(note)
        except CloudError as error:
            return _tell(error)
        return None

    async def _delete(
        self, calls: Sequence[DeleteSnapshot], snapshots: Sequence[CloudSnapshot]
    ) -> tuple[set[str], Wait | None]:
        """Delete snapshots, each whatever comes of the others; returns those gone, and why one of them stays.

        One that the agent itself has locked is waited for and not told of.
        """
        now = self._now()
        locked = {one.snapshot_id for one in snapshots if is_locked(one, now)}
        gone: set[str] = set()
        notices: list[Wait] = []
        for call in calls:
            until, why = self._kept.get(call.snapshot_id, (now, None))
            if call.snapshot_id in locked:
                continue
            if why is not None and now < until:
                notices.append(why)
                continue
            why = await self._try_to_delete(call)
            if why is None:
                gone.add(call.snapshot_id)
                self._kept.pop(call.snapshot_id, None)
                continue
            notices.append(why)
            self._kept[call.snapshot_id] = (now + timedelta(seconds=REFUSED_PAUSE_S), why)
            if why.reason is Reason.PERMISSION_DENIED:
                break  # as would be every other
        return gone, next(iter(notices), None)

    async def _try_to_delete(self, call: DeleteSnapshot) -> Wait | None:
        try:
            await self._change(call)
        except CloudError as error:
            return None if error.code == "InvalidSnapshot.NotFound" else _tell(error)
        return None

    async def _change(self, call: Change[T]) -> T:
        answer = await self._make(call)
        log.info("cloud.called", operation=call.operation, what=call.describe())
        return answer

    async def find_final(self, volume: CloudVolume) -> Sequence[CloudSnapshot]:
        """Return the snapshots taken before the deletion of a volume whose claim is gone."""
        filters = ((f"tag:{TAG_FINAL}", (str(volume.volume_id),)), (f"tag:{TAG_MADE_BY}", (MADE_BY,)))
        if volume.tag(TAG_ON_DELETE) != "snapshot":
            return ()
        found: Sequence[CloudSnapshot] = await self._make(DescribeSnapshots(filters))
        return found


def _tell(error: CloudError) -> Wait:
    return Wait(error.reason or Reason.CLOUD_ERROR, error.message, error.hint)


def _explain_refusal(call: EnableFastSnapshotRestores, refusals: Sequence[ZoneRefusal]) -> CloudError:
    """Return what AWS refused in an answer that is a success by itself."""
    zones = ", ".join(refusal.zone for refusal in refusals)
    first = refusals[0]
    failure = Failure(call.service, call.operation, first.code, first.message)
    return explain_failure(failure, f"{call.snapshot_id} in {zones}")


def _find_given_up(due: CreateSnapshot, snapshots: Sequence[CloudSnapshot]) -> Wait | None:
    """Return why a snapshot that is due is not taken again: it was, as often as it may be, and failed."""
    tick = dict(due.tags)[TAG_TICK]
    attempts = [one for one in snapshots if one.tag(TAG_TICK) == tick]
    if len(attempts) < MOST_ATTEMPTS:
        return None
    failed = [one.snapshot_id for one in attempts if one.state == "error"]
    if failed:
        return Wait(
            Reason.CLOUD_ERROR,
            f"The snapshot of {due.volume_id} due {tick} failed at AWS: {', '.join(failed)}.",
            hint="The EC2 console shows the reason with each; a KMS key that was disabled is a usual one. "
            "The next snapshot is taken when it is due.",
        )
    return Wait(
        Reason.CLOUD_ERROR,
        f"The snapshot of {due.volume_id} due {tick} was begun {len(attempts)} times, never provably while "
        "writes were held.",
        hint=f"AWS has to answer within {FREEZE_LIMIT_S:.0f} s and allow ec2:CreateTags on snapshots. Those "
        f"taken carry the tag {TAG_FROZEN}=no. The next one is taken when it is due.",
    )
