"""The first zygote: forked off the daemon's process before anything of the daemon is in it.

That saves an interpreter and its imports; one that has to be replaced is a fresh interpreter.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import traceback
from typing import NoReturn

from agent.node.isolate import messages
from agent.node.isolate.zygote import ENVIRONMENT, Confine, main, preload

FIRST_CONFINED = 0
"""Number of the process that ``begin_confined`` asks for; later ones have numbers below."""


class Forked:
    """A forked zygote as its parent has it: a process to kill and wait for, like ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = os.pidfd_open(pid)

    def kill(self) -> None:
        signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Return its exit status, or raise ``subprocess.TimeoutExpired``."""
        if not select.select([self._fd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("zygote", timeout)
        os.close(self._fd)
        return os.waitpid(self._pid, 0)[1]


def fork_zygote() -> tuple[Forked, socket.socket]:
    """Fork the zygote off this process, and return it with the socket that orders go to.

    This process must be as it began: one thread, no event loop, nothing of the daemon imported.
    """
    preload()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_zygote(theirs, parent_pid)
    theirs.close()
    ours.setblocking(False)  # noqa: FBT003 -- its only form
    return Forked(pid), ours


def _become_zygote(control: socket.socket, parent_pid: int) -> NoReturn:
    """Take on what a fresh interpreter would be started with: see ``ZygoteProcess``."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        control_fd = os.dup2(control.detach(), 3, inheritable=False)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(ENVIRONMENT)
        main(control_fd, parent_pid)
        status = 0
    except BaseException:  # noqa: BLE001 -- nothing of the parent's may run on in its child
        traceback.print_exc()
    finally:
        os._exit(status)


def begin_confined(control: socket.socket, function: str) -> socket.socket | None:
    """Order a confined process of the zygote that was just forked, and return the socket it answers at.

    It gets ready while this process still imports. None where there is no room for it: whoever needs it asks
    again, and is told so.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None
    with theirs:
        message, fds = messages.encode(Confine(FIRST_CONFINED, messages.Fd(theirs.fileno()), function))
        control.sendmsg([message], messages.ancillary(fds))
    ours.setblocking(False)  # noqa: FBT003 -- its only form
    return ours
