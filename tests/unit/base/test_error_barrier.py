"""What ends the daemon is a short list: whatever else is raised, its task is begun anew."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskStatus
from structlog.testing import capture_logs

from agent.base.error_barrier import Barrier, supervise, supervise_service
from agent.core.errors import AgentError, BugError, ShortageError
from agent.core.exhaustion import is_shortage
from agent.core.model import NodeFacts, Reason
from agent.policy.settings import MqttSettings
from agent.report.agent_counters import Counters
from agent.report.board.events import EventName
from agent.report.hooks import HookRunner
from agent.report.mqtt.publisher import MqttPublisher
from tests.unit.report.samples import CHECKPOINTS, READY, make_board
from tests.waiting import until

pytestmark = pytest.mark.anyio

ERRORS = [
    RuntimeError("bad"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    UnicodeError("bad"),
    MemoryError(),
    AgentError("bad"),
]
every_error = pytest.mark.parametrize("error", ERRORS, ids=repr)


@every_error
async def test_task_is_begun_anew_whatever_ended_it(error: Exception) -> None:
    """A task that fails is told of and begun anew, until it returns."""
    runs: list[int] = []
    told: list[AgentError] = []

    async def run() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise error

    with capture_logs() as logs:
        await supervise("try", run, retry_s=(0.0,), tell=told.append)
    assert (len(runs), len(told)) == (3, 2)
    assert [line["event"] for line in logs].count("task.failed") == 2
    assert [line["event"] for line in logs].count("agent.fault") <= 1


async def test_errors_of_a_group_are_contained() -> None:
    """What a task's own tasks raise together ends that task alone."""
    runs: list[int] = []

    async def fail() -> None:
        raise KeyError("bad")

    async def run() -> None:
        runs.append(1)
        if len(runs) == 1:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail)
                tasks.start_soon(fail)

    with capture_logs() as logs:
        await supervise("try", run, retry_s=(0.0,))
    assert len(runs) == 2
    assert "KeyError" in next(line["error"] for line in logs if line["event"] == "task.failed")


async def test_cancellation_is_not_contained() -> None:
    """A task that is told to end ends."""
    with anyio.move_on_after(0.01) as scope:
        await supervise("sleep", anyio.sleep_forever)
    assert scope.cancelled_caught


class EndedError(BaseException):
    """No error: the process is to end."""


async def test_what_is_no_error_ends_the_daemon() -> None:
    """KeyboardInterrupt and its like pass every barrier."""

    async def run() -> None:
        raise EndedError

    with pytest.raises(EndedError):
        await supervise("try", run)


@every_error
async def test_service_that_cannot_start_keeps_the_daemon_from_starting(error: Exception) -> None:
    """Until it has started, an error of a part that the daemon cannot do without is raised."""

    async def run(*, task_status: TaskStatus[None]) -> None:
        del task_status
        raise error

    async def start() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(supervise_service, "try", run)

    with pytest.raises(BaseException) as caught:  # noqa: PT011 -- or a group of it
        await start()
    assert caught.value is error or error in getattr(caught.value, "exceptions", ())


async def test_service_that_has_started_is_begun_anew() -> None:
    """Once it has started, the same part is begun anew after an error, and says so to nobody."""
    runs: list[int] = []
    is_back = anyio.Event()

    async def run(*, task_status: TaskStatus[None]) -> None:
        runs.append(1)
        task_status.started()
        if len(runs) == 1:
            raise RuntimeError("bad")
        is_back.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(supervise_service, "try", run, retry_s=(0.0,)))
        with anyio.fail_after(10):
            await is_back.wait()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (RuntimeError("bad"), BugError, Reason.INTERNAL_ERROR),
        (OSError(errno.ENFILE, "Too many open files in system"), ShortageError, Reason.NODE_EXHAUSTED),
        (MemoryError(), ShortageError, Reason.NODE_EXHAUSTED),
        (AgentError("meant", reason=Reason.STALLED), AgentError, Reason.STALLED),
    ],
)
def test_every_error_is_told_as_what_it_is(error: Exception, kind: type[AgentError], reason: Reason) -> None:
    """A fault of ours, a shortage of the node's, and what was meant are three things."""
    told = Barrier().explain(error, "do it")
    assert (type(told), told.reason) == (kind, reason)


def test_space_is_short_only_for_what_is_written() -> None:
    """A full filesystem is the volume's own matter, except where the agent writes its own files."""
    error = OSError(errno.ENOSPC, "No space left on device")
    assert (is_shortage(error), is_shortage(error, writes=True)) == (False, True)
    assert not is_shortage(OSError(errno.EIO, "Input/output error"), writes=True)


# -- The faces -----------------------------------------------------------------------------------------------


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """Return a directory with one hook."""
    hook = tmp_path / "10-tell"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    tmp_path.chmod(0o755)
    return tmp_path


@every_error
async def test_hook_that_cannot_be_run_keeps_no_other_from_being_told(hooks: Path, error: Exception) -> None:
    """Whatever running one hook meets, later events are told to the hooks all the same."""
    board, is_told = make_board(READY), anyio.Event()
    told: list[str] = []

    async def run(program: Path, word: str, environment: object) -> None:
        del program, environment
        told.append(word)
        if len(told) == 1:
            raise error
        is_told.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(HookRunner(board, hooks, run=run).run)
        await anyio.wait_all_tasks_blocked()
        board.record(EventName.VOLUME_FAILED, CHECKPOINTS)
        board.record(EventName.VOLUME_READY, CHECKPOINTS)
        with anyio.fail_after(10):
            await is_told.wait()
        tasks.cancel_scope.cancel()
    assert told == ["failed", "ready"]


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "broker..example", "\udcff", "none.invalid"])
async def test_broker_that_cannot_be_named_costs_an_attempt(host: str) -> None:
    """A host name that DNS cannot have, or does not know, is a connection that did not come about."""
    publisher = MqttPublisher(make_board(READY), Counters())
    publisher.apply(MqttSettings(host=host), NodeFacts(instance_id="i-1"))
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publisher.run)
            await until(lambda: any(line["event"] == "mqtt.disconnected" for line in logs))
            tasks.cancel_scope.cancel()
