"""Mounts that others see: in every mount namespace of the node there is a process in.

Reads ``/proc`` only. A namespace that nobody is in, kept by a bind mount or an open descriptor, is not found;
the kernel's refusal of an exclusive open is the last word for those.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.core.model import DeviceNumber, Mount
from agent.core.quoting import make_printable
from agent.node.kernel.mountinfo import find_node_number, parse_mountinfo
from agent.node.kernel.open_files import (
    PROC,
    cannot_look,
    has_ended,
    is_shielded_init,
    list_processes,
    read_link,
)

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
    """Return, as a clause, where one of these devices is mounted in another mount namespace.

    Raises InconclusiveError where a process that has not ended cannot be asked: in its namespace one may be.
    """
    try:
        return _find_mount_elsewhere(numbers, proc)
    except OSError as error:
        raise cannot_look("whether it is mounted in another mount namespace", error) from error


def _find_mount_elsewhere(numbers: frozenset[DeviceNumber], proc: Path) -> str | None:
    own = os.readlink(proc / "self/ns/mnt")  # noqa: PTH115 (as it is)
    seen: set[tuple[str, str]] = set()
    for process in list_processes(proc):
        found = _ask_process(process, own, seen, numbers)
        if found is not None:
            return f"at {make_printable(found.path)} in the mount namespace of process {process.name}"
    return None


def _ask_process(
    process: Path, own: str, seen: set[tuple[str, str]], numbers: frozenset[DeviceNumber]
) -> Mount | None:
    """Return the mount of a device that a process outside of our namespace sees; None without, or any more.

    ``seen`` are the places that were looked from, by namespace and root directory: others there see the same.
    """
    try:
        namespace = os.readlink(process / "ns/mnt")  # noqa: PTH115
        if namespace == own:
            return None
        # One with a root directory of its own sees a part of its namespace.
        place = (namespace, read_link(process / "root"))
        if place in seen:
            return None
        mounts = _list_mounts(process, numbers)
    except OSError as error:
        if has_ended(error) or is_shielded_init(process, error):
            return None  # others in its place are to be asked
        raise
    seen.add(place)
    return next(
        (one for one in mounts if one.device_number in numbers or find_node_number(one.source) in numbers),
        None,
    )


def _read_namespace(process: Path) -> str | None:
    """Return which mount namespace a process is in; None where it has ended or cannot be asked."""
    try:
        return os.readlink(process / "ns/mnt")  # noqa: PTH115 (as it is)
    except OSError:
        return None


def _list_mounts(process: Path, numbers: frozenset[DeviceNumber]) -> tuple[Mount, ...]:
    """Return those mounts a process sees that may be of one of the devices."""
    words = {f" {number} ".encode() for number in numbers} | {b" - btrfs "}
    content = (process / "mountinfo").read_bytes()
    lines = (line for line in content.split(b"\n") if any(word in line for word in words))
    return parse_mountinfo(b"\n".join(lines))
