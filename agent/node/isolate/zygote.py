"""The process that forks workers, and what a worker does. It never touches a device itself.

It is made once, imports what workers need and nothing else, and from then on forks: a worker is ready in
about a millisecond and shares the zygote's memory. Each worker serves one call at a time from its own socket.
It also forks what reads, with next to no rights, what others wrote: ``confined``.
The daemon says which worker to kill; a worker stuck in the kernel dies when the kernel lets go of it, and
until then nobody waits for it.

All of this dies with the daemon: the zygote when its control socket closes or its parent dies, the workers
with the zygote.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import gc
import importlib
import os
import selectors
import signal
import socket
import traceback
from typing import Any, NoReturn

from msgspec import Struct

from agent.core.errors import AgentError
from agent.node.isolate import messages
from agent.node.isolate.confined import die_with_parent, serve_once
from agent.node.isolate.resource_limits import keep_freed_memory
from agent.node.kernel import libblkid

PRELOADED = (
    "agent.node.volume_session.inspect",
    "agent.node.volume_session.recheck",
    "agent.node.sampling.sample",
    "agent.node.filesystem.format_guard",
    "agent.node.filesystem.mount",
    "agent.node.kernel.nvme",
    "agent.node.standins.files",
    "agent.node.state.volume_records",
    "agent.node.state.record_files",
    "agent.node.mounts.pod_views",
    "agent.csi.volumes.staged_record",
    "agent.report.hook_files",
)
"""Modules every worker has from the start, with all that they import: what a volume needs to be sampled, and
on its way from attached to mounted and to a pod. Others are imported by the first call that needs them."""

ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Returned(Struct, frozen=True):
    """A call's result."""

    value: Any


class Raised(Struct, frozen=True):
    """A call's error; ``trace`` is its traceback where the error is nobody's intention."""

    error: Exception
    trace: str | None = None


class Fork(Struct, frozen=True):
    """Order to the zygote: make worker ``number``, serving the descriptor sent along."""

    number: int
    socket: messages.Fd


class Confine(Struct, frozen=True):
    """Order to the zygote: make process ``number``, which answers once at the descriptor by ``function``.

    As ``confined.serve_once`` says.
    """

    number: int
    socket: messages.Fd
    function: str


class Kill(Struct, frozen=True):
    """Order to the zygote: end worker ``number`` by SIGKILL, whatever it is doing."""

    number: int


# -- A worker ------------------------------------------------------------------------------------------------


def serve(sock: socket.socket) -> None:
    """Serve calls from ``sock`` until it closes.

    When the daemon has an answer, the worker has let go of every descriptor: what was closed is closed.
    """
    while (inbox := messages.receive(sock)) is not None:
        answer = _answer(inbox)
        try:
            message, fds = messages.encode(answer)
        except Exception as error:  # noqa: BLE001 -- a result that cannot be sent is an answer too
            message, fds = messages.encode(Raised(*_portable(error)))
        inbox.close_fds(keep=fds.__contains__)
        try:
            if fds:
                # Descriptors go with the first byte, and the daemon acts on the last one.
                sock.sendmsg([message[:1]], messages.ancillary(fds))
                for fd in set(fds):
                    os.close(fd)
                message = message[1:]
            sock.sendall(message)
        except BrokenPipeError:
            return


def accept_fd(fd: messages.Fd) -> None:
    """Take a descriptor; the worker closes every one it was given after the call."""


def _answer(inbox: messages.Inbox) -> Returned | Raised:
    try:
        function, args = inbox.decode()
        return Returned(function(*args))
    except Exception as error:  # noqa: BLE001 -- it is raised again in the daemon
        return Raised(*_portable(error))


def _portable(error: Exception) -> tuple[Exception, str | None]:
    """Return ``error`` as it can travel: AgentError and OSError as they are, all else as its words."""
    if isinstance(error, AgentError):
        return error, None
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        return OSError(error.errno, error.strerror, error.filename), None
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), None
    words = str(error)
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return AgentError(text), traceback.format_exc()


# -- The zygote ----------------------------------------------------------------------------------------------


class Zygote:
    """Forks and kills workers at the daemon's order, and reaps them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: dict[int, int] = {}
        """Process of each worker not reaped yet, so a number can only ever mean our own child."""
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Obey until the control socket closes."""
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake_reader in ready:
                    os.read(self._wake_reader, 512)
                    self._reap()
                if self._control.fileno() in ready and not self._obey():
                    return

    def _obey(self) -> bool:
        try:
            inbox = messages.receive(self._control)
        except messages.CutOffError:
            # No room for a worker's socket. The daemon sees it close, and says so.
            return True
        if inbox is None:
            return False
        order = inbox.decode()
        if isinstance(order, (Fork, Confine)):
            self._fork(order)
        elif order.number in self._pids:
            os.kill(self._pids[order.number], signal.SIGKILL)
        return True

    def _fork(self, order: Fork | Confine) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            # Who waits for the worker is told why there is none.
            with socket.socket(fileno=order.socket) as sock, contextlib.suppress(OSError):
                if isinstance(order, Fork):
                    messages.send(sock, Raised(*_portable(error)))
            return
        if pid == 0:
            self._become_child(order)
        order.socket.close()
        self._pids[order.number] = pid

    def _become_child(self, order: Fork | Confine) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            self._control.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
            # The daemon may have let go of it already, as when it has no room for more descriptors.
            with socket.socket(fileno=order.socket) as sock, contextlib.suppress(ConnectionError):
                if isinstance(order, Confine):
                    serve_once(sock, order.function)
                else:
                    messages.send(sock, messages.Started(os.getpid()))
                    serve(sock)
            status = 0
        except BaseException:  # noqa: BLE001 -- nothing of the zygote's may run on in its child
            traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self) -> None:
        for number, pid in list(self._pids.items()):
            reaped, _ = os.waitpid(pid, os.WNOHANG)
            if reaped:
                del self._pids[number]


def main(control_fd: int, parent_pid: int) -> None:
    """Be the zygote, in a process of its own."""
    die_with_parent()
    if os.getppid() != parent_pid:
        return
    # A terminal's Ctrl-C and a service manager's SIGTERM reach the whole group; the daemon alone answers
    # them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    preload()
    keep_freed_memory()
    with socket.socket(fileno=control_fd) as control:
        Zygote(control).run()


def preload() -> None:
    """Import what workers need, and keep it out of the collector's way."""
    for name in PRELOADED:
        importlib.import_module(name)
    codecs.lookup("ascii")  # what sysfs says is read as
    with contextlib.suppress(OSError):  # whoever needs it says so where it is missing
        libblkid.load_library()
    # What is here stays: no collection looks at it again, and so none copies the pages it shares.
    gc.collect()
    gc.freeze()
