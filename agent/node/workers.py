"""The only way to run code that may block on a device or a filesystem: in a worker that can be abandoned.

The daemon never waits for a process. A call that takes longer than it may is abandoned: its worker is sent
SIGKILL and left to the zygote, its parent, which reaps it when the kernel lets go of it. Until then every
further call about the same subject fails at once, so a stalled volume holds one process and not one for each
look.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

import anyio

from agent.errors import AgentError, NotAnsweringError
from agent.model import Reason
from agent.node import wire
from agent.node.wire import Fd
from agent.node.zygote import ENVIRONMENT, Fork, Forked, Kill, Raised, Returned, accept_fd

if sys.version_info >= (3, 11):
    from typing import Self, TypeVarTuple, Unpack
else:
    from typing_extensions import Self, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_IDLE_S = 90.0
"""Longer than the minute after which volumes at rest are looked at again: forking costs more than a look."""
_MAX_AT_ONCE = min(32, max(4, 2 * (os.cpu_count() or 1)))
"""Calls under way that may still be computing, and workers kept for the next ones. With twenty volumes at
once on two processors, more only take them from each other, and each new worker costs a fork."""
_MOMENT_S = 0.1
"""A call that takes longer waits for its device, and no other call waits for it."""
_CLOSE_TIMEOUT_S = 5.0
_DEATH_S = 0.25
"""How long a killed worker may take to die before its subject counts as stuck."""

# The zygote imports from where the daemon does, and processes no site files: those of a venv cost more than
# it.
_START_ZYGOTE = """\
import sys
sys.path[:] = sys.argv[3:]
from agent.node.zygote import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""


class RemoteTraceback(Exception):  # noqa: N818 -- no error of its own: the cause of one, as text
    """Where in the worker an unintended error came from; the ``__cause__`` of what the caller gets."""


@dataclass(frozen=True)
class _Errand:
    name: str
    subject: str


@dataclass(eq=False)
class _Worker:
    number: int
    sock: socket.socket
    idle_timer: asyncio.TimerHandle | None = None
    inbox: wire.Inbox = field(default_factory=wire.Inbox)
    is_dead: anyio.Event = field(default_factory=anyio.Event)


