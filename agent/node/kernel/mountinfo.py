"""What is mounted, as ``/proc/self/mountinfo`` tells it. Reads that file and never the mounts themselves.

Its paths, sources and options are chosen by whoever mounts, containers included: they are unescaped and
compared, and shown as ``describe_mount`` cleans them. A line the kernel could not have written is left out,
not guessed at.
"""

from __future__ import annotations

import os
import re
import select
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from agent.core.exhaustion import is_shortage
from agent.core.model import Device, DeviceNumber, Mount, Partition
from agent.core.quoting import make_printable

MOUNTINFO = Path("/proc/self/mountinfo")

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_ESCAPED = re.compile(rb"[ \t\n\\]")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_DEVICE = re.compile(rb"([0-9]{1,10}):([0-9]{1,10})")
_FIELD_PATH = 4
_FIELDS_BEFORE_OPTIONAL = 6
_FIELDS_AFTER_OPTIONAL = 3


def read_mounts(path: Path = MOUNTINFO) -> tuple[Mount, ...]:
    """Return every mount of this process's namespace, the one mounted last at a path after those it covers.

    Reading takes the kernel's namespace lock for a moment and touches no filesystem, so it cannot stall.
    """
    return parse_mountinfo(path.read_bytes())


@contextmanager
def follow_mounts(path: Path = MOUNTINFO) -> Iterator[Callable[[], tuple[Mount, ...]]]:
    """Give what returns every mount, for looks in a row: read anew only when the kernel has news.

    It says so of an open table when anything is mounted, moved or unmounted (proc_pid_mountinfo(5)), and not
    when a filesystem's own options change. So this is for no longer than a few looks take.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        news = select.poll()
        news.register(fd, select.POLLPRI | select.POLLERR)
        mounts = read_mounts(path)

        def read() -> tuple[Mount, ...]:
            nonlocal mounts
            if news.poll(0):
                mounts = read_mounts(path)
            return mounts

        yield read
    finally:
        os.close(fd)


def read_mounts_towards(path: str, mountinfo: Path = MOUNTINFO) -> tuple[Mount, ...]:
    """Return the mounts at ``path`` and at each directory on the way to it, and parse no others.

    They are what :func:`find_seen_mount` needs, in the order of ``read_mounts``.
    """
    words = {_escape(place) for place in _list_places(path)}
    lines = []
    for line in mountinfo.read_bytes().split(b"\n"):
        fields = line.split(b" ", _FIELDS_BEFORE_OPTIONAL)
        if len(fields) > _FIELD_PATH and fields[_FIELD_PATH] in words:
            lines.append(line)
    return parse_mountinfo(b"\n".join(lines))


def parse_mountinfo(content: bytes) -> tuple[Mount, ...]:
    """Parse the whole file (proc_pid_mountinfo(5)); lines of another shape are left out.

    Bytes that are not UTF-8 come out as surrogate escapes, as :mod:`os` has them in paths.
    """
    # The kernel escapes space, tab, newline and backslash only: splitlines() would split at form feeds too.
    return tuple(mount for line in content.split(b"\n") if (mount := _parse_line(line)) is not None)


@lru_cache(maxsize=1024)  # most lines are those of the last look
def _parse_line(line: bytes) -> Mount | None:
    words = line.split(b" ")
    try:
        # Optional fields (propagation) run up to a lone dash.
        end = words.index(b"-", _FIELDS_BEFORE_OPTIONAL)
    except ValueError:
        return None
    tail = words[end + 1 :]
    device = _DEVICE.fullmatch(words[2])
    # An empty source is written as nothing at all, so that two spaces follow each other: still three words.
    if len(tail) != _FIELDS_AFTER_OPTIONAL or device is None:
        return None
    if not (_NUMBER.fullmatch(words[0]) and _NUMBER.fullmatch(words[1])):
        return None
    ties = dict(word.split(b":", 1) for word in words[_FIELDS_BEFORE_OPTIONAL:end] if b":" in word)
    return Mount(
        mount_id=int(words[0]),
        parent_id=int(words[1]),
        device_number=DeviceNumber(int(device[1]), int(device[2])),
        root=unescape(words[3]),
        path=unescape(words[4]),
        options=_split_options(words[5]),
        fs_type=unescape(tail[0]),
        source=unescape(tail[1]),
        super_options=_split_options(tail[2]),
        peer_group=_read_group(ties, b"shared"),
        master=_read_group(ties, b"master"),
    )


def _read_group(ties: Mapping[bytes, bytes], tag: bytes) -> int:
    group = ties.get(tag, b"")
    return int(group) if _NUMBER.fullmatch(group) else 0


def _split_options(word: bytes) -> frozenset[str]:
    return frozenset(unescape(option) for option in word.split(b","))


def _escape(path: str) -> bytes:
    """Return a path as the kernel writes it (fs/proc_namespace.c)."""
    return _ESCAPED.sub(lambda match: b"\\%03o" % ord(match[0]), os.fsencode(path))


def unescape(word: bytes) -> str:
    r"""Return a path as it is, from how the kernel writes it in any of its tables (``\040``)."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), word))


