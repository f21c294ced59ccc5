"""Where errors that nobody meant end: one barrier, for every pass over a volume and every task of the daemon.

What ends the daemon is this, and nothing else:

- SIGTERM or SIGINT;
- until a part that it cannot do without has started (``supervise_service``), an error of that part: another
  agent at the control socket, devices that cannot be listened for;
- what is no ``Exception``: ``KeyboardInterrupt``, ``SystemExit``, and the cancellation that the above bring.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskStatus
from typing_extensions import override

from agent.base.log import get_logger
from agent.core.errors import AgentError, BugError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason

RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
"""Pauses before a task that failed once, twice, and so on, is begun anew."""

_MAX_TOLD = 256
"""Tracebacks remembered as told. More different ones are no news, and must not fill the memory."""

log = get_logger(__name__)


class Barrier:
    """Turns whatever was raised into an AgentError, and logs each traceback of a fault of ours once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def explain(self, error: Exception, doing: str, **about: Any) -> AgentError:
        """Return ``error`` if it was meant, else what to say of it: the node's shortage, or our own fault.

        ``doing`` completes "the attempt to …"; ``about`` goes into the log line.
        """
        cause = find_cause(error)
        if isinstance(cause, AgentError):
            return cause
        if is_shortage(cause):
            return explain_shortage(f"The attempt to {doing} was given up", cause)
        self.tell(error, doing=doing, **about)
        words = str(cause)
        return BugError(
            f"The attempt to {doing} met a fault of the agent's own: {type(cause).__name__}"
            f"{': ' if words else ''}{words}.",
            hint="Please report it with the traceback, which is in the log: journalctl -u ebs-agent -p err."
            " It is tried again by itself.",
            reason=Reason.INTERNAL_ERROR,
        )

    def tell(self, error: BaseException, **about: Any) -> None:
        """Log a traceback, unless the same one was logged before."""
        key = _make_key(error)
        if key in self._told:
            return
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        self._told.add(key)
        log.error("agent.fault", exc_info=error, **about)

    @contextmanager
    def containing(self, doing: str) -> Iterator[None]:
        """Log whatever error is raised within, and go on after it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- the barrier of what is done once
            failure = self.explain(error, doing)
            _log_failure(doing, failure)


def _log_failure(doing: str, failure: AgentError) -> None:
    log.error("task.failed", task=doing, error=failure.message, hint=failure.hint)


def find_cause(error: Exception) -> Exception:
    """Return what a task group failed with: of several one that was not meant, where there is one."""
    inner = [find_cause(part) for part in getattr(error, "exceptions", ()) if isinstance(part, Exception)]
    unmeant = [part for part in inner if not isinstance(part, AgentError)]
    return next(iter((*unmeant, *inner)), error)


def _make_key(error: BaseException) -> str:
    """Return what is the same for the same fault met again: what was raised where, whoever asked for it."""
    parts = [type(error).__name__]
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    # Without a frame of this process it is another's traceback, as text.
    parts += [f"{frame.filename}:{frame.lineno}" for frame in frames] or [str(error)]
    for inner in (error.__cause__, *getattr(error, "exceptions", ())):
        if inner is not None:
            parts.append(_make_key(inner))
    return " ".join(parts)


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    retry_s: Sequence[float] = RETRY_S,
    tell: Callable[[AgentError], None] = lambda _: None,
    is_essential: Callable[[], bool] = lambda: False,
) -> None:
    """Keep a task going: whatever error ends it, it is begun anew after a pause. Returns when it returns.

    ``name`` completes "the attempt to …"; ``tell`` is told of each error. As long as ``is_essential``
    says so, an error is the caller's.
    """
    barrier = Barrier()
    failures = 0
    while True:
        began = anyio.current_time()
        try:
            await run()
        except Exception as error:
            if is_essential():
                raise
            failure = barrier.explain(error, name)
        else:
            return
        _log_failure(name, failure)
        if anyio.current_time() - began > retry_s[-1]:
            failures = 0
        failures += 1
        tell(failure)
        await anyio.sleep(retry_s[min(failures, len(retry_s)) - 1])


async def supervise_service(
    name: str,
    run: Callable[..., Awaitable[None]],
    *,
    retry_s: Sequence[float] = RETRY_S,
    task_status: TaskStatus[None],
) -> None:
    """Keep a task going that says when it has started, as ``supervise`` does from then on.

    What ends it before is raised: without it the daemon does not start.
    """
    start = _Start(task_status)
    await supervise(
        name, partial(run, task_status=start), retry_s=retry_s, is_essential=lambda: not start.is_done
    )


class _Start(TaskStatus[None]):
    """Passes on that a task has started, the first time it says so."""

    def __init__(self, task_status: TaskStatus[None]) -> None:
        self.is_done = False
        self._task_status = task_status

    @override
    def started(self, value: None = None) -> None:
        if not self.is_done:
            self.is_done = True
            self._task_status.started(value)
