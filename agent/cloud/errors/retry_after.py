"""Reads out of AWS's words how long it wants to be left alone."""

from __future__ import annotations

import re
from datetime import datetime

from agent.core.units import utc_now

MAX_WAIT_S = 24 * 3600.0
"""No limit of AWS's looks back further: four modifications of a volume in 24 hours."""

_UNITS_S = {"day": 86400.0, "hour": 3600.0, "minute": 60.0, "min": 60.0, "second": 1.0, "sec": 1.0}
_AMOUNT = r"[0-9]{1,6}(?:\.[0-9]+)?[ -]*(?:day|hour|minute|min|second|sec)s?\b"
_AMOUNTS = rf"{_AMOUNT}(?:(?:,| and|, and)? +{_AMOUNT})*"
_WAIT = re.compile(
    rf"\b(?:wait|again|retry|after|least|remaining)\b[^.0-9]{{0,40}}({_AMOUNTS})", re.IGNORECASE
)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)[ -]*(day|hour|minute|min|second|sec)", re.IGNORECASE)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.[0-9]{1,9})?"
    r"([+-][0-9]{2}:[0-9]{2})?"
)


def find_told_wait_s(message: str, now: datetime | None = None) -> float | None:
    """Return for how long AWS says to wait: until a time, or for a while; None where it says neither.

    ``4 modifications in 24 hours`` is the limit and no wait. A time without a zone is UTC. Never more than a
    day, and never less than nothing.
    """
    times = [time for found in _TIME.findall(message) if (time := _read_time(*found)) is not None]
    if times:
        left_s = (max(times) - (now or utc_now())).total_seconds()
        return min(max(left_s, 0.0), MAX_WAIT_S)
    found = _WAIT.search(message)
    if found is None:
        return None
    told_s = sum(float(part[1]) * _UNITS_S[part[2].lower()] for part in _PART.finditer(found[1]))
    return min(told_s, MAX_WAIT_S)


def _read_time(day: str, time: str, offset: str) -> datetime | None:
    try:
        return datetime.fromisoformat(f"{day}T{time}{offset or '+00:00'}")
    except ValueError:
        return None
