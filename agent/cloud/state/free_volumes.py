"""Remembers which volumes that are to be deleted were free at every look, and what was begun meanwhile.

In memory only: of what happened while no agent looked nothing is known, and a last snapshot from before that
time is not taken to hold all that is on the volume.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct

from agent.cloud.aws.models import TAG_DELETE_AFTER, TAG_UNHELD, CloudVolume
from agent.core.model import VolumeId

UNSEEN_LIMIT = timedelta(minutes=15)
"""Between two looks: a settled node's longest pause, and the look. After more, anybody may have used it."""


class _Watch(Struct):
    departure: tuple[str | None, str]
    """What is written on the volume of when it is to go: another time is another departure."""
    seen: datetime
    snapshot_id: str | None = None


class FreeVolumes:
    """Volumes that are watched from look to look."""

    def __init__(self) -> None:
        self._watches: dict[VolumeId, _Watch] = {}

    def see(self, volume: CloudVolume, now: datetime, *, is_here: bool = False) -> str | None:
        """Take note of how a volume is; return its last snapshot, if it was free ever since that was begun.

        ``is_here``: its device is on this node, whatever AWS describes.
        """
        if is_here or volume.attachments or volume.state != "available":
            self.forget(volume.volume_id)
            return None
        since = (volume.tag(TAG_UNHELD) or "").partition(" ")[0]
        departure = (volume.tag(TAG_DELETE_AFTER), since)
        watch = self._watches.get(volume.volume_id)
        if watch is None or watch.departure != departure or abs(now - watch.seen) > UNSEEN_LIMIT:
            watch = self._watches[volume.volume_id] = _Watch(departure, now)
        watch.seen = now
        return watch.snapshot_id

    def note_begun(self, volume_id: VolumeId, snapshot_id: str) -> None:
        """Remember the snapshot that was begun of a volume since it was seen free."""
        if volume_id in self._watches:
            self._watches[volume_id].snapshot_id = snapshot_id

    def list_begun(self) -> frozenset[VolumeId]:
        """Return the volumes whose last snapshot counts as long as they are seen free at every look."""
        return frozenset(volume_id for volume_id, watch in self._watches.items() if watch.snapshot_id)

    def forget(self, volume_id: VolumeId) -> None:
        """Have nothing count that was begun of a volume by now: it is in use, or wanted, or gone."""
        self._watches.pop(volume_id, None)
