"""The life of workers: forked when there is work for more of them, kept for a while, retired, or killed.

A worker that does not answer is sent SIGKILL and left to the zygote, its parent, which reaps it when the
kernel lets go of it. Nobody waits for that; until then it is remembered, and with it what it is stuck on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import anyio
from msgspec import Struct, field

from agent.core.errors import AgentError
from agent.core.exhaustion import explain_shortage
from agent.node.isolate import messages
from agent.node.isolate.messages import Fd
from agent.node.isolate.zygote import Raised, Returned, accept_fd
from agent.node.isolate.zygote_handle import ZygoteProcess

MAX_AT_ONCE = min(32, max(4, 2 * (os.cpu_count() or 1)))
"""Calls under way that may still be computing, and workers kept for the next ones. With twenty volumes at
once on two processors, more only take them from each other, and each new worker costs a fork."""
_RETRY_S = 1.0
"""Until a descriptor that no worker could be given is offered to one again."""
_IDLE_S = 90.0
"""Longer than the minute after which volumes at rest are looked at again: forking costs more than a look."""
_SPARE_IDLE_S = 10.0
"""Of a worker that waits below the one used last: a burst of work wants many, at rest one does it all."""


class Job(Struct, frozen=True):
    """What a worker is asked to do, and the subject it is about: a volume ID."""

    name: str
    subject: str


class Worker(Struct, eq=False):
    """A worker as the daemon has it: the socket it serves, and the answer that is arriving there."""

    number: int
    sock: socket.socket
    inbox: messages.Inbox = field(default_factory=messages.Inbox)
    pid: int | None = None
    """Its process; None until it has said so, which is the first it says."""
    idle_timer: asyncio.TimerHandle | None = None
    is_dead: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_alive(self) -> bool:
        """One with nothing to say still holds the other end of the socket."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    async def send(self, request: object) -> None:
        """Send a call: a function and its arguments."""
        message, fds = messages.encode(request)
        # Where it could not come to be, or has gone, it is told why, or that, by what is to be received.
        with contextlib.suppress(BrokenPipeError):
            sent = self.sock.sendmsg([message], messages.ancillary(fds))
            if message[sent:]:
                await asyncio.get_running_loop().sock_sendall(self.sock, message[sent:])

    def hand(self, fd: Fd) -> None:
        """Give the worker a descriptor to close, and close the daemon's: which is never the last one.

        The worker acts when it has all of the call, so the daemon closes after its first byte. Raises
        OSError where it does not take it; the descriptor is the caller's still.
        """
        message, fds = messages.encode((accept_fd, (fd,)))
        self.sock.sendmsg([message[:1]], messages.ancillary(fds))
        fd.close()
        # So small a call is sent whole. If the worker has gone, the descriptor went with it.
        with contextlib.suppress(ConnectionError):
            self.sock.send(message[1:])

    async def _receive_message(self) -> Any:
        while not self.inbox.is_complete:
            await anyio.wait_readable(self.sock)
            if not self.inbox.receive(self.sock):
                raise messages.MessageError("it closed its socket without an answer")
        return self.inbox.decode()

    async def receive(self) -> Returned | Raised:
        """Return the answer, or raise MessageError or ConnectionError where none is coming."""
        answer = await self._receive_message()
        if isinstance(answer, messages.Started):
            self.pid = answer.pid
            answer = await self._receive_message()
        inbox, self.inbox = self.inbox, messages.Inbox()
        if not isinstance(answer, (Returned, Raised)):
            inbox.close_fds()
            raise messages.MessageError(f"it answered with a {type(answer).__name__}")
        return answer


