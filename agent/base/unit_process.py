"""A process in a unit of its own in place of a child: systemd starts it for whoever connects to its socket.

The socket is root's alone (``Accept=yes``), and each connection is the standard input of an instance of the
unit. The two shake hands: the process says a byte, by which the kernel tells who it is; it is told what it is
to do, and handed the pipe it complains through. From then on it is spoken with like a child.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
from msgspec import Struct
from typing_extensions import override

from agent.base.arrival import HELLO, LONGEST_BYTES
from agent.base.companion import Companion
from agent.base.log import get_logger
from agent.base.unit_kill import find_cgroup, kill_at_once, kill_by_systemd

UNITS_VARIABLE = "EBS_AGENT_FACES"
"""Where the sockets are that systemd starts units by; only the agent's own unit says so."""
ARRIVAL_S = 120.0
"""For systemd to start a process and for that to import itself.

Whoever gives up has the next one begin from the start, so on a machine that is busy enough none would arrive.
A unit that ends before is seen at once.
"""
DEATH_S = 5.0
"""For one to die that was killed: it has only sockets, so it takes no time."""
_CREDENTIALS = struct.Struct("3i")

log = get_logger(__name__)


class UnitSocket(Struct, frozen=True):
    """What to connect to, and the user whom its unit runs as; None: this machine has no such user."""

    path: Path
    uid: int | None


class UnitProcess:
    """One that systemd has for a child. Its end is seen; its exit code is systemd's to know, and 0 here."""

    def __init__(self, pid: int, handle: int, cgroup: str | None = None) -> None:
        """``cgroup``: of its unit; None where it has none, as in tests."""
        self.pid = pid
        self.returncode: int | None = None
        self._handle = handle
        self._cgroup = cgroup

    def wait(self, timeout: float | None = None) -> int:
        """Return once it has ended; subprocess.TimeoutExpired after ``timeout`` seconds."""
        if self.returncode is None:
            if not self.has_ended(timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = 0
            os.close(self._handle)
        return self.returncode

    def has_ended(self, timeout: float | None = 0) -> bool:
        if self.returncode is not None:
            return True
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def kill(self) -> None:
        """Kill it; what it started is ended by systemd."""
        if self.has_ended():
            return
        with contextlib.suppress(ProcessLookupError):
            try:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            except PermissionError as error:  # it is another user, and the daemon's unit has no CAP_KILL
                if self._cgroup is None:
                    self._tell_alive(error)
                elif not kill_at_once(self._cgroup):
                    # Nobody waits for systemd: it may be reloading, and other volumes have work to be done.
                    threading.Thread(target=self._kill_by_systemd, args=(self._cgroup,), daemon=True).start()

    def _kill_by_systemd(self, cgroup: str) -> None:
        try:
            kill_by_systemd(cgroup)
        except OSError as error:
            self._tell_alive(error)

    def _tell_alive(self, error: OSError) -> None:
        if not self.has_ended():  # by itself, and its unit with it
            log.error("unit.not_killed", pid=self.pid, error=f"{error.strerror or error}")


class UnitCompanion(Companion, frozen=True):
    """A companion that systemd started."""

    process: UnitProcess

    @override
    def kill(self) -> None:
        self.process.kill()

    @override
    def has_ended(self) -> bool:
        return self.process.has_ended()

    @override
    def await_end(self) -> None:
        """Wait for the end of what was killed; not for ever, since that is systemd's to bring about."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DEATH_S)


def find_unit(
    name: str, user: str = "root", environment: Mapping[str, str] = os.environ
) -> UnitSocket | None:
    """Return where to have a process started by systemd; None: whoever asks starts it itself.

    Where there are units nobody else starts it: what the agent's own unit may not do, no child of it may.
    """
    directory = environment.get(UNITS_VARIABLE)
    if not directory or os.geteuid() != 0:
        return None
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        uid = None
    return UnitSocket(Path(directory, f"{name}.sock"), uid)


async def start_in_unit(
    unit: UnitSocket, arguments: Sequence[str], environment: Mapping[str, str]
) -> UnitCompanion:
    """Have systemd start a process, and return it once it is there. Raises OSError."""
    name = f"ebs-agent-{unit.path.stem}"
    if unit.uid is None:
        raise OSError(f"the user of {name}@.service is missing: run the installer again")
    with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as theirs:
        stream = on_failure.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        stream.setblocking(False)  # noqa: FBT003 -- its only form
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            stream.connect(str(unit.path))
        except OSError as error:
            words = f"{name}.socket does not listen ({error.strerror}): systemctl restart {name}.socket"
            raise OSError(error.errno, words) from error
        try:
            with anyio.fail_after(ARRIVAL_S):
                await anyio.wait_readable(stream)
        except TimeoutError:
            raise TimeoutError(f"its unit did not begin within {ARRIVAL_S:g} s") from None
        pid = _hear_hello(stream, unit.uid)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        handle = os.pidfd_open(pid)
        on_failure.callback(os.close, handle)
        cgroup = find_cgroup(pid)
        if _read_uid(pid) != unit.uid:  # its number may be another's by now
            raise ProcessLookupError(f"process {pid} ended before it was told what to do")
        pipe, complaining = os.pipe()
        on_failure.callback(os.close, pipe)
        theirs.callback(os.close, complaining)
        told = json.dumps({"arguments": list(arguments), "environment": dict(environment)}).encode() + b"\n"
        if len(told) > LONGEST_BYTES or socket.send_fds(stream, [told], [complaining]) != len(told):
            raise OSError(f"{len(told)} bytes are more than a process is told at once")
        on_failure.pop_all()
    return UnitCompanion(UnitProcess(pid, handle, cgroup), stream, pipe)


def _hear_hello(stream: socket.socket, uid: int) -> int:
    """Return the process that says hello. Raises OSError where none does, or one of another user's."""
    said, extra, _, _ = stream.recvmsg(len(HELLO), socket.CMSG_SPACE(_CREDENTIALS.size))
    if said != HELLO:
        raise ConnectionAbortedError("its unit ended before it began")
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, sender, _ = _CREDENTIALS.unpack(content)
            if sender == uid and pid > 0:
                return int(pid)
            raise PermissionError(f"user {sender} answers in place of user {uid}")
    raise PermissionError("the kernel does not say who answers")


def _read_uid(pid: int) -> int | None:
    """Return who a process is, whether or not others may look into it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[1])
    return None
