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

from agent.cloud.call import Call
from agent.cloud.errors import CloudError, Failure, explain_failure
from agent.cloud.pace import Pacer
from agent.cloud.worker_process import WorkerDiedError, WorkerProcess, WorkerSettings, start_worker
from agent.errors import AgentError
from agent.model import Reason

T = TypeVar("T")


class CloudClient:
    """Makes calls to AWS through a worker process that exists only while it has something to do."""

    def __init__(
        self, settings: WorkerSettings, count: Callable[[str, str], None] = lambda _operation, _outcome: None
    ) -> None:
        self._settings = settings
        self._count = count
        self._pacer = Pacer()
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

    async def make(self, call: Call[T], subject: str = "") -> T:
        """Make the call and return what its answer says, or raise ``CloudError`` that names ``subject``."""
        return await self._pacer.make(call, lambda: self._make_once(call, subject))

    async def try_out(self, call: Call[Any]) -> None:
        """Have EC2 check whether the call would be allowed, changing nothing; raise what it says if not.

        Only for EC2's calls: those of other services know no dry run and would be made.
        """
        if call.service != "ec2":
            raise ValueError(f"{call.operation} has no dry run")
        reply = await self._ask(call, {"DryRun": True})
        failure = Failure(**reply["failure"]) if "failure" in reply else None
        # A dry run always fails; with this code where the call would have succeeded.
        if failure is not None and failure.code != "DryRunOperation":
            raise explain_failure(failure)

    async def _make_once(self, call: Call[T], subject: str) -> T:
        try:
            reply = await self._ask_with_repetition(call)
        except CloudError:
            self._count(call.operation, "failed")
            raise
        if "failure" in reply:
            error = explain_failure(Failure(**reply["failure"]), subject)
            self._count(call.operation, "denied" if error.reason is Reason.PERMISSION_DENIED else "failed")
            raise error
        self._count(call.operation, "done")
        try:
            return call.parse(reply["answer"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AgentError(
                f"The answer to {call.operation} is not shaped as AWS documents it: {error!r}.",
                hint="Is there a proxy between this node and AWS that changes answers?",
                reason=Reason.CLOUD_ERROR,
            ) from error

    async def _ask_with_repetition(self, call: Call[T]) -> dict[str, Any]:
        if call.is_repeatable:
            with contextlib.suppress(WorkerDiedError):
                return await self._ask(call)
        try:
            return await self._ask(call)
        except WorkerDiedError:
            died = Failure(call.service, call.operation, "WorkerDied", "the worker process ended meanwhile")
            raise explain_failure(died) from None

    async def _ask(self, call: Call[T], extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        worker = await self._find_worker()
        self._stop_idle_timer()
        self._last_id += 1
        parameters = {**call.parameters(), **(extra or {})}
        asked = {"operation": call.operation, "parameters": parameters}
        try:
            return await worker.ask(self._last_id, asked, self._settings.call_timeout_s)
        except asyncio.TimeoutError:
            # botocore bounds each attempt; a worker that exceeds the sum of them is stuck.
            worker.end()
            waited = f"no answer in {self._settings.call_timeout_s:.0f} s"
            raise explain_failure(Failure(call.service, call.operation, "WorkerTimeout", waited)) from None
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
