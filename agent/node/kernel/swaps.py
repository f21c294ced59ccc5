r"""What the kernel swaps to, as ``/proc/swaps`` tells it: partitions and whole disks, and files."""

from __future__ import annotations

import re
from pathlib import Path

from agent.node.kernel.sysfs import PROC

_ESCAPE = re.compile(r"\\([0-3][0-7]{2})")
_DELETED = " (deleted)"


def list_swap_devices(proc: Path = PROC) -> tuple[str, ...]:
    """Return the paths of the block devices that are swapped to."""
    return tuple(path for path, kind in _read_swaps(proc) if kind == "partition")


def list_swap_files(proc: Path = PROC) -> tuple[str, ...]:
    """Return the paths of the files that are swapped to, as seen from the root of whoever said swapon."""
    return tuple(path.removesuffix(_DELETED) for path, kind in _read_swaps(proc) if kind != "partition")


def _read_swaps(proc: Path) -> list[tuple[str, str]]:
    lines = (proc / "swaps").read_text("utf-8", "surrogateescape").splitlines()[1:]
    return [(_unescape(line.split()[0]), line.split()[1]) for line in lines]


def _unescape(text: str) -> str:
    r"""Return a path with its octal escapes (``\040``) resolved."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
