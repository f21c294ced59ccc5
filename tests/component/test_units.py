"""Processes in units of their own: the handshake, what it refuses, and each process after it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import anyio
import pytest
from structlog.testing import capture_logs

from agent.base import unit_process
from agent.base.off_loop import do_here
from agent.base.unit_process import UNITS_VARIABLE, UnitSocket, find_unit, start_in_unit
from agent.cloud.aws_worker.process import WorkerSettings, start_worker
from agent.cloud.state.state_file import FileStore
from agent.policy.settings import MqttSettings
from agent.report.agent_counters import Counters
from agent.report.broker.process import MqttProcess
from agent.report.feed.teller import Source, Teller
from agent.report.serving.doors import HttpFace
from agent.report.serving.sockets import Listen
from agent.report.web.process import WebProcess
from tests.component.test_mqtt import FACTS
from tests.component.units import listening_for, run_module
from tests.unit.report.samples import READY, make_board
from tests.waiting import until

pytestmark = pytest.mark.anyio

ECHO = """
import os, socket, sys
from agent.base.unit_process import arrive
arrive()
with socket.socket(fileno=0) as stream:
    print(*sys.argv[1:], os.environ["WORD"], file=sys.stderr, flush=True)
    while heard := stream.recv(100):
        stream.sendall(heard)
"""


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give where a socket may lie, with a path that is short enough, and see that no descriptor is left."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield tmp_path_factory.mktemp("u") / "s"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# -- The handshake -------------------------------------------------------------------------------------------


async def test_a_process_is_told_what_to_do(place: Path) -> None:
    """Its arguments, environment and standard error come with the handshake; then it is spoken with."""
    async with listening_for(place, (sys.executable, "-c", ECHO, "--in-unit")) as it:
        running = await start_in_unit(it.unit, ["one", ""], {"WORD": "word"})
        assert running.process.pid == it.started[0].pid
        with os.fdopen(running.words, "rb", closefd=False) as words:
            assert words.readline() == b"one  word\n"
        running.stream.setblocking(True)
        running.stream.sendall(b"heard")
        assert running.stream.recv(100) == b"heard"
        assert not running.has_ended()
        running.discard()
        assert running.has_ended()
        assert running.process.returncode == 0
        assert it.started[0].wait(10) == -signal.SIGKILL


async def test_who_is_another_user_is_told_nothing(place: Path) -> None:
    async with listening_for(place, (sys.executable, "-c", ECHO, "--in-unit")) as it:
        with pytest.raises(PermissionError, match=f"user {os.geteuid()} answers in place of user 12345"):
            await start_in_unit(UnitSocket(place, 12345), [], {})
        assert it.started[0].wait(10) == 1, "it ended with the connection"


async def test_who_ends_before_it_began_is_an_error(place: Path) -> None:
    """A unit that cannot be started, or is killed at once: the connection ends without a word."""
    async with listening_for(place, ("true",)) as it:
        with pytest.raises(OSError, match="ended before it began"):
            await start_in_unit(it.unit, [], {})


async def test_who_says_something_else_is_an_error(place: Path) -> None:
    def lie(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"GET / HTTP/1.1")

    async with listening_for(place, lie) as it:
        with pytest.raises(OSError, match="ended before it began"):
            await start_in_unit(it.unit, [], {})


async def test_who_says_nothing_is_waited_for_so_long(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_process, "ARRIVAL_S", 0.05)
    async with listening_for(place, ("sleep", "600")) as it:
        with pytest.raises(TimeoutError, match="did not begin"):
            await start_in_unit(it.unit, [], {})


async def test_nobody_listens(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await start_in_unit(UnitSocket(place, os.geteuid()), [], {})


async def test_a_start_that_is_cancelled_leaves_no_process(place: Path) -> None:
    """Nobody waits for it any more, so its connection ends, and it with that."""
    async with listening_for(place, (sys.executable, "-c", ECHO, "--in-unit")) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start_in_unit, it.unit, [], {})
            await until(lambda: bool(it.started))
            tasks.cancel_scope.cancel()
        assert it.started[0].wait(10) == 1


async def test_more_than_is_told_at_once_is_refused(place: Path) -> None:
    async with listening_for(place, (sys.executable, "-c", ECHO, "--in-unit")) as it:
        with pytest.raises(OSError, match="are more than"):
            await start_in_unit(it.unit, ["x" * (1 << 17)], {})


def test_without_its_unit_the_daemon_starts_a_process_itself(tmp_path: Path) -> None:
    """Where nobody says that there are units, or a socket or a user is missing."""
    environment = {UNITS_VARIABLE: str(tmp_path)}
    assert find_unit("web", "root", {}) is None
    assert find_unit("web", "root", environment) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "web.sock"))
        assert find_unit("web", "no-such-user", environment) is None
        found = UnitSocket(tmp_path / "web.sock", 0) if os.geteuid() == 0 else None
        assert find_unit("web", "root", environment) == found


# -- The processes -------------------------------------------------------------------------------------------


async def test_http_is_answered_from_a_unit(place: Path) -> None:
    """Killed, another instance answers; with the face it ends."""
    board = make_board(READY)
    source = Source(board, Counters().registry, lambda _: (), lambda: 0)
    async with listening_for(place, run_module("agent.report.web.main")) as it:
        web = WebProcess(lambda: Teller(source), unit=it.unit)
        face = HttpFace(web, Listen(port=0))
        async with anyio.create_task_group() as tasks, aiohttp.ClientSession() as http:
            await tasks.start(face.run)
            url = f"http://127.0.0.1:{face.port}/healthz"
            async with http.get(url) as answer:
                assert answer.status == 200
            assert web.pid == it.started[0].pid
            os.kill(it.started[0].pid, signal.SIGKILL)
            async with http.get(url) as answer:
                assert answer.status == 200
            assert web.pid == it.started[1].pid
            tasks.cancel_scope.cancel()
        assert [one.wait(10) for one in it.started] == [-signal.SIGKILL, 0]


async def test_a_broker_is_spoken_to_from_a_unit(place: Path, tmp_path: Path) -> None:
    """It is told whom to publish to, tries to, and says that it cannot."""
    async with listening_for(place, run_module("agent.report.broker.main")) as it:
        store = FileStore(tmp_path / "mqtt.json")
        mqtt = MqttProcess(make_board(READY), Counters(), do_here, store, unit=it.unit)
        with capture_logs() as logs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mqtt.run)
                mqtt.apply(MqttSettings(host="127.0.0.1", port=1), FACTS)
                await until(lambda: any(line["event"] == "mqtt.said" for line in logs))
                tasks.cancel_scope.cancel()
        assert [one.wait(10) for one in it.started] == [0]


async def test_aws_is_spoken_to_from_a_unit(place: Path) -> None:
    """A call is answered, by an error where the worker knows none of its name."""
    async with listening_for(place, run_module("agent.cloud.aws_worker.main")) as it:
        worker = await start_worker(WorkerSettings(region="us-west-2", unit=it.unit))
        reply = await worker.ask(1, {"operation": "Nothing"}, 60)
        assert reply.failure is not None
        assert reply.failure["code"] == "UnknownOperation"
        await worker.finish()
        assert worker.process.pid == it.started[0].pid
        assert it.started[0].wait(10) == -signal.SIGKILL
