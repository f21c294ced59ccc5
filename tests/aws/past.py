"""What an eventually consistent API still describes: the world as it was a while ago.

``Past.remember`` is called after every change; within ``Past.shown`` moto's own describing sees the values of
that time, whatever has become of them since.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_CHANGING = ("size", "volume_type", "iops", "throughput", "held", "attachment", "modifications")
"""What of a volume changes while it exists, under the names moto's serializer reads."""


@dataclass(frozen=True)
class _Moment:
    at_s: float
    volumes: dict[str, tuple[Any, dict[str, Any]]]
    snapshots: dict[str, Any]
    tags: dict[str, dict[str, str]]


class Past:
    """The moments of one EC2 backend."""

    def __init__(self, ec2: Any) -> None:
        self._ec2 = ec2
        self._moments: list[_Moment] = []

    def remember(self, at_s: float) -> None:
        """Keep how everything is now."""
        self._moments.append(self._take(at_s))

    @contextmanager
    def shown(self, until_s: float) -> Iterator[None]:
        """Show the world as it was at ``until_s``; for the thread that holds the cloud's lock."""
        now = self._take(until_s)
        earlier = [moment for moment in self._moments if moment.at_s <= until_s]
        self._put(earlier[-1] if earlier else _Moment(until_s, {}, {}, {}))
        try:
            yield
        finally:
            self._put(now)

    def _take(self, at_s: float) -> _Moment:
        volumes = {
            name: (one, {key: _copy(getattr(one, key)) for key in _CHANGING if hasattr(one, key)})
            for name, one in self._ec2.volumes.items()
        }
        tags = {name: dict(tags) for name, tags in self._ec2.tags.items()}
        return _Moment(at_s, volumes, dict(self._ec2.snapshots), tags)

    def _put(self, moment: _Moment) -> None:
        for kept, shown in (
            (self._ec2.volumes, {name: one for name, (one, _) in moment.volumes.items()}),
            (self._ec2.snapshots, moment.snapshots),
            (self._ec2.tags, {name: dict(tags) for name, tags in moment.tags.items()}),
        ):
            kept.clear()
            kept.update(shown)
        for one, values in moment.volumes.values():
            for key, value in values.items():
                setattr(one, key, _copy(value))


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
