"""What this process may use up, and what is taken back from those it starts.

The service is the last the kernel may kill for memory, and may open many files. Programs it starts inherit
both, and should have neither: a hook that runs away must not live on while what it runs beside is killed.
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

DESCRIPTORS = 16384
"""What the daemon may open, where the service manager permits it: a busy node has hundreds of devices."""
CHILD_DESCRIPTORS = 1024
"""What programs expect: those that use select(2) fail beyond it."""

_OOM = "oom_score_adj"


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
