"""Mounts that others see: in every mount namespace of the node there is a process in.

Reads ``/proc`` only. A namespace that nobody is in, kept by a bind mount or an open descriptor, is not found;
the kernel's refusal of an exclusive open is the last word for those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agent.model import DeviceNumber, Mount
from agent.node.descriptors import PROC, list_processes
from agent.node.mountinfo import find_node_number, parse_mountinfo
from agent.text import make_printable


def is_private(proc: Path = PROC) -> bool | None:
    """Tell whether this process has another mount namespace than the node's first; None where nothing says.

    What is mounted in one of its own is seen by nobody else, unless it is shared with theirs.
    """
    try:
        return os.readlink(proc / "self/ns/mnt") != os.readlink(proc / "1/ns/mnt")  # noqa: PTH115 (no paths)
    except OSError:
        return None


def find_mount_elsewhere(numbers: frozenset[DeviceNumber], proc: Path = PROC) -> str | None:
    """Return, as a clause, where one of these devices is mounted in another mount namespace."""
    own = _read_namespace(proc / "self")
    seen = {own, None}
    for process in list_processes(proc):
        namespace = _read_namespace(process)
        if namespace in seen:
            continue
        seen.add(namespace)
        for mount in _list_mounts(process, numbers):
            if mount.device_number in numbers or find_node_number(mount.source) in numbers:
                path = make_printable(mount.path)
                return f"at {path} in the mount namespace of process {process.name}"
    return None


def _read_namespace(process: Path) -> str | None:
    """Return which mount namespace a process is in; None where it has ended or cannot be asked."""
    try:
        return os.readlink(process / "ns/mnt")  # noqa: PTH115 (it is no path)
    except OSError:
        return None


def _list_mounts(process: Path, numbers: frozenset[DeviceNumber]) -> Iterator[Mount]:
    """Yield those mounts a process sees that may be of one of the devices."""
    words = {f" {number} ".encode() for number in numbers} | {b" - btrfs "}
    try:
        content = (process / "mountinfo").read_bytes()
    except OSError:
        return
    lines = (line for line in content.split(b"\n") if any(word in line for word in words))
    yield from parse_mountinfo(b"\n".join(lines))
