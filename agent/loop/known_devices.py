"""What each device said it is when it was asked last."""

from __future__ import annotations

from msgspec import Struct, field

from agent.core.model import Seen, VolumeId
from agent.loop.wake_causes import Cause


class DeviceAnswer(Struct, frozen=True):
    """What a device has answered, of the volume that it is now, or was."""

    volume_id: VolumeId
    is_new: bool
    """The device was not known to be this volume."""
    is_news: bool
    """It is another appearance of it, of another size, or gone: something is known that was not."""


class News(Struct, frozen=True):
    """A volume whose device answered, and why it is looked at for it."""

    volume_id: VolumeId
    cause: Cause
    is_new: bool
    """It was not there before."""


class Heard(Struct):
    """Volumes whose devices answered, and that are to be looked at for it."""

    new: set[VolumeId] = field(default_factory=set)
    """Those that were not there before."""
    causes: dict[VolumeId, Cause] = field(default_factory=dict)

    def put(self, news: News | None) -> None:
        """Add a volume; what one answer has told is news still after another that tells nothing."""
        if news is None:
            return
        if news.is_new:
            self.new.add(news.volume_id)
        if self.causes.get(news.volume_id) is not Cause.DEVICE:
            self.causes[news.volume_id] = news.cause


class Census(Struct):
    """The answers, by device node."""

    seen: dict[str, Seen] = field(default_factory=dict)

    def put(self, seen: Seen) -> DeviceAnswer | None:
        """Note an answer and return what follows from it; None where no volume is concerned."""
        old = self.seen.get(seen.path)
        was = None if old is None or old.identity is None else old.identity.volume_id
        if seen.is_silent and was is not None:
            return DeviceAnswer(was, is_new=False, is_news=False)
        self.seen[seen.path] = seen
        now = was if seen.identity is None else seen.identity.volume_id
        if now is None:
            return None
        return DeviceAnswer(now, is_new=seen.identity is not None and now != was, is_news=seen != old)

    def drop(self, path: str) -> VolumeId | None:
        """Forget a device that is gone and return the volume it was."""
        old = self.seen.pop(path, None)
        return None if old is None or old.identity is None else old.identity.volume_id

    def by_volume(self) -> dict[VolumeId, list[Seen]]:
        """Return what answered as each volume; more than one device is a volume seen twice."""
        volumes: dict[VolumeId, list[Seen]] = {}
        for path in sorted(self.seen):
            seen = self.seen[path]
            if seen.identity is not None:
                volumes.setdefault(seen.identity.volume_id, []).append(seen)
        return volumes
