"""Which other mounts an unmount takes along, here and in other namespaces, as mountinfo tells it.

An unmount reaches what is mounted at the same place of each mount that the *parent* propagates to, and asks
nothing else (mount_namespaces(7)): that a mount itself shares with ours, or is its slave, says where it was
copied from, and no more. A container that has the volume itself bound into it has such a copy, and keeps it.

Of another namespace's table, of which a node may have hundreds of ten thousand lines each, only the lines
that matter are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from agent.core.model import Mount
from agent.node.kernel.mountinfo import parse_mountinfo

_MASTER = re.compile(rb" shared:([0-9]+) master:([0-9]+) ")
"""In the kernel's order (fs/proc_namespace.c). What shares with nobody passes nothing on."""
_ID, _PARENT_ID, _DEVICE = range(3)


class Place(Struct, frozen=True):
    """Where a mount is attached, so that others at the same place are known."""

    group: int
    """The peer group of its parent."""
    directory: str
    """On the filesystem of its parent."""


def find_place(mountinfo: bytes, path: str, device_number: str) -> Place | None:
    """Return where the mount seen last at ``path`` is attached; None where what is done there stays there."""
    table = b"\n" + mountinfo
    for mount in reversed(parse_mountinfo(b"\n".join(_pick(table, device_number, _DEVICE)))):
        if mount.path == path:
            return _make_place(mount, _find_parent(table, mount))
    return None


def find_masters(mountinfo: bytes) -> dict[int, int]:
    """Return which peer group each is slave to, of those that have one."""
    return {int(group): int(master) for group, master in _MASTER.findall(mountinfo)}


def find_groups(mountinfo: bytes, device_number: str, place: Place | None) -> frozenset[int] | None:
    """Return by which peer groups a device's mounts may be told of what is done at ``place`` in ours.

    It goes with ours where they are (``are_told``). None where one of its mounts stays, whoever is told; what
    cannot be told stays.
    """
    table = b"\n" + mountinfo
    groups: set[int] = set()
    for line in _pick(table, device_number, _DEVICE):
        mount = next(iter(parse_mountinfo(line)), None)
        if mount is None or place is None:
            return None
        group = _find_group(mount, _find_parent(table, mount), place)
        # What is mounted within holds it, too.
        if group is None or next(_pick(table, str(mount.mount_id), _PARENT_ID), None) is not None:
            return None
        groups.add(group)
    return frozenset(groups)


def are_told(groups: Iterable[int], place: Place | None, masters: Mapping[int, int]) -> bool:
    """Whether all these peer groups get what is done at a place: as its parent's, or by however many masters.

    ``masters`` as ``find_masters`` has them, of every namespace there is.
    """
    return place is not None and all(_is_told(group, place.group, masters) for group in groups)


def _is_told(group: int, by: int, masters: Mapping[int, int]) -> bool:
    asked: set[int] = set()
    while group and group not in asked:
        if group == by:
            return True
        asked.add(group)
        group = masters.get(group, 0)
    return False


def list_going(mounts: Iterable[Mount], ours: Mount, views: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """Return which of ``views``, of this namespace as all ``mounts`` are, an unmount of ``ours`` takes along.

    As where the directory that it lies in is bound elsewhere, too. What cannot be told stays.
    """
    others = tuple(view for view in views if view.mount_id != ours.mount_id)
    if not others:
        return ()
    by_id = {mount.mount_id: mount for mount in mounts}
    place = _make_place(ours, by_id.get(ours.parent_id))
    if place is None:
        return ()
    masters = {mount.peer_group: mount.master for mount in by_id.values() if mount.peer_group}
    held = {mount.parent_id for mount in by_id.values()}
    going = []
    for view in others:
        group = _find_group(view, by_id.get(view.parent_id), place)
        if group is not None and are_told([group], place, masters) and view.mount_id not in held:
            going.append(view)
    return tuple(going)


def _make_place(mount: Mount, parent: Mount | None) -> Place | None:
    if parent is None or not parent.peer_group:
        return None
    return Place(parent.peer_group, _locate(mount, parent))


def _find_group(mount: Mount, parent: Mount | None, place: Place) -> int | None:
    """Return by which peer group the parent of a mount may be told what is done at ``place``."""
    if parent is None or _locate(mount, parent) != place.directory:
        return None
    return (place.group if parent.peer_group == place.group else parent.master) or None


def _locate(mount: Mount, parent: Mount) -> str:
    """Return the directory that a mount is attached to, on the filesystem of its parent."""
    within = mount.path if parent.path == "/" else mount.path.removeprefix(parent.path)
    return f"{parent.root.rstrip('/')}/{within.lstrip('/')}"


def _find_parent(table: bytes, mount: Mount) -> Mount | None:
    line = next(_pick(table, str(mount.parent_id), _ID), b"")
    return next(iter(parse_mountinfo(line)), None)


def _pick(table: bytes, word: str, field: int) -> Iterator[bytes]:
    """Yield the lines of a table, which begins with a line feed, that have a word as one of their fields."""
    wanted = word.encode()
    needle = b" %b " % wanted if field else b"\n%b " % wanted
    at = table.find(needle)
    while at >= 0:
        start = table.rfind(b"\n", 0, at + 1) + 1
        end = table.find(b"\n", start)
        line = table[start : end if end >= 0 else len(table)]
        if line.split(b" ", field + 1)[field : field + 1] == [wanted]:
            yield line
        at = table.find(needle, end) if end >= 0 else -1
