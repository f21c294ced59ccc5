"""Times, rates and durations as the page writes them. Times are UTC."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

from agent.core.units import parse_time, show_duration, show_size
from agent.report.endpoints.page.markup import Element, element

NO_BREAK = "\u00a0"
DECIMAL = (1.0, 2.0, 5.0)
BINARY = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
_FEW = 10
_MS = 1e-3


def show_time(text: str, now: datetime) -> Element:
    """Return a time as people read it: of today without the date."""
    at = parse_time(text).astimezone(timezone.utc)
    is_near = abs(now - at) < timedelta(hours=18)
    words = at.strftime("%H:%M:%S" if is_near else "%-d %b %Y %H:%M")
    return element("time", f"{words} UTC", datetime=text)


def show_age(text: str, now: datetime) -> str:
    """Return how long ago it was."""
    age = show_duration(max(0.0, (now - parse_time(text)).total_seconds()))
    return age.replace(" ", NO_BREAK)


def show_rate(bytes_s: float) -> str:
    """Return bytes in a second."""
    return f"{show_size(round(bytes_s))}/s"


def show_count(number: float) -> str:
    """Return a number in few figures: ``0.5``, ``640``, ``16k``."""
    for reached, unit, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= reached:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.1f}".removesuffix(".0") if number < _FEW else f"{number:.0f}"


def show_delay(seconds: float) -> str:
    """Return a time that an operation took."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= _MS else f"{seconds * 1e6:.0f} µs"


def round_up(number: float, steps: tuple[float, ...]) -> float:
    """Return a number not below it that an axis may end at: one of the steps, times a power."""
    if number <= 0:
        return 1.0
    base = 1024.0 if steps is BINARY else 10.0
    power = base ** math.floor(math.log(number, base) + 1e-9)
    return next((step * power for step in steps if step * power >= number * (1 - 1e-9)), base * power)
