"""Takes the snapshots that are due, and has those taken tended when there is reason to.

A snapshot counts as consistent only once AWS answered while the filesystem was still frozen; one whose answer
came too late is not, and another is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from msgspec import Struct

from agent.base.log import get_logger
from agent.cloud.aws.answer_fields import Unread, split
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import (
    CreateSnapshot,
    DescribeSnapshots,
    DisableFastSnapshotRestores,
)
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_CLAIM,
    TAG_FROZEN,
    TAG_MADE_BY,
    TAG_ON_DELETE,
    TAG_TICK,
    CloudSnapshot,
    CloudVolume,
)
from agent.cloud.errors.explain import require_read
from agent.cloud.plan.claims.last_snapshot import TAG_FINAL, explain_failed, find_failed_last
from agent.cloud.plan.snapshot_schedule import (
    find_scheduled,
    is_fast,
    plan_fast_restores,
    plan_locks,
    plan_next_snapshot,
    plan_retention,
    plan_snapshot,
)
from agent.cloud.snapshots.take_frozen import Freeze, take_snapshot
from agent.cloud.snapshots.tend_taken import REFUSED_PAUSE_S, SnapshotUpkeep
from agent.cloud.view import pending_calls
from agent.cloud.view.change_events import Record, log_event, record_changes
from agent.cloud.view.cloud_report import FREEZE_LIMIT_S
from agent.cloud.view.snapshot_facts import find_facts, find_failed, is_proven
from agent.core.model import Reason, SnapshotFacts, VolumeId
from agent.core.steps import Wait
from agent.policy.entries import SnapshotsEntry

T = TypeVar("T")

MOST_ATTEMPTS = 2
"""Snapshots that may be begun for one tick: they cost money, and what keeps them unproven may last."""

log = get_logger(__name__)


class _Rest(Struct):
    """A volume whose snapshots need nothing for a while."""

    entry: SnapshotsEntry
    """By identity: a policy that was read again has everything tried again."""
    until: datetime
    notice: Wait | None = None


class SnapshotKeeper:
    """Keeps volumes' snapshots as their schedules say, and describes them only when that may matter."""

    def __init__(
        self, make: Make, freeze: Freeze, now: Callable[[], datetime], record: Record = log_event
    ) -> None:
        self._make = make
        self._freeze = freeze
        self._now = now
        self._record = record
        self._taken: dict[VolumeId, tuple[str, datetime]] = {}
        """The snapshot taken last of each volume, and when, until it is described."""
        self._tried: dict[VolumeId, str] = {}
        """The last time for which one was taken, or meant to be."""
        self._rests: dict[VolumeId, _Rest] = {}
        self._upkeeps: dict[VolumeId, tuple[str, SnapshotUpkeep]] = {}
        """What tends each volume's snapshots, and for which entry."""
        self._next: dict[VolumeId, tuple[CreateSnapshot, datetime] | None] = {}
        """The snapshot to be taken next of each volume, and when it is due."""
        self._failed: set[str] = set()
        """Snapshots that are known to have come to nothing."""
        self._facts: dict[VolumeId, SnapshotFacts] = {}
        """What was described last of each volume's snapshots."""

    def count_seconds_to_next(self) -> float | None:
        """Return how long until the next snapshot is due of a volume that rests; None where none does."""
        now = self._now()
        left = [(rest.until - now).total_seconds() for rest in self._rests.values() if rest.until > now]
        return min(left, default=None)

    def find_next(self, volume_id: VolumeId) -> Iterator[tuple[CreateSnapshot, datetime]]:
        """Return the snapshot to be taken next of a volume, if any, and when it is due."""
        found = self._next.get(volume_id)
        if found is not None:
            yield found

    def list_facts(
        self, here: Collection[VolumeId], scheduled: Collection[str]
    ) -> Mapping[VolumeId, SnapshotFacts]:
        """Return what was described last of the snapshots of volumes; what is of others is done with.

        ``here``: those attached here. ``scheduled``: the entries that have a schedule.
        """
        self._rests = {volume_id: rest for volume_id, rest in self._rests.items() if volume_id in here}
        self._next = {volume_id: one for volume_id, one in self._next.items() if volume_id in here}
        self._upkeeps = {volume_id: one for volume_id, one in self._upkeeps.items() if volume_id in here}
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
        described, unread = split(await self._describe(volume.volume_id))
        snapshots = find_scheduled(name, volume, described)
        proven = [one for one in snapshots if is_proven(entry, one)]
        self._facts[volume.volume_id] = find_facts(name, entry, volume, snapshots)
        if self._is_unseen(volume.volume_id, proven, now):
            return None
        self._tell_failed(entry, name, volume.volume_id, snapshots)
        make = record_changes(self._make, self._record, volume_id=volume.volume_id, by="policy", entry=name)
        upkeep = self._find_upkeep(name, volume.volume_id, make)
        due = plan_snapshot(name, entry, volume, proven, now)
        given_up = None if due is None else _find_given_up(due, snapshots)
        doubt = next((Wait(Reason.CLOUD_ERROR, *one.describe()) for one in unread), None)
        if due is not None and given_up is None and self._is_tried(due):
            given_up = doubt
        self._next[volume.volume_id] = plan_next_snapshot(
            name, entry, volume, proven, now, is_due_given_up=given_up is not None
        )
        if due is not None and given_up is None:
            self._tried[volume.volume_id] = dict(due.tags)[TAG_TICK]
            taken = await take_snapshot(make, self._freeze if entry.freeze else None, due)
            self._taken[volume.volume_id] = (taken.snapshot_id, now)
            self._next[volume.volume_id] = plan_next_snapshot(name, entry, volume, [*proven, taken], now)
            return None
        unproven = [one for one in snapshots if one not in proven]
        going = plan_retention(entry.keep, proven, unproven)
        postponed = {one.snapshot_id for one in snapshots if is_fast(one)}
        staying = [one for one in proven if one.snapshot_id not in {call.snapshot_id for call in going}]
        switches = plan_fast_restores(entry, staying, [one for one in snapshots if one not in staying])
        refused = await upkeep.protect(plan_locks(entry, staying), switches)
        gone, kept = await upkeep.delete(
            [one for one in going if one.snapshot_id not in postponed], snapshots
        )
        left = [one for one in snapshots if one.snapshot_id not in gone]
        self._facts[volume.volume_id] = find_facts(name, entry, volume, left)
        notice = refused or kept or given_up or doubt
        is_pending = any(one.state == "pending" for one in proven)
        is_switching = any(isinstance(call, DisableFastSnapshotRestores) for call, _ in switches)
        following = entry.schedule.find_next(now)
        if not is_pending and not (is_switching and refused is None) and following is not None:
            retried = now + timedelta(seconds=REFUSED_PAUSE_S)
            until = following if notice is None else min(following, retried)
            self._rests[volume.volume_id] = _Rest(entry, until, notice)
        return notice

    def _find_upkeep(self, name: str, volume_id: VolumeId, make: Make) -> SnapshotUpkeep:
        if self._upkeeps.get(volume_id, ("",))[0] != name:
            self._upkeeps[volume_id] = (name, SnapshotUpkeep(make, self._now))
        return self._upkeeps[volume_id][1]

    def _tell_failed(
        self, entry: SnapshotsEntry, name: str, volume_id: VolumeId, snapshots: Sequence[CloudSnapshot]
    ) -> None:
        """Record the snapshots that came to nothing, once each: of those none has completed since."""
        for one in find_failed(entry, snapshots):
            if one.snapshot_id not in self._failed:
                self._failed.add(one.snapshot_id)
                why = "it failed at AWS" if one.state == "error" else "it began when writes were not held"
                self._record(
                    "snapshot.failed",
                    volume_id,
                    entry=name,
                    snapshot_id=one.snapshot_id,
                    due=one.tag(TAG_TICK),
                    error=f"{one.snapshot_id} does not count: {why}.",
                )

    def _is_unseen(self, volume_id: VolumeId, counted: Sequence[CloudSnapshot], now: datetime) -> bool:
        """Return whether the last snapshot is not described yet, or not yet as proven: then none is due."""
        snapshot_id, taken_at = self._taken.get(volume_id, ("", now))
        is_seen = snapshot_id in {one.snapshot_id for one in counted}
        if is_seen or now - taken_at > timedelta(seconds=pending_calls.LIMIT_S):
            self._taken.pop(volume_id, None)
        return volume_id in self._taken

    def _is_tried(self, due: CreateSnapshot) -> bool:
        """Return whether one was taken for this time already: it may be the one that cannot be read."""
        return self._tried.get(due.volume_id) == dict(due.tags)[TAG_TICK]

    async def _describe(self, volume_id: VolumeId) -> Sequence[CloudSnapshot | Unread]:
        filters = (("volume-id", (volume_id,)), (f"tag:{TAG_MADE_BY}", (MADE_BY,)))
        found: Sequence[CloudSnapshot | Unread] = await self._make(DescribeSnapshots(filters))
        return found

    async def find_final(self, volume: CloudVolume) -> Sequence[CloudSnapshot]:
        """Return the snapshots taken before the deletion of a volume whose claim is gone."""
        filters = ((f"tag:{TAG_FINAL}", (str(volume.volume_id),)), (f"tag:{TAG_MADE_BY}", (MADE_BY,)))
        if volume.tag(TAG_ON_DELETE) != "snapshot":
            return ()
        final = require_read(await self._make(DescribeSnapshots(filters)))
        failed = find_failed_last(final, self._now())
        if failed is not None and failed.snapshot_id not in self._failed:
            self._failed.add(failed.snapshot_id)
            self._record(
                "snapshot.failed",
                volume.volume_id,
                entry=volume.tag(TAG_CLAIM),
                snapshot_id=failed.snapshot_id,
                error=explain_failed(volume, failed),
            )
        return final


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
