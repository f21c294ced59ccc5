"""The process that publishes as the daemon has it: there while the policy has a broker, told, and ended."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread
from msgspec import Struct

from agent.base.companion import Companion
from agent.base.error_barrier import find_cause
from agent.base.log import get_logger
from agent.base.off_loop import Aside
from agent.base.unit_process import UnitSocket
from agent.core.errors import AgentError
from agent.core.model import NodeFacts
from agent.policy.settings import MqttSettings
from agent.report.feed.face_process import choose_user, end_face, start_face
from agent.report.feed.words import Words
from agent.report.mqtt.login import LoginFiles, read_login_files
from agent.report.mqtt.retained import Store, check_note
from agent.report.mqtt.surroundings import Counting, FollowedBoard
from agent.report.serving.validity import find_expiry

if TYPE_CHECKING:
    from agent.report.broker.teller import Telling

USER = "ebs-agent-mqtt"
PROGRAM = (sys.executable, "-I", "-m", "agent.report.broker.main")
"""Neither the working directory nor the environment says which code runs."""

GRACE_S = 2.0
"""For the process to end by itself once its feed has: its goodbye to the broker has one second."""
RETRY_S = (0.2, 1.0, 5.0, 15.0, 30.0)
"""Pauses before the process is started again that ended soon after it was started."""
LONG_S = 10.0
"""A process that lived so long is started again at once."""
_TELLER = "agent.report.broker.teller"

log = get_logger(__name__)


class _Wanted(Struct, frozen=True):
    settings: MqttSettings
    facts: NodeFacts


class BrokerCounters(Counting, Protocol):
    """Where it is counted, and told until when the certificate is valid that a broker is shown."""

    def note_certificate(self, certificate: str, expires_at: float | None) -> None: ...


class MqttProcess:
    """Keeps a broker told by a process; ``apply`` changes or ends to whom."""

    def __init__(
        self,
        board: FollowedBoard,
        counters: BrokerCounters,
        aside: Aside,
        store: Store,
        user: str = USER,
        program: tuple[str, ...] = PROGRAM,
        unit: UnitSocket | None = None,
    ) -> None:
        self._board = board
        self._counters = counters
        self._aside = aside
        self._store = store
        self._user = user
        self._program = program
        self._unit = unit
        self._words = Words("mqtt.said")
        self._wanted: _Wanted | None = None
        self._event: int | None = board.history.next_number - 1
        """The newest event that need not be told; None: that of the moment at which a broker is wanted."""
        self._telling: Telling | None = None
        self._changed = anyio.Event()
        self.pid: int | None = None
        """Of the process, while there is one."""

    def apply(self, settings: MqttSettings | None, facts: NodeFacts) -> None:
        """Publish to this broker, to none if None, as the node that ``facts`` tell of, from now on.

        Events that waited for a broker go to the one that follows it; what happens while none is wanted is
        not told later. The first call tells from when this was made on: the agent's own start is in it.
        """
        wanted = None if settings is None else _Wanted(settings, facts)
        if wanted is None:
            self._event = self._telling = None
        elif self._event is None:
            self._event = self._board.history.next_number - 1
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Publish until cancelled, whenever there is a broker to publish to."""
        while True:
            self._changed = anyio.Event()
            if self._wanted is None:
                await self._changed.wait()
                continue
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_running, self._wanted, name="mqtt process")
                await self._changed.wait()
                tasks.cancel_scope.cancel()
            self._counters.note_certificate("mqtt", None)

    async def _keep_running(self, wanted: _Wanted) -> None:
        """Have a process run, another one whenever it ends, with longer pauses while they end soon."""
        telling = await self._make_telling(wanted)
        failures = 0
        while True:
            began = anyio.current_time()
            await self._run_process(telling)
            failures = 0 if anyio.current_time() - began >= LONG_S else failures + 1
            if failures:
                await anyio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1])

    async def _make_telling(self, wanted: _Wanted) -> Telling:
        # Its disk may hang: the loop does not wait for it. Nothing else imports it meanwhile.
        await anyio.to_thread.run_sync(import_module, _TELLER, abandon_on_cancel=True)
        from agent.report.broker.teller import Telling  # noqa: PLC0415 -- memory that only those who use it pay for

        if self._telling is not None:
            self._event = self._telling.event
        self._telling = Telling(
            self._board,
            self._counters,
            wanted.settings,
            wanted.facts,
            self._read_login,
            self._read_note,
            self._keep_note,
            self._board.history.next_number - 1 if self._event is None else self._event,
        )
        return self._telling

    async def _read_login(self, settings: MqttSettings) -> LoginFiles:
        files = await read_login_files(settings, self._aside)
        own = None if files.tls is None else files.tls.own
        self._counters.note_certificate("mqtt", None if own is None else find_expiry(own[0]))
        return files

    def _read_note(self) -> bytes | None:
        try:
            return self._store.read()
        except (AgentError, OSError, ValueError) as error:
            log.warning("mqtt.note_unreadable", error=str(error))
            return None

    async def _keep_note(self, content: bytes) -> None:
        await self._store.write(check_note(content))

    async def _run_process(self, telling: Telling) -> None:
        """Start a process and tell it until one of the two ends it."""
        try:
            running = await start_face(self._program, choose_user(self._user), self._unit)
        except OSError as error:
            log.error("mqtt.unavailable", error=str(error.strerror or error))  # noqa: TRY400 -- no fault of ours
            return
        pid = self.pid = running.process.pid
        words = asyncio.create_task(self._words.tell(running.words, pid), name="mqtt words")
        try:
            await self._tell(running, telling)
        finally:
            self.pid = None
            self._counters.note_mqtt_connection(is_connected=False)
            with anyio.CancelScope(shield=True):
                code = await end_face(running, words, GRACE_S)
            if code:
                log.warning("mqtt.ended", pid=pid, code=code)

    async def _tell(self, running: Companion, telling: Telling) -> None:
        from agent.report.broker.teller import Teller  # noqa: PLC0415 -- imported by now

        pid = running.process.pid
        try:
            await Teller(running.stream, telling).run()
        except Exception as error:
            cause = find_cause(error)
            if isinstance(cause, TimeoutError):
                log.warning("mqtt.stuck", pid=pid)
            elif isinstance(cause, (AgentError, OSError)):
                log.warning("mqtt.cut_off", pid=pid, error=str(getattr(cause, "strerror", None) or cause))
            else:
                raise