def find_top_mount(mounts: Iterable[Mount], path: str) -> Mount | None:
    """Return the mount seen at ``path`` itself, of those stacked there the topmost; None without any.

    None as well where a mount at a directory on the way hides what is mounted at ``path``.
    """
    seen = find_seen_mount(mounts, path)
    return seen if seen is not None and seen.path == path else None


def find_seen_mount(mounts: Iterable[Mount], path: str) -> Mount | None:
    """Return the mount that ``path`` leads to, mounted there or further up: what whoever opens it is given.

    Walks as the kernel does, from mount to mount by the IDs of their parents, and asks no filesystem. None
    only where not even the root is in ``mounts``, as in a root directory that is no mount.
    """
    places = _list_places(path)
    below = set(places)
    towards = [mount for mount in mounts if mount.path in below]
    ids = {mount.mount_id for mount in towards}
    # Two at one place of one parent: one is left of a directory that is gone, and the later one is seen.
    attached = {(_name_parent(mount, ids), mount.path): mount for mount in towards}
    seen: Mount | None = None
    for place in places:
        for _ in towards:
            above = attached.get((None if seen is None else seen.mount_id, place))
            if above is None:
                break
            seen = above
            if place == "/":
                # A walk begins in its root, whatever was mounted over that.
                break
    return seen


def is_whole(mount: Mount) -> bool:
    """Whether a mount shows a whole filesystem, or a subvolume of btrfs, and no directory of one."""
    return mount.root == "/" or (mount.fs_type == "btrfs" and f"subvol={mount.root}" in mount.super_options)


def describe_mount(mount: Mount, path: str) -> str:
    """Return what is seen at ``path``, for messages: the filesystem, and where it is mounted if elsewhere."""
    where = "" if mount.path == path else f", mounted at {mount.path}"
    part = "" if mount.root == "/" else f", its directory {mount.root}"
    article = "an" if mount.fs_type[:1] in set("aeiox") else "a"
    return make_printable(f"{article} {mount.fs_type} filesystem ({mount.source or 'none'}{part}{where})")


def _name_parent(mount: Mount, ids: set[int]) -> int | None:
    """Return the ID of the mount that ``mount`` is attached to; None where that is outside what is seen."""
    return mount.parent_id if mount.parent_id in ids and mount.parent_id != mount.mount_id else None


def _list_places(path: str) -> list[str]:
    """Return the directories on the way to an absolute path, from / on, itself at last."""
    parts = [part for part in path.split("/") if part]
    return ["/", *("/" + "/".join(parts[:end]) for end in range(1, len(parts) + 1))]


def find_node_number(path: str) -> DeviceNumber | None:
    """Return the number of the block device whose node is at ``path`` below ``/dev``, or None."""
    # Anything else as a source could be a path on a filesystem that does not answer.
    if not path.startswith("/dev/") or ".." in path.split("/"):
        return None
    try:
        status = os.stat(path)  # noqa: PTH116 (surrogate escapes, and no Path needed)
    except (OSError, ValueError) as error:
        if is_shortage(error):
            raise  # nothing was looked at
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    return DeviceNumber(os.major(status.st_rdev), os.minor(status.st_rdev))


def is_of_device(mount: Mount, device: Device) -> bool:
    """Tell whether a mount is of a device or of a partition of it."""
    return not device.numbers.isdisjoint(_list_numbers(mount))


def find_mounted_partition(device: Device, mount: Mount) -> Partition | None:
    """Return which partition of its device a mount is of; None where it is of the whole device."""
    numbers = _list_numbers(mount)
    return next((partition for partition in device.partitions if partition.device_number in numbers), None)


def _list_numbers(mount: Mount) -> tuple[DeviceNumber | None, ...]:
    """Return what a mount's device may be known by: btrfs gives mounts numbers of their own, and a source."""
    return mount.device_number, find_node_number(mount.source)
