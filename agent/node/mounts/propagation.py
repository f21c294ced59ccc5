"""Which mounts of other namespaces an unmount takes along, as mountinfo tells it (mount_namespaces(7)).

An unmount reaches what is mounted at the same place of each mount that the *parent* propagates to, and asks
nothing else: that a mount itself shares with ours, or is its slave, says where it was copied from, and no
more. A container that has the volume itself bound into it has such a copy, and keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.node.kernel.mountinfo import unescape

_OPTIONAL_FIELDS = 6


class Place(Struct, frozen=True):
    """Where a mount is attached, so that others at the same place are known."""

    group: bytes
    """The peer group of its parent."""
    directory: bytes
    """On the filesystem of its parent, as the kernel writes it."""


class _Line(Struct, frozen=True):
    """What one line of mountinfo says of how mounts hang together."""

    mount_id: bytes
    parent_id: bytes
    device_number: bytes
    root: bytes
    path: bytes
    group: bytes = b""
    """The peer group that it shares with."""
    master: bytes = b""
    """The peer group that it is slave to."""


def find_place(mountinfo: bytes, path: str, device_number: str) -> Place | None:
    """Return where the mount seen last at ``path`` is attached; None where what is done there stays there."""
    lines = _parse(mountinfo)
    for line in reversed(lines.values()):
        if (unescape(line.path), line.device_number) == (path, device_number.encode()):
            parent = lines.get(line.parent_id)
            return Place(parent.group, _locate(line, parent)) if parent is not None and parent.group else None
    return None


def find_masters(mountinfo: bytes) -> dict[bytes, bytes]:
    """Return which peer group each is slave to, of those that have one."""
    return {line.group: line.master for line in _parse(mountinfo).values() if line.group and line.master}


def stays_mounted(
    mountinfo: bytes, device_number: str, place: Place | None, masters: Mapping[bytes, bytes]
) -> bool:
    """Tell whether a device stays mounted in a namespace when the mount at ``place`` in ours is unmounted.

    ``masters`` as ``find_masters`` has them, of every namespace there is. What cannot be told stays.
    """
    lines = _parse(mountinfo)
    parents = {line.parent_id for line in lines.values()}
    for line in lines.values():
        if line.device_number != device_number.encode():
            continue
        parent = lines.get(line.parent_id)
        # What is mounted within holds it, too.
        if parent is None or place is None or line.mount_id in parents:
            return True
        if _locate(line, parent) != place.directory or not _receives(parent, place.group, masters):
            return True
    return False


def _receives(parent: _Line, group: bytes, masters: Mapping[bytes, bytes]) -> bool:
    """Whether a mount gets what is done in a peer group: as one of it, or as a slave of however many."""
    if parent.group == group:
        return True
    asked: set[bytes] = set()
    master = parent.master
    while master and master not in asked:
        if master == group:
            return True
        asked.add(master)
        master = masters.get(master, b"")
    return False


def _locate(line: _Line, parent: _Line) -> bytes:
    """Return the directory that a mount is attached to, on the filesystem of its parent."""
    within = line.path if parent.path == b"/" else line.path.removeprefix(parent.path)
    return parent.root.rstrip(b"/") + b"/" + within.lstrip(b"/")


def _parse(mountinfo: bytes) -> dict[bytes, _Line]:
    """Return the lines by their mounts' IDs; one of another shape is left out."""
    lines = {}
    for text in mountinfo.split(b"\n"):
        words = text.partition(b" - ")[0].split(b" ")
        if len(words) < _OPTIONAL_FIELDS:
            continue
        tied = dict(word.split(b":", 1) for word in words[_OPTIONAL_FIELDS:] if b":" in word)
        mount_id, parent_id, number, root, path = words[:5]
        group, master = tied.get(b"shared", b""), tied.get(b"master", b"")
        lines[mount_id] = _Line(mount_id, parent_id, number, root, path, group, master)
    return lines
