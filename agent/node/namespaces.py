"""Mounts that others see: in every mount namespace of the node there is a process in.

Reads ``/proc`` only. A namespace that nobody is in, kept by a bind mount or an open descriptor, is not found;
the kernel's refusal of an exclusive open is the last word for those.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.model import DeviceNumber, Mount
from agent.node.descriptors import PROC, list_processes
from agent.node.mountinfo import find_node_number, parse_mountinfo
from agent.text import make_printable

PRIVATE_WARNING = "What is mounted here is seen by nobody outside of this mount namespace."
PRIVATE_HINT = (
    "Run the agent in the node's own: without unshare, a container, or a setting of its unit that gives it"
    " one (PrivateMounts=, PrivateTmp=, ProtectSystem= and their like)."
)


def is_private(proc: Path = PROC) -> bool | None:
    """Tell whether mounts made here are seen by nobody else on the node; None where that is not told.

    So they are in a mount namespace of its own, unless its root is a peer of the node's and shares what is
    mounted (mount_namespaces(7)).
    """
    own, first = (_read_namespace(proc / process) for process in ("self", "1"))
    if own is None or first is None:
        return None
    if own == first:
        return False
    group = _read_root_group(proc / "self")
    return group is None or group != _read_root_group(proc / "1")


def _read_root_group(process: Path) -> bytes | None:
    """Return the peer group that a process's root mount belongs to, ``shared:1``; None for one in none."""
    try:
        lines = (process / "mountinfo").read_bytes().split(b"\n")
    except OSError:
        return None
    for line in lines:
        words = line.partition(b" - ")[0].split(b" ")
        if words[4:5] == [b"/"]:
            return next((word for word in words[6:] if word.startswith(b"shared:")), None)
    return None


def find_mount_elsewhere(numbers: frozenset[DeviceNumber], proc: Path = PROC) -> str | None:
    """Return, as a clause, where one of these devices is mounted in another mount namespace."""
    own = _read_namespace(proc / "self")
    seen: set[tuple[str | None, str | None]] = set()
    for process in list_processes(proc):
        namespace = _read_namespace(process)
        if namespace in {own, None}:
            continue
        # One with a root directory of its own sees a part of its namespace.
        place = (namespace, _read_link(process / "root"))
        if place in seen:
            continue
        mounts = _list_mounts(process, numbers)
        if mounts is None:
            continue  # it has ended, and others in its place are to be asked
        seen.add(place)
        for mount in mounts:
            if mount.device_number in numbers or find_node_number(mount.source) in numbers:
                path = make_printable(mount.path)
                return f"at {path} in the mount namespace of process {process.name}"
    return None


def _read_namespace(process: Path) -> str | None:
    """Return which mount namespace a process is in; None where it has ended or cannot be asked."""
    return _read_link(process / "ns/mnt")


def _read_link(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 (as it is)
    except OSError:
        return None


def _list_mounts(process: Path, numbers: frozenset[DeviceNumber]) -> tuple[Mount, ...] | None:
    """Return those mounts a process sees that may be of one of the devices; None where it cannot be asked."""
    words = {f" {number} ".encode() for number in numbers} | {b" - btrfs "}
    try:
        content = (process / "mountinfo").read_bytes()
    except OSError:
        return None
    lines = (line for line in content.split(b"\n") if any(word in line for word in words))
    return parse_mountinfo(b"\n".join(lines))