class WorkerPool:
    """All workers of a zygote: those that wait for work, and those that were killed and have not died yet."""

    def __init__(self, zygote: ZygoteProcess) -> None:
        self._zygote = zygote
        self._idle: list[Worker] = []
        self.dying: dict[Worker, Job] = {}
        """Abandoned workers that have not died yet, and what each is stuck on."""
        self.on_death: Callable[[Job], None] = lambda _: None
        """Told what a worker was asked that was abandoned and has died: the kernel has let go of it."""
        self.forked = 0
        """How many workers were forked so far."""

    def take(self) -> Worker:
        """Return a worker that has nothing to do."""
        while self._idle:
            worker = self._idle.pop()
            if worker.idle_timer is not None:
                worker.idle_timer.cancel()
                worker.idle_timer = None
            if worker.is_alive:
                return worker
            worker.sock.close()
        return self._fork()

    def put_back(self, worker: Worker) -> None:
        """Keep a worker that has answered for the next call, for a while."""
        if len(self._idle) >= MAX_AT_ONCE:
            _end(worker)
            return
        if self._idle:
            self._let_idle(self._idle[-1], _SPARE_IDLE_S)
        self._let_idle(worker, _IDLE_S)
        self._idle.append(worker)

    def _let_idle(self, worker: Worker, idle_s: float) -> None:
        """Retire the worker after so long, or when it was to be before."""
        loop = asyncio.get_running_loop()
        if worker.idle_timer is not None:
            if worker.idle_timer.when() <= loop.time() + idle_s:
                return
            worker.idle_timer.cancel()
        worker.idle_timer = loop.call_later(idle_s, self._retire, worker)

    def abandon(self, worker: Worker, job: Job) -> None:
        """Have the worker killed, and remember it until its socket says that it is dead."""
        self.dying[worker] = job
        asyncio.get_running_loop().add_reader(worker.sock, self._hear_undead, worker)
        self._zygote.kill(worker.number)

    def hand_over(self, fd: Fd) -> Worker | None:
        """Give some worker a descriptor to close; return that worker, or None where it is given later.

        The daemon closes no device itself: it would wait for it.
        """
        try:
            worker = self.take()
        except (AgentError, OSError):
            asyncio.get_running_loop().call_later(_RETRY_S, self._close_late, fd)
            return None
        try:
            worker.hand(fd)
        except OSError:
            worker.sock.close()
            asyncio.get_running_loop().call_later(_RETRY_S, self._close_late, fd)
            return None
        return worker

    def _close_late(self, fd: Fd) -> None:
        worker = self.hand_over(fd)
        if worker is not None:
            worker.sock.close()

    def stop(self) -> None:
        """End those that wait for work, and forget those that do not die."""
        while self._idle:
            _end(self._idle.pop())
        self.on_death = lambda _: None
        for worker in list(self.dying):
            self._forget_undead(worker)

    def _fork(self) -> Worker:
        """Have a worker forked; ShortageError where there can be none now."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise explain_shortage("A worker could not be started", error) from error
        ours.setblocking(False)  # noqa: FBT003 -- its only form
        self.forked += 1
        worker = Worker(self.forked, ours)
        with theirs:
            try:
                self._zygote.fork(worker.number, theirs)
            except BaseException:
                ours.close()
                raise
        return worker

    def _retire(self, worker: Worker) -> None:
        self._idle.remove(worker)
        _end(worker)

    def _hear_undead(self, worker: Worker) -> None:
        """Read what an abandoned worker still says, until it is dead.

        Descriptors that come too late are left to a worker to close, since they are a device's.
        """
        try:
            is_open = worker.inbox.receive(worker.sock)
        except BlockingIOError:
            return
        except (OSError, messages.MessageError):
            is_open = False
        late, worker.inbox.fds = worker.inbox.fds, []
        worker.inbox.received.clear()
        for fd in late:
            self._close_late(Fd(fd))
        if not is_open:
            self._forget_undead(worker)

    def _forget_undead(self, worker: Worker) -> None:
        job = self.dying.pop(worker)
        worker.is_dead.set()
        asyncio.get_running_loop().remove_reader(worker.sock)
        worker.sock.close()
        self.on_death(job)


def _end(worker: Worker) -> None:
    """Close the worker's socket, on which it ends."""
    if worker.idle_timer is not None:
        worker.idle_timer.cancel()
    worker.sock.close()
