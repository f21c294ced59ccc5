"""How amounts are written for people."""

from __future__ import annotations

STEP = 1024
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show_size(size_bytes: float) -> str:
    """Return a size with a binary unit: ``512 B``, ``1.5 GiB``, ``100 GiB``."""
    size = float(size_bytes)
    unit = 0
    while abs(size) >= STEP and unit < len(UNITS) - 1:
        size /= STEP
        unit += 1
    digits = 0 if unit == 0 or size == round(size) else 1
    return f"{size:.{digits}f} {UNITS[unit]}"


def show_duration(seconds: float) -> str:
    """Return a duration in its largest whole unit: ``45 s``, ``12 min``, ``3 h``, ``2 d``."""
    for unit, unit_s, until_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < until_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
