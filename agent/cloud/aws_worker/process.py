"""The process that speaks to AWS, seen from the daemon: started unprivileged, asked over a socket, killed.

Never imports boto3. Whoever is asked here may die or hang; ``client`` decides what that costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import pwd
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from agent.base.companion import Companion, start_companion
from agent.base.log import get_logger
from agent.base.unit_process import UnitSocket, start_in_unit
from agent.cloud.aws_worker.answer_lines import (
    LINE_LIMIT_BYTES,
    PARTS_LIMIT,
    SMALL_BYTES,
    GarbledError,
    Reply,
    decode_reply,
)
from agent.cloud.aws_worker.spawn import Spawning
from agent.cloud.aws_worker.stderr_log import tell_words
from agent.cloud.aws_worker.throttle import AT_ONCE
from agent.core.errors import AgentError
from agent.core.model import Reason
from agent.core.replace import replace
from agent.node.isolate.resource_limits import make_killable
from agent.node.isolate.unprivileged import COMMON_USER, NO_GROUP, NOBODY_UID

log = get_logger(__name__)


class WorkerDiedError(Exception):
    """The worker ended before it answered."""


class WorkerSettings(Struct, frozen=True):
    """How to run the worker."""

    region: str | None = None
    endpoint: str | None = None
    """Where all services answer, in tests; None for AWS."""
    user: str | int | None = None
    """Unprivileged user to run as, by name or number; only root can and has to say one: ``choose_user``."""
    attempts: int = 3
    """How often a repeatable call is made before it is told that AWS fails, or cannot be reached."""
    idle_s: float = 60.0
    call_timeout_s: float = 120.0
    at_once: int = AT_ONCE
    """Calls of each kind, those that describe and those that change, that may be under way together."""
    environment: Mapping[str, str] | None = None
    """Added to what the worker keeps of the daemon's environment."""
    python: str = sys.executable
    unit: UnitSocket | None = None
    """Where systemd starts it; None: the daemon does."""

    @property
    def worker(self) -> str:
        """Who the worker is, in words."""
        return f"user {os.geteuid() if self.user is None else self.user}"


_PROCESSES = 64
"""Processes and threads the worker's user may have: a worker has six, `ebs-agent doctor` starts one too."""
_LAST_WORDS_S = 1.0
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


def choose_user(user: str, endpoint: str | None) -> str | int | None:
    """Return who the worker is to be on this machine: root only where it cannot reach the internet.

    None is whoever the daemon is. An AWS emulated on loopback is spoken to as that, since a tree under
    development may be readable by nobody else.
    """
    if os.geteuid() != 0:
        return None
    for candidate in (user, COMMON_USER):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(candidate)
            return candidate
    if _is_loopback(endpoint):
        return None
    log.warning("cloud.worker_user_missing", user=user, runs_as=NOBODY_UID)
    return NOBODY_UID


def _is_loopback(endpoint: str | None) -> bool:
    try:
        return endpoint is not None and ipaddress.ip_address(urlsplit(endpoint).hostname or "").is_loopback
    except ValueError:
        return False  # a name, whatever it means today


