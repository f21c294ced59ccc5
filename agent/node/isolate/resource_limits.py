"""What this process may use up, and what is taken back from those it starts.

The service is the last the kernel may kill for memory, and may open many files. Programs it starts inherit
both, and should have neither: a hook that runs away must not live on while what it runs beside is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path

DESCRIPTORS = 16384
"""What the daemon may open, where the service manager permits it: a busy node has hundreds of devices."""
CHILD_DESCRIPTORS = 1024
"""What programs expect: those that use select(2) fail beyond it."""

KEPT_BYTES = 2 << 20
"""What libblkid takes for one pass over the signatures of a device is half of it."""

_OOM = "oom_score_adj"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may, up to ``DESCRIPTORS``, and return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def make_killable(pid: int, proc: Path = Path("/proc")) -> None:
    """Have a program that was just started be as killable for memory as any other.

    From outside, since between fork and exec nothing of Python's is safe to run. What cannot be set stays.
    """
    with contextlib.suppress(OSError, ValueError):
        if int((proc / "self" / _OOM).read_text("ascii")) < 0:
            (proc / str(pid) / _OOM).write_text("0", "ascii")


def release_child(pid: int) -> None:
    """Have a program that was just started be as killable, and as limited, as any other."""
    make_killable(pid)
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft > CHILD_DESCRIPTORS:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (CHILD_DESCRIPTORS, hard))


def keep_freed_memory() -> None:
    """Have this process, and those it forks, keep ``KEPT_BYTES`` of what they free.

    What goes back to the kernel has to be cleared by it, page by page, when it is needed again: of a pass of
    libblkid that is two thirds. Another library than glibc does as it does.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
