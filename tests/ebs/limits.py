"""Rate limits, and for how long demand exceeded them.

A limit never refuses: it says when an operation may go ahead. Time is a parameter, in microseconds, so that
the arithmetic can be tested without waiting.
"""

from __future__ import annotations

from dataclasses import dataclass

_BURST_US = 20_000  # demand is measured over this long, so that a short burst at an idle limit passes
_OPERATION_BYTES = 256 << 10  # EBS counts a larger operation as several


class Limit:
    """So many units a second: a leaky bucket that remembers how far ahead of itself demand is."""

    def __init__(self, units_per_s: float) -> None:
        if units_per_s <= 0:
            raise ValueError(f"a limit of {units_per_s} a second lets nothing through")
        self._unit_us = 1_000_000 / units_per_s
        self._due_us = 0.0
        self._exceeded_us = 0.0
        self._exceeded_until_us = 0.0

    def reserve(self, units: int, now_us: int) -> int:
        """Take ``units`` and return when they may be used: now, or later while demand is too high.

        The waits of several operations overlap; each microsecond in which at least one waits counts once.
        """
        ready_us = self._due_us - _BURST_US
        self._due_us = max(self._due_us, now_us) + units * self._unit_us
        if ready_us <= now_us:
            return now_us
        self._exceeded_us += max(0.0, ready_us - max(now_us, self._exceeded_until_us))
        self._exceeded_until_us = max(self._exceeded_until_us, ready_us)
        return int(ready_us) + 1

    def exceeded_us(self, now_us: int) -> int:
        """Return for how long, up to now, demand was above the limit; waits still to come are not in it."""
        return int(self._exceeded_us - max(0.0, self._exceeded_until_us - now_us))


@dataclass(frozen=True)
class Rates:
    """What is allowed a second; None is no limit. A volume has its own, and so has the instance."""

    iops: float | None = None
    throughput_bytes_s: float | None = None


class Limiter:
    """The two limits of a volume or of an instance, side by side. Changing them keeps what was counted."""

    def __init__(self, rates: Rates) -> None:
        self._counted_us = (0, 0)
        self._set(rates)

    @property
    def is_unlimited(self) -> bool:
        return self._iops is None and self._throughput is None

    def change(self, rates: Rates, now_us: int) -> None:
        self._counted_us = self.exceeded_us(now_us)
        self._set(rates)

    def reserve(self, size_bytes: int, now_us: int) -> int:
        """Take one operation of ``size_bytes`` from both limits and return when it may go ahead."""
        ready_us = now_us
        if self._iops is not None:
            ready_us = self._iops.reserve(max(1, -(-size_bytes // _OPERATION_BYTES)), now_us)
        if self._throughput is not None:
            ready_us = max(ready_us, self._throughput.reserve(size_bytes, now_us))
        return ready_us

    def exceeded_us(self, now_us: int) -> tuple[int, int]:
        """Return for how long the IOPS and the throughput limit were exceeded."""
        iops_us, throughput_us = self._counted_us
        return (
            iops_us + (self._iops.exceeded_us(now_us) if self._iops else 0),
            throughput_us + (self._throughput.exceeded_us(now_us) if self._throughput else 0),
        )

    def _set(self, rates: Rates) -> None:
        self._iops = Limit(rates.iops) if rates.iops else None
        self._throughput = Limit(rates.throughput_bytes_s) if rates.throughput_bytes_s else None
