"""How long work takes still, by how far it has come."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

WHOLE = 100.0
"""Per cent."""


class Estimate(Struct):
    """How long the rest takes, by the rate from the first to the newest number."""

    clock: Callable[[], float] = time.monotonic
    _first: tuple[float, float] | None = None
    _newest: tuple[float, float] | None = None

    def note(self, percent: float) -> None:
        """Take down how far it is now; what was heard already is no news."""
        if self._newest is None or percent != self._newest[1]:
            self._newest = (self.clock(), percent)
            self._first = self._first or self._newest

    def find_left_s(self) -> float | None:
        """Return how long it is until the end; None: not known, or it should have come by now."""
        if self._first is None or self._newest is None:
            return None
        (began_s, from_percent), (noted_s, percent) = self._first, self._newest
        if percent <= from_percent:
            return None
        rest_s = (WHOLE - percent) * (noted_s - began_s) / (percent - from_percent)
        left_s = rest_s - (self.clock() - noted_s)
        return left_s if left_s > 0 else None
