"""Takes the snapshots that are due, with the filesystem frozen for the instant of the call, and tends them.

A freeze never lasts longer than ``FREEZE_LIMIT_S``. A snapshot counts as consistent only once AWS answered
while the filesystem was still frozen; one whose answer came too late is not, and another is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import anyio

from agent.cloud import recent
from agent.cloud.call import Make
from agent.cloud.calls import CreateSnapshot, CreateTags, DeleteSnapshot, DescribeSnapshots
from agent.cloud.departures import TAG_FINAL
from agent.cloud.errors import CloudError
from agent.cloud.findings import FREEZE_LIMIT_S
from agent.cloud.snapshots import (
    TAG_KEPT,
    find_scheduled,
    plan_protection,
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
from agent.model import Reason, VolumeId
from agent.policy.entries import SnapshotsEntry
from agent.steps import Wait

T = TypeVar("T")
Freeze = Callable[[VolumeId], AbstractAsyncContextManager[bool]]

MOST_ATTEMPTS = 2
"""Snapshots that may be begun for one tick: they cost money, and what keeps them unproven may last."""

log = get_logger(__name__)


async def take_snapshot(make: Make, freeze: Freeze | None, call: CreateSnapshot) -> CloudSnapshot:
    """Take a snapshot, frozen where ``freeze`` is given and a filesystem is mounted; returns it as begun.

    Raises CloudError; the filesystem is thawed by then.
    """
    if freeze is None:
        return await _begin(make, call)
    unproven = CreateSnapshot(call.volume_id, call.description, (*call.tags, (TAG_FROZEN, "no")))
    # The worker is running and its credentials are fresh after this; the freeze then lasts one call.
    await make(DescribeSnapshots((("volume-id", (call.volume_id,)), (f"tag:{TAG_MADE_BY}", (MADE_BY,)))))
    try:
        async with freeze(call.volume_id) as is_frozen:
            # Counted from here: getting ready to freeze holds nobody up.
            with anyio.fail_after(FREEZE_LIMIT_S):
                snapshot = await _begin(make, unproven)
    except TimeoutError:
        raise CloudError(
            message=f"{call.volume_id}: AWS did not begin the snapshot within {FREEZE_LIMIT_S:.0f} s; "
            "the filesystem is thawed.",
            hint="It is tried again. A snapshot that began too late carries the tag "
            f"{TAG_FROZEN}=no and is not counted.",
            reason=Reason.WAITING_FOR_CLOUD,
            operation=call.operation,
            retry_after_s=300.0,
        ) from None
    proof = (TAG_FROZEN, "yes" if is_frozen else "unmounted")
    await make(CreateTags(snapshot.snapshot_id, (proof,)))
    return replace(snapshot, tags=(*call.tags, proof))


async def _begin(make: Make, call: CreateSnapshot) -> CloudSnapshot:
    snapshot: CloudSnapshot = await make(call)
    log.info("cloud.called", operation=call.operation, what=call.describe(), snapshot=snapshot.snapshot_id)
    return snapshot


class SnapshotKeeper:
    """Keeps volumes' snapshots as their schedules say, and describes them only when that may matter."""

    def __init__(self, make: Make, freeze: Freeze, now: Callable[[], datetime]) -> None:
        self._make = make
        self._freeze = freeze
        self._now = now
        self._taken: dict[VolumeId, tuple[str, datetime]] = {}
        """The snapshot taken last of each volume, and when, until it is described."""
        self._quiet_until: dict[VolumeId, tuple[SnapshotsEntry, datetime]] = {}

    async def tend(self, name: str, entry: SnapshotsEntry, volume: CloudVolume) -> Wait | None:
        """Take the snapshot that is due, or lock, speed up and delete those taken; returns a notice."""
        now = self._now()
        quiet = self._quiet_until.get(volume.volume_id)
        if quiet is not None and quiet[0] == entry and now < quiet[1]:
            return None
        snapshots = await self._describe(volume.volume_id)
        counted = [one for one in snapshots if not (entry.freeze and one.tag(TAG_FROZEN) == "no")]
        if self._is_unseen(volume.volume_id, counted, now):
            return None
        due = plan_snapshot(name, entry, volume, counted, now)
        late = [one for one in find_scheduled(name, volume, snapshots) if one not in counted]
        unproven = None if due is None else _find_given_up(due, late)
        if due is not None and unproven is None:
            taken = await take_snapshot(self._make, self._freeze if entry.freeze else None, due)
            self._taken[volume.volume_id] = (taken.snapshot_id, now)
            return None
        ours = find_scheduled(name, volume, counted)
        notice = await self._protect(entry, ours) or unproven
        # Those of the tick that was given up stay: they are what says that it was.
        going = [one for one in late if due is None or one.tag(TAG_TICK) != dict(due.tags)[TAG_TICK]]
        notice = await self._retain(entry, ours, going) or notice
        pending = [one for one in ours if one.state == "pending"]
        following = entry.schedule.find_next(now)
        if not pending and notice is None and following is not None:
            self._quiet_until[volume.volume_id] = (entry, following)
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

    async def _protect(self, entry: SnapshotsEntry, taken: Sequence[CloudSnapshot]) -> Wait | None:
        try:
            for call in plan_protection(entry, taken):
                await self._make(call)
                log.info("cloud.called", operation=call.operation, what=call.describe())
            for one in taken:
                if _needs_mark(entry, one):
                    await self._make(CreateTags(one.snapshot_id, ((TAG_KEPT, "yes"),)))
        except CloudError as error:
            # A snapshot that exists without its lock is better than none: say it, and go on.
            return Wait(error.reason or Reason.CLOUD_ERROR, error.message, error.hint)
        return None

    async def _retain(
        self, entry: SnapshotsEntry, taken: Sequence[CloudSnapshot], late: Sequence[CloudSnapshot]
    ) -> Wait | None:
        """Delete what retention lets go, and what began too late once a proven one has completed.

        Where none was ever proven, the unproven ones are kept as the proven ones would be.
        """
        going = [call.snapshot_id for call in plan_retention(entry.keep, taken)]
        if any(one.state == "completed" for one in taken):
            going += [one.snapshot_id for one in late if one.state != "pending"]
        else:
            going += [call.snapshot_id for call in plan_retention(entry.keep, late)]
        for call in map(DeleteSnapshot, going):
            try:
                await self._make(call)
            except CloudError as error:
                if error.code == "InvalidSnapshot.NotFound":
                    continue
                return Wait(error.reason or Reason.CLOUD_ERROR, error.message, error.hint)
            log.info("cloud.called", operation=call.operation, what=call.describe())
        return None

    async def find_final(self, volume: CloudVolume) -> Sequence[CloudSnapshot]:
        """Return the snapshots taken before the deletion of a volume whose claim is gone."""
        filters = ((f"tag:{TAG_FINAL}", (str(volume.volume_id),)), (f"tag:{TAG_MADE_BY}", (MADE_BY,)))
        if volume.tag(TAG_ON_DELETE) != "snapshot":
            return ()
        found: Sequence[CloudSnapshot] = await self._make(DescribeSnapshots(filters))
        return found


def _find_given_up(due: CreateSnapshot, late: Sequence[CloudSnapshot]) -> Wait | None:
    """Return why a snapshot that is due is not taken again: it was, as often as it may be, without proof."""
    tick = dict(due.tags)[TAG_TICK]
    attempts = sum(one.tag(TAG_TICK) == tick for one in late)
    if attempts < MOST_ATTEMPTS:
        return None
    return Wait(
        Reason.CLOUD_ERROR,
        f"The snapshot of {due.volume_id} due {tick} was begun {attempts} times, never provably while writes "
        "were held.",
        hint=f"AWS has to answer within {FREEZE_LIMIT_S:.0f} s and allow ec2:CreateTags on snapshots. Those "
        f"taken carry the tag {TAG_FROZEN}=no. The next one is taken when it is due.",
    )


def _needs_mark(entry: SnapshotsEntry, one: CloudSnapshot) -> bool:
    is_asked = entry.lock is not None or bool(entry.fast_restore_zones)
    return is_asked and one.state == "completed" and one.tag(TAG_KEPT) is None
