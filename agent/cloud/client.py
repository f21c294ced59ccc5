"""The daemon's side of the cloud worker: starts it when there is a call to make, ends it when there is none.

Never imports boto3. A worker that dies or hangs costs the calls under way and nothing else: those that may
be repeated are asked of a new one, the others fail as retryable and the next look finds out what became
of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from agent.cloud.call import Call
from agent.cloud.errors import CloudError, Failure, explain_failure
from agent.cloud.pace import Pacer
from agent.errors import AgentError
from agent.model import Reason

T = TypeVar("T")

_LINE_LIMIT_BYTES = 64 << 20
"""Longest answer: a thousand volumes with fifty tags each are about 10 MB of JSON."""


@dataclass(frozen=True)
class WorkerSettings:
    """How to run the worker."""

    region: str | None = None
    endpoint: str | None = None
    """Where all services answer, in tests; None for AWS."""
    user: str | None = None
    """Unprivileged user to run as; only root can and has to say one."""
    attempts: int = 3
    """How often the worker itself tries a repeatable call, with jitter, before it tells of a failure."""
    idle_s: float = 60.0
    call_timeout_s: float = 120.0
    start_timeout_s: float = 30.0
    environment: Mapping[str, str] | None = None
    """Added to what the worker keeps of the daemon's environment."""
    python: str = sys.executable


_NO_GROUP = 65534
"""The kernel's overflow group. The worker's user has a group of the same name, and whoever is in it may give
the daemon orders: detach a volume, reload the policy. What talks to the internet may not."""
_KEPT_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)


def _choose_environment(settings: WorkerSettings) -> dict[str, str]:
    """Keep what reaching AWS needs: proxies, certificates and everything that begins with AWS_."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_ENVIRONMENT or name.startswith("AWS_")
    }
    return {**kept, **(settings.environment or {})}


class _Worker:
    """One running worker process and the calls it has not answered yet."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.writer = writer
        self.pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.is_dead = False
        self._reading = asyncio.create_task(self._read(reader), name="cloud-worker-reader")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                reply = json.loads(line)
                answered = self.pending.pop(int(reply["id"]), None)
                if answered is not None and not answered.done():
                    answered.set_result(reply)
        except (OSError, ValueError, KeyError):
            pass  # a line that is none, from a process that talks to the internet: end it
        finally:
            self.end()

    def end(self) -> None:
        """Kill the process and fail what waits for it; safe to call again."""
        self.is_dead = True
        self.writer.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        for waiting in self.pending.values():
            if not waiting.done():
                waiting.set_exception(_WorkerDiedError())
        self.pending.clear()

    async def finish(self) -> None:
        """End the process and reap it. SIGKILL on a process that only has sockets does not wait."""
        self.end()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.to_thread(self.process.wait, 10)


class _WorkerDiedError(Exception):
    """The worker ended before it answered."""


class CloudClient:
    """Makes calls to AWS through a worker process that exists only while it has something to do."""

    def __init__(
        self, settings: WorkerSettings, count: Callable[[str, str], None] = lambda _operation, _outcome: None
    ) -> None:
        self._settings = settings
        self._count = count
        self._pacer = Pacer()
        self._worker: _Worker | None = None
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
            with contextlib.suppress(_WorkerDiedError):
                return await self._ask(call)
        try:
            return await self._ask(call)
        except _WorkerDiedError:
            died = Failure(call.service, call.operation, "WorkerDied", "the worker process ended meanwhile")
            raise explain_failure(died) from None

    async def _ask(self, call: Call[T], extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        worker = await self._find_worker()
        self._stop_idle_timer()
        self._last_id += 1
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        number = self._last_id
        worker.pending[number] = waiting
        asked = {
            "id": number,
            "operation": call.operation,
            "parameters": {**call.parameters(), **(extra or {})},
        }
        try:
            worker.writer.write(json.dumps(asked).encode() + b"\n")
            return await asyncio.wait_for(waiting, self._settings.call_timeout_s)
        except asyncio.TimeoutError:
            # botocore bounds each attempt; a worker that exceeds the sum of them is stuck.
            worker.end()
            waited = f"no answer in {self._settings.call_timeout_s:.0f} s"
            raise explain_failure(Failure(call.service, call.operation, "WorkerTimeout", waited)) from None
        finally:
            worker.pending.pop(number, None)
            self._start_idle_timer(worker)

    async def _find_worker(self) -> _Worker:
        async with self._starting:
            if self._worker is not None and self._worker.is_dead:
                self._retire(self._worker)
                self._worker = None
            if self._worker is None:
                self._worker = await self._start_worker()
            return self._worker

    async def _start_worker(self) -> _Worker:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - the method's only argument
        settings = self._settings
        argv = [
            settings.python,
            "-I",  # neither the working directory nor the environment says which code runs
            "-m",
            "agent.cloud.worker",
            settings.region or "",
            settings.endpoint or "",
            str(settings.attempts),
        ]
        try:
            process = await asyncio.to_thread(self._spawn, argv, theirs)
        except OSError as error:
            ours.close()
            raise AgentError(
                f"The cloud worker cannot be started: {error}.",
                hint="Can the worker's user read the agent's installation? `ebs-agent doctor` tries it.",
                reason=Reason.CLOUD_ERROR,
            ) from error
        finally:
            theirs.close()
        self.started += 1
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_LIMIT_BYTES)
        return _Worker(process, reader, writer)

    def _spawn(self, argv: list[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
        uid = self._find_user()
        return subprocess.Popen(
            argv,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=None,  # a crash's traceback belongs in the journal
            env=_choose_environment(self._settings),
            cwd="/",
            close_fds=True,
            start_new_session=True,
            user=uid,
            group=None if uid is None else _NO_GROUP,
            extra_groups=None if uid is None else (),
        )

    def _find_user(self) -> int | None:
        """Return the uid to run the worker as; None to stay who the daemon is."""
        user = self._settings.user
        if user is None or os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam(user).pw_uid
        except KeyError:
            raise OSError(f"there is no user {user}") from None

    def _start_idle_timer(self, worker: _Worker) -> None:
        self._stop_idle_timer()
        if not worker.pending and not worker.is_dead:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._settings.idle_s, self._end_idle, worker)

    def _stop_idle_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end_idle(self, worker: _Worker) -> None:
        if worker is self._worker and not worker.pending:
            self._worker = None
            self._retire(worker)

    def _retire(self, worker: _Worker) -> None:
        task = asyncio.get_running_loop().create_task(worker.finish(), name="cloud-worker-end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
