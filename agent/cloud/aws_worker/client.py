"""The daemon's side of the cloud worker: starts it when there is a call to make, ends it when there is none.

Never imports boto3. A worker that dies or hangs costs the calls under way and nothing else: those that may
be repeated are asked of a new one, the others fail as retryable and the next look finds out what became
of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws_worker.answer_lines import GarbledError, Reply, read_failure
from agent.cloud.aws_worker.process import WorkerDiedError, WorkerProcess, WorkerSettings, start_worker
from agent.cloud.aws_worker.throttle import Pacer
from agent.cloud.errors.explain import WOULD_SUCCEED, CloudError, Failure, explain_failure
from agent.core.errors import AgentError
from agent.core.model import Reason

T = TypeVar("T")

_MISREAD_REST_S = 60.0


class CloudClient:
    """Makes calls to AWS through a worker process that exists only while it has something to do."""

    def __init__(
        self, settings: WorkerSettings, count: Callable[[str, str], None] = lambda _operation, _outcome: None
    ) -> None:
        self._settings = settings
        self._count = count
        self._pacer = Pacer(attempts_at_failure=settings.attempts, at_once=settings.at_once)
        self._worker: WorkerProcess | None = None
        self._starting = asyncio.Lock()
        self._last_id = 0
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.started = 0
        """How many workers were started so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_idle_timer()
        if self._worker is not None:
            await self._worker.finish()
            self._worker = None
        await asyncio.gather(*self._ending, return_exceptions=True)

    @property
    def worker_pid(self) -> int | None:
        """The worker's process ID while there is one."""
        return self._worker.process.pid if self._worker and not self._worker.is_dead else None

    async def make(self, call: Call[T], subject: str = "", *, within: Within = contextlib.nullcontext) -> T:
        """Make the call and return what its answer says, or raise ``CloudError`` that names ``subject``.

        ``within`` is entered once it is the call's turn, and left with the answer, at each attempt.
        """

        async def ask() -> T:
            async with within():
                return await self._make_once(call, subject)

        return await self._pacer.make(call, ask)

    async def try_out(self, call: Call[Any]) -> None:
        """Have EC2 check whether the call would be allowed, changing nothing; raise what it says if not.

        Only for EC2's calls: those of other services know no dry run and would be made.
        """
        if call.service != "ec2":
            raise ValueError(f"{call.operation} has no dry run")
        reply = await self._ask(call, {"DryRun": True})
        if reply.answer is None:
            failure = self._read_failure(call, reply)
            if failure.code != WOULD_SUCCEED:
                raise explain_failure(failure, worker=self._settings.worker)

    async def _make_once(self, call: Call[T], subject: str) -> T:
        try:
            reply = await self._ask_with_repetition(call)
            if reply.answer is not None:
                said = await _read_answer(call, reply, subject)
                self._count(call.operation, "done")
                return said
            failure = self._read_failure(call, reply, subject)
            error = explain_failure(failure, subject, worker=self._settings.worker)
        except CloudError:
            self._count(call.operation, "failed")
            raise
        self._count(call.operation, _name_outcome(error))
        raise error

    @staticmethod
    def _read_failure(call: Call[Any], reply: Reply, subject: str = "") -> Failure:
        try:
            return read_failure(call.service, call.operation, reply.failure)
        except AgentError as error:
            raise _explain_misread(call, error.message, subject) from error

    async def _ask_with_repetition(self, call: Call[T]) -> Reply:
        if call.is_repeatable:
            with contextlib.suppress(WorkerDiedError):
                return await self._ask(call)
        try:
            return await self._ask(call)
        except WorkerDiedError:
            died = Failure(call.service, call.operation, "WorkerDied", "the worker process ended meanwhile")
            raise explain_failure(died) from None

    async def _ask(self, call: Call[T], extra: Mapping[str, Any] | None = None) -> Reply:
        worker = await self._find_worker()
        self._stop_idle_timer()
        self._last_id += 1
        parameters = {**call.parameters(), **(extra or {})}
        asked = {"operation": call.operation, "parameters": parameters}
        try:
            return await worker.ask(self._last_id, asked, self._settings.call_timeout_s)
        except asyncio.TimeoutError:
            # botocore bounds the time of each request; a worker that takes as long for one call is stuck.
            worker.end()
            waited = f"no answer in {self._settings.call_timeout_s:.0f} s"
            raise explain_failure(Failure(call.service, call.operation, "WorkerTimeout", waited)) from None
        except GarbledError as error:
            raise _explain_misread(call, f"the worker wrote a line, and {error}") from error
        finally:
            self._start_idle_timer(worker)

    async def _find_worker(self) -> WorkerProcess:
        async with self._starting:
            if self._worker is not None and self._worker.is_dead:
                self._retire(self._worker)
                self._worker = None
            if self._worker is None:
                self._worker = await start_worker(self._settings)
                self.started += 1
            return self._worker

    def _start_idle_timer(self, worker: WorkerProcess) -> None:
        self._stop_idle_timer()
        if not worker.pending and not worker.is_dead:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._settings.idle_s, self._end_idle, worker)

    def _stop_idle_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end_idle(self, worker: WorkerProcess) -> None:
        if worker is self._worker and not worker.pending:
            self._worker = None
            self._retire(worker)

    def _retire(self, worker: WorkerProcess) -> None:
        task = asyncio.get_running_loop().create_task(worker.finish(), name="cloud-worker-end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _read_answer(call: Call[T], reply: Reply, subject: str) -> T:
    """Return what the answer says, or raise ``CloudError``: nothing that was not read whole is kept."""
    parts = (*reply.earlier, reply.answer or {})
    try:
        # What is large is read beside the event loop, which has others to serve.
        return await asyncio.to_thread(call.parse_parts, parts) if reply.is_large else call.parse_parts(parts)
    except AgentError as error:
        raise _explain_misread(call, error.message, subject) from error
    except Exception as error:  # the barrier round one answer, whose words somebody else may have chosen
        raise _explain_misread(call, f"{type(error).__name__} when it is read", subject) from error


def _name_outcome(error: CloudError) -> str:
    if error.code == WOULD_SUCCEED:
        return "done"
    return "denied" if error.reason is Reason.PERMISSION_DENIED else "failed"


def _explain_misread(call: Call[Any], why: str, subject: str = "") -> CloudError:
    about = f"{subject}: " if subject else ""
    return CloudError(
        f"{about}AWS's answer to {call.operation} is not understood: {why.rstrip('.')}.",
        hint="Is there a proxy between this node and AWS that changes answers?",
        reason=Reason.CLOUD_ERROR,
        code="NotUnderstood",
        operation=call.operation,
        retry_after_s=_MISREAD_REST_S,
    )
