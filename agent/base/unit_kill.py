"""Killing a process that systemd started as another user, for a daemon that may signal none of another's.

Its whole unit is killed, by the kernel where that can (``cgroup.kill``, Linux 5.14), else by systemd.
Sources: cgroup-v2.rst of the kernel; systemctl(1).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_OURS = re.compile(r"/system\.slice/(ebs-agent-[a-z]+@[^/\s]+\.service)", re.ASCII)
_LIMIT_S = 10.0
"""For systemd to be asked. It takes longer only while it is reloaded."""


def find_cgroup(pid: int, proc: Path = Path("/proc")) -> str | None:
    """Return the path of the cgroup that is a process's unit; None where it is in none of the agent's.

    In both hierarchies of cgroups the path is the same.
    """
    with contextlib.suppress(OSError):
        for line in (proc / str(pid) / "cgroup").read_text("utf-8", "replace").splitlines():
            if line.startswith(("0:", "1:")) and _OURS.fullmatch(path := line.split(":", 2)[2]):
                return path
    return None


def kill_at_once(cgroup: str, root: Path = CGROUPS) -> bool:
    """Have the kernel send SIGKILL to all processes of a unit; False where it has no such file."""
    if _OURS.fullmatch(cgroup) is None:
        return False
    with contextlib.suppress(OSError):
        fd = os.open(f"{root}{cgroup}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
        return True
    return False


def kill_by_systemd(cgroup: str, systemctl: str = "systemctl") -> None:
    """Have systemd do it, which takes until that has time. Raises OSError where it does not."""
    found = _OURS.fullmatch(cgroup)
    if found is None:
        raise OSError(f"{cgroup} is no unit of the agent's")
    argv = [systemctl, "kill", "--signal=SIGKILL", found[1]]
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT_S, check=True)
    except subprocess.SubprocessError as error:
        raise OSError(f"{found[1]} could not be killed: {error}") from error
