"""What a process that does not answer is held by, as the kernel shows it in /proc. Asks no device.

A frozen filesystem says so nowhere: not in its options, not by statvfs, and to freeze or thaw it to find out
would change it. Whoever waits for it does so at one place, which the kernel names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from itertools import dropwhile
from pathlib import Path

from agent.node.kernel.sysfs import PROC

_QUEUES = frozenset({"percpu_rwsem_wait", "__percpu_down_read", "percpu_down_read"})
"""Where those wait that want to write to what is frozen (kernel/locking/percpu-rwsem.c)."""
_GATES = frozenset(
    {
        "mnt_want_write",
        "mnt_want_write_file",
        "sb_start_write",
        "__sb_start_write",
        "sb_start_intwrite",
        "sb_start_pagefault",
        "file_start_write",
        "kiocb_start_write",
    }
)
"""What begins to write, and waits for nothing but a thaw (include/linux/fs.h, fs/namespace.c)."""
_INLINING = frozenset(
    {
        "vfs_write",
        "vfs_writev",
        "vfs_iter_write",
        "do_iter_write",
        "do_iter_readv_writev",
        "vfs_fallocate",
        "ext4_journal_check_start",
        "__ext4_journal_start_sb",
        "ext4_page_mkwrite",
        "xfs_trans_alloc",
        "start_transaction",
        "btrfs_page_mkwrite",
    }
)
"""What may have a gate inlined, and waits for other things as well."""
_FRAME = re.compile(r"^\[<[^>]*>\] ([\w.]+)\+0x", re.MULTILINE)
_UNINTERRUPTIBLE = "D"


class Hold(Enum):
    """What a process waits for in the kernel."""

    FREEZE = "a frozen filesystem"
    OTHER = "something else, or nothing"
    UNKNOWN = "something that the kernel does not show"


def find_hold(pid: int, proc: Path = PROC) -> Hold:
    """Return what a process waits for; one that has ended waits for nothing."""
    try:
        state = (proc / f"{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[:1]
    except (FileNotFoundError, ProcessLookupError):
        return Hold.OTHER
    except OSError:
        return Hold.UNKNOWN
    if state != [_UNINTERRUPTIBLE]:
        return Hold.OTHER
    frames = [name.partition(".")[0] for name in _FRAME.findall(_read(proc / f"{pid}/stack"))]
    place = _read(proc / f"{pid}/wchan").strip()
    if frames:
        return Hold.FREEZE if _is_at_gate(frames) else Hold.OTHER
    if place in {"", "0"}:
        return Hold.UNKNOWN
    return Hold.FREEZE if place in _QUEUES | _GATES else Hold.OTHER


def _is_at_gate(frames: Sequence[str]) -> bool:
    """Tell whether a stack, the innermost frame first, is one of who waits to begin to write."""
    rest = list(dropwhile(_QUEUES.__contains__, frames))
    is_queued = len(rest) < len(frames)
    return bool(rest) and (rest[0] in _GATES or (is_queued and rest[0] in _INLINING))


def _read(path: Path) -> str:
    """Return a file of /proc; nothing where this kernel, or whoever guards it, does not show it."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
