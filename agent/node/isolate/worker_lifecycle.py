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
    idle_until: float = 0.0
    """By the loop's clock: when it is retired unless it has been asked something."""
    is_dead: anyio.Event = field(default_factory=anyio.Event)
    _is_heard: bool = False
    """What it says is taken as it comes: since its first answer was waited for."""
    _waiting: asyncio.Future[bool] | None = None
    """Whether there is something to read before the time is over."""
    _failure: Exception | None = None
    """Why nothing more is to come."""

    @property
    def is_alive(self) -> bool:
        """One with nothing to say still holds the other end of the socket."""
        with contextlib.suppress(OSError):
            try:
                self.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return self._failure is None and not self.inbox.received
        return False

    async def ask(self, request: object, timeout_s: float) -> Returned | Raised | None:
        """Send a call, a function and its arguments, and return the answer; as ``receive`` does."""
        message, fds = messages.encode(request)
        # Where it could not come to be, or has gone, it is told why, or that, by what is to be received.
        with contextlib.suppress(BrokenPipeError):
            rest = message[self.sock.sendmsg([message], messages.ancillary(fds)) :]
            if rest:
                loop = asyncio.get_running_loop()
                deadline = loop.time() + timeout_s
                with anyio.move_on_after(timeout_s) as sending:
                    await loop.sock_sendall(self.sock, rest)
                if sending.cancelled_caught:
                    return None
                timeout_s = deadline - loop.time()
        return await self.receive(timeout_s)

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

    async def receive(self, timeout_s: float) -> Returned | Raised | None:
        """Return the answer, or None where it has not come in time.

        Raises MessageError or OSError where none is coming. What is not returned stays in the inbox.
        """
        loop = asyncio.get_running_loop()
        if not self._is_heard:
            loop.add_reader(self.sock, self._hear)
            self._is_heard = True
        deadline = loop.time() + timeout_s
        timer = loop.call_at(deadline, self._wake, False)  # noqa: FBT003 -- what is waited for
        try:
            while await self._wait(loop, deadline):
                said = self.inbox.decode()
                if isinstance(said, messages.Started):
                    self.pid = said.pid
                elif isinstance(said, (Returned, Raised)):
                    self.inbox.fds = []  # they are where the answer has them
                    return said
                else:
                    raise messages.MessageError(f"it answered with a {type(said).__name__}")
        finally:
            timer.cancel()
        return None

    def end(self) -> None:
        """Close the socket, on which it ends."""
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()

    async def _wait(self, loop: asyncio.AbstractEventLoop, deadline: float) -> bool:
        """Return whether a whole message is there before the time is over; raise where none is coming."""
        if not self.inbox.is_complete and self._failure is None:
            if loop.time() >= deadline:  # whoever was to say so may have found it heard something just then
                return False
            self._waiting = loop.create_future()
            # What has come stays in the inbox until then: nothing of it is lost by being cancelled.
            if not await self._waiting:
                return False
        if self._failure is not None:
            raise self._failure
        return True

    def _hear(self) -> None:
        """Take what has come, whether or not anybody waits for it."""
        try:
            if not self.inbox.receive(self.sock):
                self._failure = messages.MessageError("it closed its socket without an answer")
            elif not self.inbox.is_complete:
                return
        except BlockingIOError:
            return
        except (messages.MessageError, OSError) as error:
            self._failure = error
        if self._failure is not None:
            asyncio.get_running_loop().remove_reader(self.sock)
        self._wake(True)  # noqa: FBT003

    def _wake(self, has_come: bool) -> None:  # noqa: FBT001
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(has_come)


class WorkerPool:
    """All workers of a zygote: those that wait for work, and those that were killed and have not died yet."""

    def __init__(self, zygote: ZygoteProcess) -> None:
        self._zygote = zygote
        self._idle: list[Worker] = []
        self.dying: dict[Worker, Job] = {}
        """Abandoned workers that have not died yet, and what each is stuck on."""
        self.on_death: Callable[[Job], None] = lambda _: None
        """Told what a worker was asked that was abandoned and has died: the kernel has let go of it."""
        self._retiring: asyncio.TimerHandle | None = None
        self.forked = 0
        """How many workers were forked so far."""

    def take(self) -> Worker:
        """Return a worker that has nothing to do."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            worker.end()
            self._close_inbox(worker)
        return self._fork()

    def put_back(self, worker: Worker) -> None:
        """Keep a worker that has answered for the next call, for a while."""
        if len(self._idle) >= MAX_AT_ONCE:
            worker.end()
            return
        now = asyncio.get_running_loop().time()
        if self._idle:
            below = self._idle[-1]
            below.idle_until = min(below.idle_until, now + _SPARE_IDLE_S)
        worker.idle_until = now + _IDLE_S
        self._idle.append(worker)
        self._retire_at(min(one.idle_until for one in self._idle[-2:]))

    def _retire_at(self, when: float) -> None:
        """Have those looked at that have nothing to do, then or sooner."""
        if self._retiring is not None:
            if self._retiring.when() <= when:
                return
            self._retiring.cancel()
        self._retiring = asyncio.get_running_loop().call_at(when, self._retire)

    def _retire(self) -> None:
        """End those that have had nothing to do for long enough."""
        self._retiring = None
        now = asyncio.get_running_loop().time()
        for worker in self._idle:
            if worker.idle_until <= now:
                worker.end()
        self._idle = [worker for worker in self._idle if worker.idle_until > now]
        if self._idle:
            self._retire_at(min(worker.idle_until for worker in self._idle))

    def abandon(self, worker: Worker, job: Job) -> None:
        """Have the worker killed, and remember it until its socket says that it is dead."""
        self.dying[worker] = job
        asyncio.get_running_loop().add_reader(worker.sock, self._hear_undead, worker)
        self._zygote.kill(worker.number)

    def hand_over(self, fd: Fd) -> Worker | None:
        """Give some worker a descriptor to close; return that worker, or None where it is given later.

        The daemon closes no device itself: it would wait for it.
        """
        worker = None
        try:
            worker = self.take()
            worker.hand(fd)
        except (AgentError, OSError):
            if worker is not None:
                worker.end()
            asyncio.get_running_loop().call_later(_RETRY_S, self._close_late, fd)
            return None
        return worker

    def _close_late(self, fd: Fd) -> None:
        worker = self.hand_over(fd)
        if worker is not None:
            worker.end()

    def stop(self) -> None:
        """End those that wait for work, and forget those that do not die."""
        if self._retiring is not None:
            self._retiring.cancel()
            self._retiring = None
        while self._idle:
            self._idle.pop().end()
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
        self._close_inbox(worker)
        if not is_open:
            self._forget_undead(worker)

    def _close_inbox(self, worker: Worker) -> None:
        late, worker.inbox = worker.inbox.fds, messages.Inbox()
        for fd in late:
            self._close_late(Fd(fd))

    def _forget_undead(self, worker: Worker) -> None:
        job = self.dying.pop(worker)
        worker.is_dead.set()
        worker.end()
        self.on_death(job)
