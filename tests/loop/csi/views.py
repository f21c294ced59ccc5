"""What of a volume is mounted, as the kernel says."""

from __future__ import annotations

from pathlib import Path

from agent.core.model import Mount
from agent.node.kernel.mountinfo import read_mounts


def find_mounts(path: Path) -> list[Mount]:
    """Return what is mounted at a path, the topmost last."""
    return [mount for mount in read_mounts() if mount.path == str(path)]


def find_mount(path: Path) -> Mount:
    """Return the one thing that is mounted at a path."""
    (mount,) = find_mounts(path)
    return mount