class WorkerProcess:
    """One running worker process and the calls it has not answered yet."""

    def __init__(
        self,
        companion: Companion,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._companion = companion
        self.process = companion.process
        self.writer = writer
        self.pending: dict[int, asyncio.Future[Reply]] = {}
        self.is_dead = False
        self._unanswered: set[int] = set()
        """Asked and not answered, those included that nobody waits for any more."""
        self._begun: int | None = None
        """The number of an answer of which not all parts have come; they come one right after the other."""
        self._parts: list[Mapping[str, Any]] = []
        self._reading = asyncio.create_task(self._read(reader), name="cloud-worker-reader")
        self._telling = asyncio.create_task(
            tell_words(companion.words, self.process.pid), name="cloud-worker-words"
        )

    async def _read(self, reader: asyncio.StreamReader) -> None:
        garbled = None
        try:
            while line := await reader.readline():
                self._take(await _decode(line))
        except ValueError:
            garbled = GarbledError(f"its line is longer than {LINE_LIMIT_BYTES} bytes")
        except GarbledError as error:
            garbled = error
        except OSError:
            pass
        finally:
            self.end(garbled)

    def _take(self, reply: Reply) -> None:
        """Hand a reply to who asked. There is one for each call: more than was asked for ends the worker."""
        if reply.number not in self._unanswered:
            raise GarbledError("nothing was asked under its number")
        if self._begun not in {None, reply.number}:
            raise GarbledError("an answer ends before all its parts have come")
        if reply.has_more:
            if len(self._parts) >= PARTS_LIMIT - 1:
                raise GarbledError("its answer has too many parts")
            self._begun = reply.number
            self._parts.append(reply.answer or {})
            return
        earlier, self._parts, self._begun = tuple(self._parts), [], None
        self._unanswered.discard(reply.number)
        waiting = self.pending.pop(reply.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(replace(reply, earlier=earlier, is_large=reply.is_large or bool(earlier)))

    async def ask(self, number: int, asked: Mapping[str, Any], timeout_s: float) -> Reply:
        """Send one call and return its reply.

        Raises WorkerDiedError, GarbledError where the worker wrote what is no reply, and TimeoutError.
        """
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.pending[number] = waiting
        self._unanswered.add(number)
        try:
            self.writer.write(json.dumps({"id": number, **asked}).encode() + b"\n")
            return await asyncio.wait_for(waiting, timeout_s)
        finally:
            self.pending.pop(number, None)

    def end(self, garbled: GarbledError | None = None) -> None:
        """Kill the process with all it started, and fail what waits for it; safe to call again."""
        if not self.is_dead:
            self.is_dead = True
            self.writer.close()
            self._companion.kill()
        for waiting in self.pending.values():
            if not waiting.done():
                waiting.set_exception(garbled or WorkerDiedError())
        self.pending.clear()

    async def finish(self) -> None:
        """End the process and reap it. SIGKILL on a process that only has sockets does not wait."""
        self.end()
        self._reading.cancel()
        await asyncio.to_thread(self.process.wait, 10)
        # What it complained of last is told, unless somebody who left its group holds the pipe.
        await asyncio.wait([self._telling], timeout=_LAST_WORDS_S)
        self._telling.cancel()
        await asyncio.gather(self._reading, self._telling, return_exceptions=True)


async def _decode(line: bytes) -> Reply:
    return decode_reply(line) if len(line) <= SMALL_BYTES else await asyncio.to_thread(decode_reply, line)


async def start_worker(settings: WorkerSettings) -> WorkerProcess:
    """Start a worker, or raise AgentError: never as root in place of the user it is to be."""
    spawning = Spawning(lambda: _spawn(settings))
    try:
        if settings.unit is None:
            spawned: Companion = await asyncio.to_thread(spawning.run)
        else:
            spawned = await start_in_unit(
                settings.unit, _choose_arguments(settings), _choose_environment(settings)
            )
            spawning.keep(spawned)
        reader, writer = await asyncio.open_connection(sock=spawned.stream, limit=LINE_LIMIT_BYTES)
    except BaseException as error:
        spawning.give_up()
        if not isinstance(error, OSError):
            raise
        who = "" if settings.user is None else f" as user {settings.user}"
        raise AgentError(
            f"The cloud worker cannot be started{who}: {error}.",
            hint=f"The worker is {settings.worker}, who has to exist and to be able to read the agent's "
            "installation, as the installer sees to. `ebs-agent doctor` tries it.",
            reason=Reason.CLOUD_ERROR,
        ) from error
    return WorkerProcess(spawned, reader, writer)


def _spawn(settings: WorkerSettings) -> Companion:
    uid = _find_user(settings.user)
    argv = [
        settings.python,
        "-I",  # neither the working directory nor the environment says which code runs
        "-m",
        "agent.cloud.aws_worker.main",
        *_choose_arguments(settings),
    ]
    group = None if uid is None else NO_GROUP
    companion = start_companion(argv, _choose_environment(settings), uid, group)
    make_killable(companion.process.pid)  # its other limits it has from itself
    return companion


def _choose_arguments(settings: WorkerSettings) -> list[str]:
    """Return what the worker's program is called with."""
    return [
        settings.region or "",
        settings.endpoint or "",
        # Counted per user: a limit only where the user is the worker's own.
        str(_PROCESSES if isinstance(settings.user, str) else 0),
        str(settings.at_once),
    ]


def _find_user(user: str | int | None) -> int | None:
    """Return the uid to run the worker as; None to stay who the daemon is."""
    if user is None or os.geteuid() != 0:
        return None
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise OSError(f"there is no user {user}") from None
