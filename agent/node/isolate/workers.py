"""The only way to run code that may block on a device or a filesystem: in a worker that can be abandoned.

The daemon never waits for a process. A call that takes longer than it may is abandoned and its worker killed
(``worker_lifecycle``). Until the kernel lets go of that worker every further call about the same subject
fails at once, so a stalled volume holds one process and not one for each look.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, TypeVar

import anyio
from typing_extensions import Self, TypeVarTuple, Unpack

from agent.base.error_barrier import Barrier
from agent.base.off_loop import Aside
from agent.core.errors import AgentError, BugError, FrozenError, NotAnsweringError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.frozen_filesystem import MAYBE_FROZEN, hint_at_thaw, tell_frozen
from agent.core.model import Reason
from agent.node.isolate.confined_calls import ConfinedCalls
from agent.node.isolate.forked_zygote import Forked
from agent.node.isolate.messages import CutOffError, Fd, MessageError
from agent.node.isolate.worker_lifecycle import MAX_AT_ONCE, Job, Worker, WorkerPool
from agent.node.isolate.zygote import Raised, Returned
from agent.node.isolate.zygote_handle import ZygoteProcess
from agent.node.kernel.wait_channels import Hold, find_hold

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FILE_TIMEOUT_S = 10.0
"""A file of a few pages takes milliseconds; on a disk that is throttled to a standstill, seconds."""
_MOMENT_S = 0.1
"""A call that takes longer waits for its device, and no other call waits for it."""
_CLOSE_TIMEOUT_S = 5.0
_DEATH_S = 0.25
"""How long a killed worker may take to die before its subject counts as stuck."""


class RemoteTraceback(Exception):  # noqa: N818 -- no error of its own: the cause of one, as text
    """Where in the worker an unintended error came from; the ``__cause__`` of what the caller gets."""


class Workers:
    """Calls in other processes. ``async with Workers() as workers:`` in the daemon's main thread.

    ``zygote``: one that was forked earlier; without it a fresh interpreter is started. ``confined``: where a
    process that was begun with it waits for the first confined call.
    """

    def __init__(
        self, zygote: tuple[Forked, socket.socket] | None = None, confined: socket.socket | None = None
    ) -> None:
        self._zygote = ZygoteProcess(zygote)
        self.confined = ConfinedCalls(self._zygote, confined)
        """Makes calls in processes with next to no rights."""
        self._pool = WorkerPool(self._zygote)
        self._turns = anyio.Semaphore(MAX_AT_ONCE, fast_acquire=True)
        self._abandoned_count = 0
        self._barrier = Barrier()

    @property
    def abandoned(self) -> int:
        """Calls given up so far because they did not answer in time."""
        return self._abandoned_count

    def on_release(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` told the subject of each worker that was abandoned and has died."""
        self._pool.on_death = lambda job: tell(job.subject)

    async def __aenter__(self) -> Self:
        self._zygote.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.confined.stop()
        self._pool.stop()
        self._zygote.stop()

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
        with reason ProbeFailed where the worker died; BugError, whose traceback is logged, where the function
        failed in a way that is nobody's intention; ShortageError where the node has run out of something.
        """
        if self._pool.dying:
            await self._wait_unstuck(subject)
        await self._turns.acquire()
        with _Turn(self._turns):
            return await self._run_job(Job(_name(function), subject), function, args, timeout_s)

    async def _run_job(
        self,
        job: Job,
        function: Callable[[Unpack[Ts]], T],
        args: tuple[Unpack[Ts]],
        timeout_s: float,
    ) -> T:
        worker = self._pool.take()
        answer: Returned | Raised | None = None
        try:
            answer = await worker.ask((function, args), timeout_s)
        except CutOffError as error:
            full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            raise explain_shortage(_give_up(job), full) from error
        except (MessageError, ConnectionError) as error:
            raise AgentError(
                f"The worker asked to {job.name} for {job.subject} died or spoke nonsense ({error}).",
                hint="The agent's log and the kernel's tell more; the next look tries again.",
                reason=Reason.PROBE_FAILED,
            ) from error
        except OSError as error:
            if is_shortage(error):
                raise explain_shortage(_give_up(job), error) from error
            raise
        finally:
            if answer is not None:
                self._pool.put_back(worker)
            else:
                self._pool.abandon(worker, job)
        if answer is None:
            self._abandoned_count += 1
            raise _explain_silence(
                worker,
                f"{job.subject} did not answer within {timeout_s:g} s ({job.name}).",
                "The device or its filesystem is stalled; see the kernel log.",
                job.subject,
            )
        if isinstance(answer, Raised):
            self._raise_again(answer, job)
        result: T = answer.value
        return result

    async def close(self, fd: Fd, *, subject: str) -> None:
        """Close a block device's descriptor where that cannot block the daemon.

        The last close of a device writes its cache back, which a stalled one never finishes. So a worker is
        handed the descriptor, and the daemon's own is never the last.
        """
        # Whatever ends meanwhile, the descriptor is handed over, and turns are waited for by moments only.
        with anyio.CancelScope(shield=True):
            await self._turns.acquire()
        with _Turn(self._turns):
            await self._hand_over(fd, subject)

    async def _hand_over(self, fd: Fd, subject: str) -> None:
        # Nothing is awaited before a worker has the descriptor.
        worker = self._pool.hand_over(fd)
        if worker is None:
            return
        answer: Returned | Raised | None = None
        try:
            answer = await worker.receive(_CLOSE_TIMEOUT_S)
        except (MessageError, ConnectionError):
            # The worker died, and the descriptor was closed with it.
            pass
        finally:
            if answer is not None:
                self._pool.put_back(worker)
            else:
                self._pool.abandon(worker, Job("close the device", subject))

    # -- What is stuck ---------------------------------------------------------------------------------------

    async def is_stuck(self, subject: str, patience_s: float = _DEATH_S) -> bool:
        """Tell whether a killed worker of the subject is still there when it has had this long to die."""
        dying = self._pool.dying
        stuck = [worker for worker, job in dying.items() if job.subject == subject]
        if not stuck:
            return False
        with anyio.move_on_after(patience_s):
            for worker in stuck:
                await worker.is_dead.wait()
        return any(worker in dying for worker in stuck)

    async def _wait_unstuck(self, subject: str) -> None:
        """Give killed workers of the subject a moment to die, or raise NotAnsweringError."""
        if await self.is_stuck(subject):
            worker, job = next(one for one in self._pool.dying.items() if one[1].subject == subject)
            raise _explain_silence(
                worker,
                f"{subject} still does not answer since it was asked to {job.name}.",
                "Nothing further is asked of it until it does; see the kernel log.",
                subject,
            )

    def is_held_by_freeze(self, subject: str) -> bool:
        """Tell whether an abandoned worker of the subject waits for a frozen filesystem to be thawed."""
        return any(
            job.subject == subject and _find_hold(worker) is Hold.FREEZE
            for worker, job in self._pool.dying.items()
        )

    def _raise_again(self, raised: Raised, job: Job) -> NoReturn:
        if is_shortage(raised.error):
            raise explain_shortage(_give_up(job), raised.error) from raised.error
        if raised.trace is None:
            raise raised.error
        trace = RemoteTraceback(raised.trace)
        self._barrier.tell(trace, doing=job.name, subject=job.subject)
        raise BugError(
            f"The attempt to {job.name} for {job.subject} failed: {raised.error}.",
            hint="This is a fault of the agent's own; its traceback is in the log.",
            reason=Reason.INTERNAL_ERROR,
        ) from trace


class _Turn:
    """One of the calls that may be computing, from when it may begin: until it ends, or for a moment."""

    def __init__(self, turns: anyio.Semaphore) -> None:
        self._turns = turns
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(_MOMENT_S, self.end)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let another begin, if this has not been done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._turns.release()


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", repr(function)).strip("_").replace("_", " ")


def _find_hold(worker: Worker) -> Hold:
    # One that has not even said its number has not begun to wait.
    return Hold.OTHER if worker.pid is None else find_hold(worker.pid)


def _explain_silence(worker: Worker, words: str, hint: str, subject: str) -> NotAnsweringError:
    """Return why a worker does not answer, by what it waits for; ``words`` where that is the device."""
    hold = _find_hold(worker)
    if hold is Hold.FREEZE:
        return FrozenError(tell_frozen(subject), hint=hint_at_thaw(), reason=Reason.FROZEN)
    if hold is Hold.UNKNOWN:
        return NotAnsweringError(
            words, hint=f"{hint} {MAYBE_FROZEN}", reason=Reason.STALLED, may_be_frozen=True
        )
    return NotAnsweringError(words, hint=hint, reason=Reason.STALLED)


def _give_up(job: Job) -> str:
    return f"The attempt to {job.name} for {job.subject} was given up"


def make_aside(workers: Workers) -> Aside:
    """Return what has workers do it."""

    async def aside(function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], subject: str) -> T:
        return await workers.call(function, *args, timeout_s=FILE_TIMEOUT_S, subject=subject)

    return aside
