"""What a rule looks at: the readings of one volume, and what the policy wants of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from agent.core.model import Provisioned
from agent.node.sampling.values import MountSample, Sample
from agent.report.board.readings import Reading, Verdict


class Subject(Struct, frozen=True):
    """What the readings are of, and what the policy wants of it."""

    label: str
    is_read_only: bool = False
    grows: bool = False
    provisioned: Provisioned | None = None
    """What AWS says it is given, where that is known."""


class Window(Struct, frozen=True):
    """Readings of one volume, oldest first, at least one; ``subject`` is what they are of."""

    readings: Sequence[Reading]
    subject: Subject

    @property
    def newest(self) -> Reading:
        return self.readings[-1]

    @property
    def sample(self) -> Sample | None:
        return self.newest.sample

    @property
    def mount(self) -> MountSample | None:
        return self.newest.mount

    def backwards(self) -> Iterator[Reading]:
        """Yield the readings before the newest, the latest first."""
        return reversed(self.readings[:-1])

    def since(self, seconds: float) -> Sequence[Reading]:
        """Return the readings of the last ``seconds``, and the one before them."""
        first = self.newest.at - seconds
        start = next((n for n, reading in enumerate(self.readings) if reading.at > first), 0)
        return self.readings[max(0, start - 1) :]


Rule = Callable[[Window, bool], "Verdict | None"]
"""Told whether its verdict holds already, it lets go later than it takes hold."""
