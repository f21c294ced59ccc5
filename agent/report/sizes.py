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
