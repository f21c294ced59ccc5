"""Runs the node owner's programs in ``hooks.d`` when a volume becomes ready, fails, is lost or has grown.

A hook is told what happened and changes nothing about it: the agent never waits for one, and what it answers
is recorded and not acted on. Only programs that nobody but root can have put there are run. The contract is
in ``docs/hooks.md``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct, field

from agent.base.error_barrier import Barrier
from agent.base.log import get_logger
from agent.base.off_loop import Aside, do_here
from agent.core.errors import AgentError
from agent.core.model import NodeFacts, VolumeId
from agent.report.board.board import Board
from agent.report.board.events import Event, EventName
from agent.report.board.volume_status import VolumeStatus
from agent.report.hook_call import HookCall, run_hook_program
from agent.report.hook_files import list_hooks, open_hook

MAX_AT_ONCE = 4
MAX_PENDING = 16
"""Per volume. A hook that hangs each time must not pile up what it is still to be told."""

WORDS: Mapping[EventName, str] = {
    EventName.VOLUME_READY: "ready",
    EventName.VOLUME_FAILED: "failed",
    EventName.VOLUME_LOST: "lost",
    EventName.VOLUME_GROWN: "grown",
}
"""The events that hooks run on, and what each is called to them."""

_TEXT_LIMIT = 4096

log = get_logger(__name__)

RunHook = Callable[[Path, str, Mapping[str, str]], Awaitable[None]]
RunProgram = Callable[[HookCall, int], Awaitable[None]]


async def run_hook(
    program: Path,
    word: str,
    environment: Mapping[str, str],
    aside: Aside = do_here,
    run: RunProgram = run_hook_program,
) -> None:
    """Run one hook to its end; AgentError where it fails, or takes longer than it may and is killed.

    What is run is the file that was looked at, by its descriptor. ``run``: who runs it.
    """
    fd = await aside(open_hook, program, subject=str(program))
    try:
        await run(HookCall(str(program), word, environment), fd)
    finally:
        os.close(fd)


def describe_to_hook(event: Event, status: VolumeStatus | None, facts: NodeFacts) -> dict[str, str]:
    """Return the environment a hook finds the facts in. What is not known is an empty string."""

    def tell(key: str, known: Any = None) -> str:
        value = event.fields.get(key)
        value = known if value is None else value
        text = "" if value is None else str(value)
        return "".join(c if c.isprintable() else " " for c in text)[:_TEXT_LIMIT]

    return {
        "EBS_AGENT_EVENT": WORDS[event.name],
        "EBS_AGENT_EVENT_NUMBER": str(event.number),
        "EBS_AGENT_VOLUME_ID": event.volume_id or "",
        "EBS_AGENT_NAME": tell("name", status and status.name),
        "EBS_AGENT_DEVICE": tell("device", status and status.device),
        "EBS_AGENT_PATH": tell("path", status and status.path),
        "EBS_AGENT_FSTYPE": tell("fstype", status and status.fstype),
        "EBS_AGENT_SIZE_BYTES": tell("size_bytes", status and status.size_bytes),
        "EBS_AGENT_CONDITION": tell("condition", status and status.condition.value),
        "EBS_AGENT_REASON": tell("reason"),
        "EBS_AGENT_MESSAGE": tell("message"),
        "EBS_AGENT_HINT": tell("hint"),
        "EBS_AGENT_REQUIRED": "1" if status is not None and status.is_required else "0",
        "EBS_AGENT_INSTANCE_ID": facts.instance_id or "",
        "EBS_AGENT_INSTANCE_NAME": facts.instance_name or "",
        "EBS_AGENT_INSTANCE_GROUP": facts.instance_group or "",
    }


class _Pending(Struct):
    """What a volume's hooks are still to be told, oldest first."""

    events: deque[tuple[Event, dict[str, str]]] = field(default_factory=lambda: deque(maxlen=MAX_PENDING))
    is_running: bool = False


class HookRunner:
    """Tells the hooks of ``directory`` what is recorded on the board, one event of a volume after another."""

    def __init__(
        self,
        board: Board,
        directory: Path,
        get_facts: Callable[[], NodeFacts] = NodeFacts,
        run: RunHook | None = None,
        aside: Aside = do_here,
    ) -> None:
        self._board = board
        self._directory = directory
        self._get_facts = get_facts
        self._run = partial(run_hook, aside=aside) if run is None else run
        self._aside = aside
        self._pending: dict[VolumeId | None, _Pending] = {}
        self._limiter = anyio.CapacityLimiter(MAX_AT_ONCE)
        self._refusal: str | None = None
        self._barrier = Barrier()

    async def run(self, after: int | None = None) -> None:
        """Run hooks until cancelled, for events numbered above ``after`` (by default: those to come)."""
        history = self._board.history
        if after is None:
            after = history.next_number - 1
        async with anyio.create_task_group() as tasks:
            async for event in history.follow(after):
                if event.name in WORDS:
                    self._take(event, tasks)

    def _take(self, event: Event, tasks: TaskGroup) -> None:
        status = None if event.volume_id is None else self._board.get(event.volume_id)
        pending = self._pending.setdefault(event.volume_id, _Pending())
        pending.events.append((event, describe_to_hook(event, status, self._get_facts())))
        if not pending.is_running:
            pending.is_running = True
            tasks.start_soon(self._tell_all, event.volume_id, pending, name=f"hooks {event.volume_id}")

    async def _tell_all(self, volume_id: VolumeId | None, pending: _Pending) -> None:
        while pending.events:
            event, environment = pending.events.popleft()
            async with self._limiter:
                with self._barrier.containing(f"run the hooks for {event.volume_id}"):
                    await self._tell(event, environment)
        del self._pending[volume_id]

    async def _tell(self, event: Event, environment: Mapping[str, str]) -> None:
        try:
            hooks = await self._aside(list_hooks, self._directory, subject=str(self._directory))
            self._refusal = None
        except (AgentError, OSError) as error:
            # Once for each thing that is wrong, not at each event.
            if self._refusal != str(error):
                self._refusal = str(error)
                self._record_failure(event, None, error)
            return
        for hook in hooks:
            await self._tell_one(hook, event, environment)

    async def _tell_one(self, hook: Path, event: Event, environment: Mapping[str, str]) -> None:
        try:
            await self._run(hook, WORDS[event.name], environment)
        except (AgentError, OSError) as error:
            self._record_failure(event, hook, error)
        else:
            log.debug("hook.run", hook=hook.name, told=WORDS[event.name], volume_id=event.volume_id)

    def _record_failure(self, event: Event, hook: Path | None, error: Exception) -> None:
        self._board.record(
            EventName.HOOK_FAILED,
            event.volume_id,
            hook=hook and hook.name,
            told=WORDS[event.name],
            error=error.message if isinstance(error, AgentError) else str(error),
            hint=error.hint if isinstance(error, AgentError) else None,
        )
