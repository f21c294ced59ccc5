"""The one clock of the package: microseconds, the unit of EBS's statistics, on the event loop's time line."""

from __future__ import annotations

import time


def now_us() -> int:
    return time.monotonic_ns() // 1000
