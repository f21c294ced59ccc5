"""What the kernel swaps to, as ``/proc/swaps`` tells it: partitions and whole disks, and files."""

from __future__ import annotations

from pathlib import Path

from agent.node.kernel.mountinfo import unescape
from agent.node.kernel.sysfs import PROC

_DELETED = " (deleted)"


def list_swap_devices(proc: Path = PROC) -> tuple[str, ...]:
    """Return the paths of the block devices that are swapped to."""
    return tuple(path for path, kind in _read_swaps(proc) if kind == "partition")


def list_swap_files(proc: Path = PROC) -> tuple[str, ...]:
    """Return the paths of the files that are swapped to, as seen from the root of whoever said swapon."""
    return tuple(path.removesuffix(_DELETED) for path, kind in _read_swaps(proc) if kind != "partition")


def _read_swaps(proc: Path) -> list[tuple[str, str]]:
    lines = (proc / "swaps").read_bytes().splitlines()[1:]
    return [(unescape(words[0]), words[1].decode("ascii")) for words in map(bytes.split, lines)]
