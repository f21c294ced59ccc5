"""What is mounted, as ``/proc/self/mountinfo`` tells it. Reads that file and never the mounts themselves.

Its paths, sources and options are chosen by whoever mounts, containers included: they are unescaped and
compared, and otherwise left alone. A line the kernel could not have written is left out, not guessed at.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from agent.model import DeviceNumber, Mount

MOUNTINFO = Path("/proc/self/mountinfo")

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_ESCAPED = re.compile(rb"[ \t\n\\]")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_DEVICE = re.compile(rb"([0-9]{1,10}):([0-9]{1,10})")
_FIELDS_BEFORE_OPTIONAL = 6
_FIELDS_AFTER_OPTIONAL = 3


def read_mounts(path: Path = MOUNTINFO) -> tuple[Mount, ...]:
    """Return every mount of this process's namespace, the one mounted last at a path after those it covers.

    Reading takes the kernel's namespace lock for a moment and touches no filesystem, so it cannot stall.
    """
    return parse_mountinfo(path.read_bytes())


def read_mounts_at(path: str, mountinfo: Path = MOUNTINFO) -> tuple[Mount, ...]:
    """Return the mounts stacked at ``path`` itself, as ``read_mounts`` has them, and parse no others."""
    word = b" %s " % _escape(path)
    lines = [line for line in mountinfo.read_bytes().split(b"\n") if word in line]
    return tuple(mount for mount in parse_mountinfo(b"\n".join(lines)) if mount.path == path)


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
    return Mount(
        mount_id=int(words[0]),
        parent_id=int(words[1]),
        device_number=DeviceNumber(int(device[1]), int(device[2])),
        root=_unescape(words[3]),
        path=_unescape(words[4]),
        options=_split_options(words[5]),
        fs_type=_unescape(tail[0]),
        source=_unescape(tail[1]),
        super_options=_split_options(tail[2]),
    )


def _split_options(word: bytes) -> frozenset[str]:
    return frozenset(_unescape(option) for option in word.split(b","))


def _escape(path: str) -> bytes:
    """Return a path as the kernel writes it (fs/proc_namespace.c)."""
    return _ESCAPED.sub(lambda match: b"\\%03o" % ord(match[0]), os.fsencode(path))


def _unescape(word: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), word))


def find_top_mount(mounts: Iterable[Mount], path: str) -> Mount | None:
    """Return the mount seen at ``path`` itself, of those stacked there the topmost; None without any."""
    here = [mount for mount in mounts if mount.path == path]
    covered = {mount.parent_id for mount in here}
    # Two can be left where a mount elsewhere on the way hides one of them; the later one is seen.
    return next((mount for mount in reversed(here) if mount.mount_id not in covered), None)


def find_node_number(path: str) -> DeviceNumber | None:
    """Return the number of the block device whose node is at ``path`` below ``/dev``, or None."""
    # Anything else as a source could be a path on a filesystem that does not answer.
    if not path.startswith("/dev/") or ".." in path.split("/"):
        return None
    try:
        status = os.stat(path)  # noqa: PTH116 (surrogate escapes, and no Path needed)
    except (OSError, ValueError):
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    return DeviceNumber(os.major(status.st_rdev), os.minor(status.st_rdev))
