"""Decides when a claim's volume that nobody holds has been left for so long that the claim has it deleted.

AWS does not tell since when a volume is free. So that is written on it, and written again each day: a volume
that was not seen free for days on end, since somebody had it or nobody looked, begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from agent.cloud.aws.calls import CreateTags, DeleteVolume
from agent.cloud.aws.models import TAG_NODE, TAG_ON_DELETE, TAG_UNHELD, CloudSnapshot, CloudVolume
from agent.cloud.plan.claims.claim_removed import is_meant, parse_time, write_time
from agent.cloud.plan.claims.last_snapshot import plan_last_snapshot
from agent.cloud.plan.claims.pools import find_last_holder
from agent.cloud.plan.claims.wanted_volume import CLUSTER_WIDE
from agent.cloud.plan.decisions import Decision, Do
from agent.policy import Policy

SEEN_EVERY = timedelta(days=1)
SEEN_LIMIT = timedelta(days=3)
"""Seen free no longer ago than this, it is taken to have been free all the time."""
_CLOCK_ERROR = timedelta(minutes=10)


class OrphanTimes(Struct, frozen=True):
    """Since when a volume is known to be free, and when it was last seen so."""

    since: datetime
    seen: datetime

    def write(self) -> str:
        """Return it as the tag has it."""
        return f"{write_time(self.since)} {write_time(self.seen)}"


def read_orphan_times(volume: CloudVolume, now: datetime) -> OrphanTimes | None:
    """Return what is written on a volume; None where that says nothing about the present time."""
    since, _, seen = (volume.tag(TAG_UNHELD) or "").partition(" ")
    first, last = parse_time(since), parse_time(seen)
    if first is None or last is None or not first <= last <= now + _CLOCK_ERROR:
        return None
    return OrphanTimes(first, last) if now - last <= SEEN_LIMIT else None


def find_obstacle(volume: CloudVolume, policy: Policy, gone: Collection[str]) -> str | None:
    """Return why a claim's free volume is not to be deleted, in a clause; None: nobody can come back for it.

    ``gone``: instances proven gone.
    """
    name = volume.tag(TAG_NODE)
    if any(entry.claim is None and is_meant(entry, volume) for entry in policy.volumes):
        return "an entry of the policy is for it"
    if name == CLUSTER_WIDE:
        return "it is its cluster's, and no single node's"
    holder = find_last_holder(volume)
    if holder is None:
        return f"{name} may come back: the name tells no instance that could be proven gone"
    return None if holder in gone else f"{holder} is not proven gone"


def find_deadline(volume: CloudVolume, limit: timedelta, now: datetime) -> datetime | None:
    """Return when a free volume is to be deleted; None where what it was made under does not want that."""
    if volume.tag(TAG_ON_DELETE) not in {"delete", "snapshot"}:
        return None
    times = read_orphan_times(volume, now)
    return limit + (now if times is None else times.since)


def plan_orphan(
    volume: CloudVolume,
    limit: timedelta,
    snapshots: Sequence[CloudSnapshot],
    now: datetime,
    begun: str | None = None,
) -> Decision | None:
    """Decide the next thing about a free volume whose last holder is gone; None: nothing, for now.

    ``snapshots``: those taken before its deletion. ``begun``: the one since whose beginning it was free.
    """
    deadline = find_deadline(volume, limit, now)
    if deadline is None or volume.attachments or volume.state != "available":
        return None
    times = read_orphan_times(volume, now)
    if times is not None and now >= deadline:
        return plan_last_snapshot(volume, snapshots, begun, now) or Do(DeleteVolume(volume.volume_id))
    if times is not None and now - times.seen < SEEN_EVERY:
        return None
    written = OrphanTimes(now if times is None else times.since, now).write()
    return Do(CreateTags(volume.volume_id, ((TAG_UNHELD, written),)))
