"""The process that speaks to AWS, seen from the daemon: started unprivileged, asked over a socket, killed.

Never imports boto3. Whoever is asked here may die or hang; ``client`` decides what that costs.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError
from agent.model import Reason

_LINE_LIMIT_BYTES = 64 << 20
"""Longest answer: a thousand volumes with fifty tags each are about 10 MB of JSON."""


class WorkerDiedError(Exception):
    """The worker ended before it answered."""


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


class WorkerProcess:
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

    async def ask(self, number: int, asked: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one call and return its reply; WorkerDiedError, or TimeoutError when none comes in time."""
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.pending[number] = waiting
        try:
            self.writer.write(json.dumps({"id": number, **asked}).encode() + b"\n")
            return await asyncio.wait_for(waiting, timeout_s)
        finally:
            self.pending.pop(number, None)

    def end(self) -> None:
        """Kill the process and fail what waits for it; safe to call again."""
        self.is_dead = True
        self.writer.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        for waiting in self.pending.values():
            if not waiting.done():
                waiting.set_exception(WorkerDiedError())
        self.pending.clear()

    async def finish(self) -> None:
        """End the process and reap it. SIGKILL on a process that only has sockets does not wait."""
        self.end()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.to_thread(self.process.wait, 10)


async def start_worker(settings: WorkerSettings) -> WorkerProcess:
    """Start a worker, or raise AgentError: never as root in place of the user it is to be."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - the method's only argument
    try:
        process = await asyncio.to_thread(_spawn, settings, theirs)
    except OSError as error:
        ours.close()
        raise AgentError(
            f"The cloud worker cannot be started: {error}.",
            hint="Can the worker's user read the agent's installation? `ebs-agent doctor` tries it.",
            reason=Reason.CLOUD_ERROR,
        ) from error
    finally:
        theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_LIMIT_BYTES)
    return WorkerProcess(process, reader, writer)


def _spawn(settings: WorkerSettings, theirs: socket.socket) -> subprocess.Popen[bytes]:
    uid = _find_user(settings.user)
    argv = [
        settings.python,
        "-I",  # neither the working directory nor the environment says which code runs
        "-m",
        "agent.cloud.worker",
        settings.region or "",
        settings.endpoint or "",
        str(settings.attempts),
    ]
    return subprocess.Popen(
        argv,
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=None,  # a crash's traceback belongs in the journal
        env=_choose_environment(settings),
        cwd="/",
        close_fds=True,
        start_new_session=True,
        user=uid,
        group=None if uid is None else _NO_GROUP,
        extra_groups=None if uid is None else (),
    )


def _find_user(user: str | None) -> int | None:
    """Return the uid to run the worker as; None to stay who the daemon is."""
    if user is None or os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise OSError(f"there is no user {user}") from None
