"""What each device said it is when it was asked last."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.model import Seen, VolumeId


@dataclass
class Census:
    """The answers, by device node."""

    seen: dict[str, Seen] = field(default_factory=dict)

    def put(self, seen: Seen) -> VolumeId | None:
        """Note an answer and return the volume to look at: the one there now, or the one that was."""
        old = self.seen.get(seen.path)
        if seen.is_silent and old is not None and old.identity is not None:
            return old.identity.volume_id
        self.seen[seen.path] = seen
        found = seen.identity or (old.identity if old is not None else None)
        return None if found is None else found.volume_id

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