class Workers:
    """A zygote and its workers. ``async with Workers() as workers:`` in the daemon's main thread.

    ``zygote``: one that was forked earlier; without it a fresh interpreter is started.
    """

    def __init__(self, zygote: tuple[Forked, socket.socket] | None = None) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._zygote: subprocess.Popen[bytes] | Forked | None = None
        self._control: socket.socket | None = None
        if zygote is not None:
            self._zygote, self._control = zygote
        self._numbers = itertools.count(1)
        self._idle: list[_Worker] = []
        self._turns = anyio.Semaphore(_MAX_AT_ONCE)
        self._undead: dict[_Worker, _Errand] = {}
        """Abandoned workers that have not died yet, and what each is stuck on."""
        self._abandoned_count = 0

    @property
    def abandoned(self) -> int:
        """Calls given up so far because they did not answer in time."""
        return self._abandoned_count

    @property
    def stuck_subjects(self) -> frozenset[str]:
        """Subjects whose abandoned worker has not died yet: they still do not answer."""
        return frozenset(errand.subject for errand in self._undead.values())

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if self._zygote is None:
            self._start_zygote()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            self._end_idle(self._idle.pop())
        for worker in list(self._undead):
            self._forget_undead(worker)
        self._stop_zygote()

    # -- Calls -----------------------------------------------------------------------------------------------

    async def call(
        self, function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], timeout_s: float, subject: str
    ) -> T:
        """Run ``function(*args)`` in a worker and return its result, or raise what it raised.

        ``function`` is a module-level function; arguments and result are plain values, in which every
        :class:`Fd` stands for an open descriptor: an argument's stays the caller's and the worker gets a
        duplicate, which it must not close; a result's is the caller's to close, by :meth:`close`.
        ``subject`` is what the call is about, a volume ID. Raises :class:`NotAnsweringError` after
        ``timeout_s`` seconds, or at once while an earlier call about the subject is still stuck; AgentError
        with reason ProbeFailed where the worker or the function crashed.
        """
        errand = _Errand(getattr(function, "__name__", repr(function)).strip("_").replace("_", " "), subject)
        await self._wait_unstuck(subject)
        async with self._take_turn():
            return await self._run_errand(errand, function, args, timeout_s)

    @contextlib.asynccontextmanager
    async def _take_turn(self, *, is_shielded: bool = False) -> AsyncIterator[None]:
        """Let a call begin when few others are computing; it counts among them for a moment at most."""
        with anyio.CancelScope(shield=is_shielded):
            await self._turns.acquire()
        with contextlib.ExitStack() as turn:
            turn.callback(self._turns.release)
            timer = self._loop.call_later(_MOMENT_S, turn.close)
            turn.callback(timer.cancel)
            yield

    async def _run_errand(
        self,
        errand: _Errand,
        function: Callable[[Unpack[Ts]], T],
        args: tuple[Unpack[Ts]],
        timeout_s: float,
    ) -> T:
        worker = self._take_worker()
        answer: Returned | Raised | None = None
        try:
            with anyio.move_on_after(timeout_s):
                await self._send(worker, (function, args))
                answer = await self._receive(worker)
        except (wire.WireError, ConnectionError) as error:
            raise AgentError(
                f"The worker asked to {errand.name} for {errand.subject} died or spoke nonsense ({error}).",
                hint="The agent's log and the kernel's tell more; the next look tries again.",
                reason=Reason.PROBE_FAILED,
            ) from error
        finally:
            if answer is not None:
                self._put_back(worker)
            else:
                self._abandon(worker, errand)
        if answer is None:
            self._abandoned_count += 1
            raise NotAnsweringError(
                f"{errand.subject} did not answer within {timeout_s:g} s ({errand.name}).",
                hint="The device or its filesystem is stalled; see the kernel log.",
                reason=Reason.STALLED,
            )
        if isinstance(answer, Raised):
            _raise_again(answer, errand)
        result: T = answer.value
        return result

    async def close(self, fd: Fd, *, subject: str) -> None:
        """Close a block device's descriptor where that cannot block the daemon.

        The last close of a device writes its cache back, which a stalled one never finishes. So a worker is
        handed the descriptor, and the daemon's own is never the last.
        """
        # Whatever ends meanwhile, the descriptor is handed over, and turns are waited for by moments only.
        async with self._take_turn(is_shielded=True):
            await self._hand_over(fd, subject)

    async def _hand_over(self, fd: Fd, subject: str) -> None:
        worker = self._take_worker()
        answer: Returned | Raised | None = None
        try:
            # A message this small fits the socket, so nothing is awaited before the worker has the
            # descriptor.
            message, fds = wire.encode((accept_fd, (fd,)))
            worker.sock.sendmsg([message], wire.ancillary(fds))
            fd.close()
            with anyio.move_on_after(_CLOSE_TIMEOUT_S):
                answer = await self._receive(worker)
        except (wire.WireError, ConnectionError):
            # The worker died, and the descriptor was closed with it.
            pass
        finally:
            if answer is not None:
                self._put_back(worker)
            else:
                self._abandon(worker, _Errand("close the device", subject))

    async def is_stuck(self, subject: str, patience_s: float = _DEATH_S) -> bool:
        """Tell whether a killed worker of the subject is still there when it has had this long to die."""
        stuck = [worker for worker, errand in self._undead.items() if errand.subject == subject]
        with anyio.move_on_after(patience_s):
            for worker in stuck:
                await worker.is_dead.wait()
        return any(worker in self._undead for worker in stuck)

    async def _wait_unstuck(self, subject: str) -> None:
        """Give killed workers of the subject a moment to die, or raise NotAnsweringError."""
        if await self.is_stuck(subject):
            errand = next(errand for errand in self._undead.values() if errand.subject == subject)
            raise NotAnsweringError(
                f"{subject} still does not answer since it was asked to {errand.name}.",
                hint="Nothing further is asked of it until it does; see the kernel log.",
                reason=Reason.STALLED,
            )

    async def _send(self, worker: _Worker, request: object) -> None:
        message, fds = wire.encode(request)
        # An empty socket takes the first bytes, and so the descriptors, without waiting.
        sent = worker.sock.sendmsg([message], wire.ancillary(fds))
        if sent < len(message):
            await self._loop.sock_sendall(worker.sock, message[sent:])

    async def _receive(self, worker: _Worker) -> Returned | Raised:
        inbox = worker.inbox
        while not inbox.is_complete:
            await anyio.wait_readable(worker.sock)
            if not inbox.receive(worker.sock):
                raise wire.WireError("it closed its socket without an answer")
        worker.inbox = wire.Inbox()
        answer = inbox.decode()
        if not isinstance(answer, (Returned, Raised)):
            inbox.close_fds()
            raise wire.WireError(f"it answered with a {type(answer).__name__}")
        return answer

    # -- A worker's life -------------------------------------------------------------------------------------

    def _take_worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.idle_timer is not None:
                worker.idle_timer.cancel()
                worker.idle_timer = None
            if _is_alive(worker.sock):
                return worker
            worker.sock.close()
        return self._fork_worker()

    def _fork_worker(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)  # noqa: FBT003 -- its only form
        worker = _Worker(next(self._numbers), ours)
        with theirs:
            try:
                self._order(Fork(worker.number, Fd(theirs.fileno())))
            except BaseException:
                ours.close()
                raise
        return worker

    def _put_back(self, worker: _Worker) -> None:
        if len(self._idle) >= _MAX_AT_ONCE:
            self._end_idle(worker)
            return
        worker.idle_timer = self._loop.call_later(_IDLE_S, self._retire, worker)
        self._idle.append(worker)

    def _retire(self, worker: _Worker) -> None:
        self._idle.remove(worker)
        self._end_idle(worker)

    def _end_idle(self, worker: _Worker) -> None:
        if worker.idle_timer is not None:
            worker.idle_timer.cancel()
        worker.sock.close()

    def _abandon(self, worker: _Worker, errand: _Errand) -> None:
        """Have the worker killed, and remember it until its socket says that it is dead."""
        self._undead[worker] = errand
        self._loop.add_reader(worker.sock, self._hear_undead, worker)
        try:
            self._order(Kill(worker.number))
        except OSError:
            # With the zygote gone the kernel has killed the worker already.
            self._stop_zygote()

    def _hear_undead(self, worker: _Worker) -> None:
        """Read what an abandoned worker still says, until it is dead.

        Descriptors that come too late are left to a worker to close, since they are a device's.
        """
        try:
            is_open = worker.inbox.receive(worker.sock)
        except BlockingIOError:
            return
        except (OSError, wire.WireError):
            is_open = False
        late, worker.inbox.fds = worker.inbox.fds, []
        worker.inbox.received.clear()
        for fd in late:
            self._close_later(Fd(fd))
        if not is_open:
            self._forget_undead(worker)

    def _close_later(self, fd: Fd) -> None:
        worker = self._fork_worker()
        message, fds = wire.encode((accept_fd, (fd,)))
        worker.sock.sendmsg([message], wire.ancillary(fds))
        fd.close()
        worker.sock.close()

    def _forget_undead(self, worker: _Worker) -> None:
        del self._undead[worker]
        worker.is_dead.set()
        self._loop.remove_reader(worker.sock)
        worker.sock.close()

    # -- The zygote ------------------------------------------------------------------------------------------

    def _order(self, order: Fork | Kill) -> None:
        """Send an order to the zygote, starting another one where it has died."""
        message, fds = wire.encode(order)
        try:
            control = self._control or self._start_zygote()
            control.sendmsg([message], wire.ancillary(fds))
        except (BrokenPipeError, ConnectionResetError):
            if isinstance(order, Kill):
                raise
            self._stop_zygote()
            self._start_zygote().sendmsg([message], wire.ancillary(fds))

    def _start_zygote(self) -> socket.socket:
        # Must run in the main thread: the kernel ends the zygote with the thread that started it.
        # Orders are told apart by their packets: two may come at once.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-I", "-S", "-c", _START_ZYGOTE, str(theirs.fileno()), str(os.getpid())]
            self._zygote = subprocess.Popen(
                [*argv, *(str(Path(entry).absolute()) for entry in sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=ENVIRONMENT,
                start_new_session=True,
            )
        ours.setblocking(False)  # noqa: FBT003 -- its only form
        self._control = ours
        return ours

    def _stop_zygote(self) -> None:
        """End the zygote, and with it every worker that can die."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            self._zygote.kill()
            # It touches no device, so it dies at once; a machine out of memory is not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._zygote.wait(timeout=1)
            self._zygote = None


def _is_alive(sock: socket.socket) -> bool:
    """Whether a worker with nothing to say still holds the other end."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _raise_again(raised: Raised, errand: _Errand) -> NoReturn:
    if raised.trace is None:
        raise raised.error
    raise AgentError(
        f"The attempt to {errand.name} for {errand.subject} failed: {raised.error}.",
        hint="This is a fault of the agent's own; its traceback is in the log.",
        reason=Reason.PROBE_FAILED,
    ) from RemoteTraceback(raised.trace)
