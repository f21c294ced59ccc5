"""Sizes, durations and times as people write them: with a unit each, in the program bytes and seconds.

EBS counts in powers of 1024, so sizes do too, and ``GB`` is refused rather than guessed at.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

from msgspec import Struct

from agent.core.errors import InvalidValueError
from agent.core.quoting import quote

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SIZE_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_SHOWN_UNITS = _SIZE_UNITS | {"PiB": 1 << 50}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MEANT_UNITS = {name.lower(): name for name in _SIZE_UNITS}
_MEANT_UNITS |= {short: f"{short[0].upper()}iB" for short in ("k", "kb", "m", "mb", "g", "gb", "t", "tb")}

_NUMBER = "[0-9]{1,9}"
_SIZE = f"{_NUMBER} ?(?:{'|'.join(_SIZE_UNITS)})"
_DURATION = f"{_NUMBER} ?(?:{'|'.join(_DURATION_UNITS)})"
SIZE_PATTERN = f"^{_SIZE}$"
SIZE_RANGE_PATTERN = rf"^(?:(?:(?:>=|<=)\s*)?{_SIZE}|{_SIZE}\s*\.\.\s*{_SIZE})$"
DURATION_PATTERN = f"^{_DURATION}$"

_AMOUNT = re.compile(f"({_NUMBER}) ?([A-Za-z]*)", re.ASCII)


def parse_size(text: str) -> int:
    """Return ``"500GiB"`` as bytes. Units: B, KiB, MiB, GiB, TiB. Raises InvalidValueError."""
    number, unit = _split_amount(text)
    if number is None or unit not in _SIZE_UNITS:
        meant = _MEANT_UNITS.get(unit.lower()) if unit else None
        raise InvalidValueError(
            f"{quote(text)} is not a size.",
            hint=f"Did you mean {number}{meant}?"
            if number is not None and meant
            else "Sizes are whole numbers with a unit, B, KiB, MiB, GiB or TiB: 500GiB.",
        )
    return number * _SIZE_UNITS[unit]


def parse_duration(text: str) -> float:
    """Return ``"6h"`` as seconds. Units: ms, s, m (minutes), h, d. Raises InvalidValueError."""
    number, unit = _split_amount(text)
    if number is None or unit not in _DURATION_UNITS:
        raise InvalidValueError(
            f"{quote(text)} is not a duration.",
            hint="Durations are whole numbers with a unit, ms, s, m (minutes), h or d: 60s.",
        )
    return number * _DURATION_UNITS[unit]


def format_size(size_bytes: int) -> str:
    """Return a size as the policy has it: exact in the largest unit that divides it, else to a tenth."""
    return "".join(_scale(size_bytes, _SIZE_UNITS))


def show_size(size_bytes: float) -> str:
    """Return a size for people: ``512 B``, ``1.5 GiB``, ``100 GiB``."""
    return " ".join(_scale(size_bytes, _SHOWN_UNITS))


def _scale(size_bytes: float, units: dict[str, int]) -> tuple[str, str]:
    """Return number and unit, the largest that the size reaches, or bytes."""
    unit, factor = next((each for each in reversed(units.items()) if abs(size_bytes) >= each[1]), ("B", 1))
    digits = 1 if factor > 1 and size_bytes % factor else 0
    return f"{size_bytes / factor:.{digits}f}", unit


def show_duration(seconds: float) -> str:
    """Return a duration in its largest whole unit: ``45 s``, ``12 min``, ``3 h``, ``2 d``."""
    for unit, unit_s, until_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < until_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _split_amount(text: str) -> tuple[int | None, str]:
    found = _AMOUNT.fullmatch(text)
    return (int(found[1]), found[2]) if found else (None, "")


class SizeRange(Struct, frozen=True):
    """Sizes from ``min_bytes`` to ``max_bytes``, both included; None leaves that end open."""

    min_bytes: int | None = None
    max_bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> SizeRange:
        """Read ``500GiB`` (exactly), ``>=1TiB``, ``<=1TiB`` or ``100GiB..2TiB``. Raises InvalidValueError."""
        if text.startswith(">="):
            return cls(min_bytes=parse_size(text[2:].lstrip()))
        if text.startswith("<="):
            return cls(max_bytes=parse_size(text[2:].lstrip()))
        first, dots, last = text.partition("..")
        min_bytes = parse_size(first.rstrip() if dots else first)
        max_bytes = parse_size(last.lstrip()) if dots else min_bytes
        if min_bytes > max_bytes:
            raise InvalidValueError(
                f"{quote(text)} holds no size: it ends before it begins.",
                hint="Write the smaller size first.",
            )
        return cls(min_bytes, max_bytes)

    def __contains__(self, size_bytes: int) -> bool:
        return (self.min_bytes is None or size_bytes >= self.min_bytes) and (
            self.max_bytes is None or size_bytes <= self.max_bytes
        )

    def describe(self) -> str:
        """Return the sizes for people: ``at least 1TiB``."""
        if self.min_bytes is None:
            return "any size" if self.max_bytes is None else f"at most {format_size(self.max_bytes)}"
        if self.max_bytes is None:
            return f"at least {format_size(self.min_bytes)}"
        if self.min_bytes == self.max_bytes:
            return f"exactly {format_size(self.min_bytes)}"
        return f"{format_size(self.min_bytes)} to {format_size(self.max_bytes)}"


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(timezone.utc)


def parse_time(text: str) -> datetime:
    """Return a time of ISO 8601, with the Z that Python 3.10 does not know; in UTC where it names no zone.

    Raises ValueError where it is none.
    """
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)


def find_time(text: str) -> datetime | None:
    """Return the time that somebody else's text tells, as of ``parse_time``; None where it is none."""
    try:
        return parse_time(text)
    except ValueError:
        return None
