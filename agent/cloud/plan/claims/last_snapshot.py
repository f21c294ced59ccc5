"""Decides about the snapshot that is taken of a volume before it is deleted, and which one holds all of it.

That a snapshot is called the last one says nothing: a claim that came back, a node that took the volume over
or a person may have had it written to since. What AWS tells of a free volume does not say when it was used.
So only one counts since whose beginning the volume was seen free at every look; of any other nothing is lost
by taking another, which costs what has changed. Where that leads to no deletion, since the deletion fails or
nobody looks for long enough, each further one is taken later than the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent.cloud.aws.calls import CreateSnapshot
from agent.cloud.aws.models import (
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_MADE_BY,
    TAG_NODE,
    TAG_ON_DELETE,
    TAG_VOLUME,
    CloudSnapshot,
    CloudVolume,
)
from agent.cloud.plan.decisions import Decision, Do
from agent.core.model import Reason
from agent.core.steps import Wait
from agent.core.units import find_time

TAG_FINAL = "ebs-agent:final"
"""On the snapshot taken before a volume is deleted: the volume's ID."""
FAILED_PAUSE = timedelta(hours=6)
"""After one that failed at AWS, before the next is begun: what failed it, as a disabled key, lasts."""

AGAIN_PAUSE = timedelta(hours=6)
"""After the second that was complete, and was not known to hold all, before the next; doubled after each."""
_MOST_DOUBLINGS = 5


def plan_last_snapshot(
    volume: CloudVolume, snapshots: Sequence[CloudSnapshot], begun: str | None, now: datetime
) -> Decision | None:
    """Decide what is to be done about the snapshot before a deletion; None: it is there, or not wanted.

    ``begun``: the last snapshot since whose beginning the volume was free. None: nobody knows of such a one.
    """
    if volume.tag(TAG_ON_DELETE) != "snapshot":
        return None
    final = [one for one in snapshots if one.tag(TAG_FINAL) == volume.volume_id]
    if any(one.snapshot_id == begun and one.state == "completed" for one in final):
        return None
    pending = [one for one in final if one.state == "pending"]
    if pending:
        percent = max(one.progress_percent for one in pending)
        return Wait(Reason.WAITING_FOR_CLOUD, f"The last snapshot of {volume.volume_id} is at {percent} %.")
    failed = find_failed_last(final, now)
    if failed is not None:
        return Wait(
            Reason.CLOUD_ERROR,
            f"{explain_failed(volume, failed)} {volume.volume_id} is kept.",
            hint="The EC2 console shows the reason with it; a KMS key that was disabled is a usual one. "
            f"Another is taken after {FAILED_PAUSE.total_seconds() / 3600:g} hours.",
        )
    waiting = _wait_for_another(volume, [one for one in final if one.state == "completed"], now)
    if waiting is not None:
        return waiting
    kept = tuple(pair for pair in volume.tags if pair[0] in {TAG_MADE_BY, TAG_CLUSTER, TAG_CLAIM, TAG_NODE})
    tags = tuple(sorted((*kept, (TAG_VOLUME, volume.volume_id), (TAG_FINAL, volume.volume_id))))
    return Do(
        CreateSnapshot(volume.volume_id, f"Last snapshot of {volume.volume_id} before its deletion", tags)
    )


def _wait_for_another(volume: CloudVolume, completed: Sequence[CloudSnapshot], now: datetime) -> Wait | None:
    """Return the wait for the time of another last snapshot, where those ``completed`` have not done.

    The second is taken at once: the first may be of an earlier use, or of a process that was restarted.
    """
    if len(completed) < 2:  # noqa: PLR2004
        return None
    newest = max(completed, key=lambda one: one.started_at)
    began = find_time(newest.started_at)
    pause = AGAIN_PAUSE * 2 ** min(len(completed) - 2, _MOST_DOUBLINGS)
    if began is not None and now - began >= pause:
        return None
    when = "later" if began is None else f"after {began + pause:%Y-%m-%d %H:%M} UTC"
    return Wait(
        Reason.WAITING_FOR_CLOUD,
        f"{volume.volume_id} has {len(completed)} last snapshots, and may have been used since the newest, "
        f"{newest.snapshot_id}, was begun. Another is taken {when}.",
        hint="The agent was restarted since, another node has begun it, or somebody had the volume. Where a "
        "deletion failed, the log says why.",
    )


def find_failed_last(final: Sequence[CloudSnapshot], now: datetime) -> CloudSnapshot | None:
    """Return the newest of a volume's last snapshots where AWS failed it, and not long ago."""
    newest = max(final, key=lambda one: one.started_at, default=None)
    if newest is None or newest.state != "error":
        return None
    began = find_time(newest.started_at)
    return None if began is not None and now - began >= FAILED_PAUSE else newest


def explain_failed(volume: CloudVolume, failed: CloudSnapshot) -> str:
    """Return in a sentence that the last snapshot of a volume failed."""
    return f"{failed.snapshot_id}, the last snapshot of {volume.volume_id}, failed at AWS."
