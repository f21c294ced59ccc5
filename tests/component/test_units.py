"""Processes in units of their own: the handshake, what it refuses, and each process after it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import anyio
import pytest
from structlog.testing import capture_logs

from agent.base import unit_process
from agent.base.off_loop import do_here
from agent.base.unit_process import UNITS_VARIABLE, UnitSocket, find_unit, start_in_unit
from agent.cloud.aws_worker.process import WorkerSettings, start_worker
from agent.cloud.identity.identity_sources import IdentitySources, ask_metadata
from agent.cloud.identity.metadata_lines import decode_answers
from agent.cloud.identity.metadata_process import MetadataProcess
from agent.cloud.identity.zone import ask_zone
from agent.cloud.state.state_file import FileStore
from agent.core.errors import AgentError
from agent.core.replace import replace
from agent.policy.settings import MqttSettings
from agent.report import hook_unit
from agent.report.agent_counters import Counters
from agent.report.broker.process import MqttProcess
from agent.report.feed.teller import Source, Teller
from agent.report.hook_call import decode_verdict
from agent.report.hook_unit import run_in_unit
from agent.report.hooks import run_hook
from agent.report.serving.doors import HttpFace
from agent.report.serving.sockets import AddressTakenError, Listen
from agent.report.web.listen import open_in_unit
from agent.report.web.process import WebProcess
from tests.component.cloud.test_metadata import DOCUMENT, serving, surround
from tests.component.test_mqtt import FACTS
from tests.component.units import listening_for, run_module
from tests.unit.report.samples import READY, make_board
from tests.waiting import until, wait_until

pytestmark = pytest.mark.anyio

HAND_OVER = """
import socket
from agent.base.arrival import arrive
arrive()
with socket.socket(fileno=0) as stream:
    socket.send_fds(stream, [b"0"], [{fd}])
"""
METADATA = "agent.cloud.identity.metadata_main"


class RunScript(Protocol):
    """Runs a script as a hook."""

    def __call__(self, script: str, **environment: str) -> Coroutine[Any, Any, None]: ...


ECHO = """
import os, socket, sys
from agent.base.arrival import arrive
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


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_who_may_not_be_signalled_is_killed_by_its_unit_or_told() -> None:
    """A process of another user's that has ended is no failure; one that lives and has no unit is told."""
    code = """
import os
from agent.base.unit_process import UnitProcess
until_we_end, ours = os.pipe()
processes = []
for lives in (False, True):
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.setresuid(12345, 12345, 12345)
        if lives:
            os.read(until_we_end, 1)
        os._exit(0)
    processes.append(UnitProcess(pid, os.pidfd_open(pid)))
assert processes[0].has_ended(60)
while os.stat(f"/proc/{pid}").st_uid != 12345:
    pass
os.setresuid(54321, 54321, 54321)
for process in processes:
    process.kill()
print(processes[1].has_ended())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("unit.not_killed") == 1
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_systemd_is_not_waited_for(tmp_path: Path) -> None:
    """Where the kernel kills no unit systemd is asked, and whoever asks goes on before that answers."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(
        f"#!/bin/sh\nread _ < {tmp_path}/go\necho $@ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/asked\n"
    )
    systemctl.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    code = """
import os, sys
from agent.base.unit_process import UnitProcess
until_we_end, ours = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(ours)
    os.setresuid(12345, 12345, 12345)
    os.read(until_we_end, 1)
    os._exit(0)
while os.stat(f"/proc/{pid}").st_uid != 12345:
    pass
UnitProcess(pid, os.pidfd_open(pid), "/system.slice/ebs-agent-web@1-2-3.service").kill()
print(os.path.exists(sys.argv[1] + "/asked"))
with open(sys.argv[1] + "/go", "w") as go:
    go.write("\\n")
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = ["setpriv", "--bounding-set=-kill", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
    wait_until((tmp_path / "asked").exists, "systemd was to be asked")
    assert (tmp_path / "asked").read_text() == "kill --signal=SIGKILL ebs-agent-web@1-2-3.service\n"


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


async def test_a_start_that_is_cancelled_leaves_no_process(place: Path, tmp_path: Path) -> None:
    """Nobody waits for it any more, so its connection ends, and it with that."""
    cancelled = tmp_path / "cancelled"
    slow = f"import pathlib, time\nwhile not pathlib.Path({str(cancelled)!r}).exists(): time.sleep(0.01)\n"
    async with listening_for(place, (sys.executable, "-c", slow + ECHO, "--in-unit")) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start_in_unit, it.unit, [], {})
            await until(lambda: bool(it.started))
            tasks.cancel_scope.cancel()
        cancelled.touch()
        assert it.started[0].wait(10) == 1


async def test_more_than_is_told_at_once_is_refused(place: Path) -> None:
    async with listening_for(place, (sys.executable, "-c", ECHO, "--in-unit")) as it:
        with pytest.raises(OSError, match="are more than"):
            await start_in_unit(it.unit, ["x" * (1 << 17)], {})


def test_without_units_the_daemon_starts_a_process_itself(tmp_path: Path) -> None:
    """Nobody said that there are any; where there are, one that is missing is no reason to go without."""
    assert find_unit("web", "root", {}) is None
    environment = {UNITS_VARIABLE: str(tmp_path)}
    if os.geteuid() != 0:
        assert find_unit("web", "root", environment) is None
        return
    assert find_unit("web", "root", environment) == UnitSocket(tmp_path / "web.sock", 0)
    assert find_unit("web", "no-such-user", environment) == UnitSocket(tmp_path / "web.sock", None)


async def test_what_is_missing_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"ebs-agent-web@\.service is missing: run the installer"):
        await start_in_unit(UnitSocket(tmp_path / "web.sock", None), [], {})
    with pytest.raises(OSError, match=r"ebs-agent-web\.socket does not listen .*: systemctl restart"):
        await start_in_unit(UnitSocket(tmp_path / "web.sock", 0), [], {})


# -- The processes -------------------------------------------------------------------------------------------


async def test_http_is_answered_from_a_unit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, another instance answers; with the face it ends by itself, however busy the machine is."""
    monkeypatch.setattr("agent.report.web.process.GRACE_S", 60.0)
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


# -- The port, by a unit that may open one -------------------------------------------------------------------


async def test_the_port_is_opened_by_a_unit(place: Path) -> None:
    """Its process hands the socket over and is gone; whoever connects is answered at it."""
    async with listening_for(place, run_module("agent.report.web.listen_main")) as it:
        with await open_in_unit(it.unit, Listen(port=0)) as listener:
            assert it.started[0].wait(10) in {0, -signal.SIGKILL}
            assert not listener.get_inheritable()
            host, port = listener.getsockname()
            assert host == "127.0.0.1"
            with pytest.raises(AddressTakenError, match="cannot be listened on: Address already in use"):
                await open_in_unit(it.unit, Listen(port=port))
            with socket.create_connection((host, port)):
                listener.accept()[0].close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: socket.socket(socket.AF_INET),
        lambda: socket.create_server(("127.0.0.1", 0)),
        lambda: socket.socket(socket.AF_UNIX),
    ],
)
async def test_another_socket_than_was_asked_for_is_not_taken(
    place: Path, make: Callable[[], socket.socket]
) -> None:
    with make() as made:
        script = HAND_OVER.format(fd=made.fileno())
        async with listening_for(place, (sys.executable, "-c", script, "--in-unit"), made.fileno()) as it:
            with pytest.raises(AgentError, match=r"Nothing can listen at 127\.0\.0\.1:1: "):
                await open_in_unit(it.unit, Listen(port=1))


async def test_no_unit_is_no_port_and_no_end(place: Path) -> None:
    """The agent goes on, and says what to look at."""
    with pytest.raises(AgentError, match=r"socket does not listen") as told:
        await open_in_unit(UnitSocket(place, os.geteuid()), Listen())
    assert "systemctl status ebs-agent-listen.socket" in str(told.value.hint)


# -- Instance metadata ---------------------------------------------------------------------------------------


async def test_metadata_is_asked_for_from_a_unit(place: Path) -> None:
    """One process answers many questions; killed, it is followed by another."""
    async with serving() as listener, listening_for(place, run_module(METADATA)) as it:
        process = MetadataProcess(it.unit)
        surroundings = replace(surround(listener), fetch=process.fetch)
        for _ in range(2):
            assert (await ask_metadata(surroundings)).zone == DOCUMENT["availabilityZone"]
        assert (await ask_zone(surroundings)).zone_id is None
        assert len(it.started) == 1
        it.started[0].kill()
        it.started[0].wait(10)
        assert (await ask_metadata(surroundings)).problem is None
        assert len(it.started) == 2
        process.close()


async def test_a_service_that_is_away_is_a_finding(place: Path) -> None:
    async with listening_for(place, run_module(METADATA)) as it:
        process = MetadataProcess(it.unit)
        sources = IdentitySources(Path("/none"), "http://127.0.0.1:1", fetch=process.fetch)
        assert "did not answer: [Errno 111]" in str((await ask_metadata(sources)).problem)
        assert not it.started[0].poll()
        process.close()


async def test_a_service_that_hangs_is_waited_for_so_long(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with listening_for(place, run_module(METADATA)) as it:
            process = MetadataProcess(it.unit)
            sources = replace(surround(silent, 0.2), fetch=process.fetch)
            assert (await ask_metadata(sources)).problem is not None
            process.close()


async def test_no_unit_is_no_metadata(place: Path) -> None:
    sources = IdentitySources(Path("/none"), "http://x", fetch=MetadataProcess(UnitSocket(place, 0)).fetch)
    assert "socket does not listen" in str((await ask_metadata(sources)).problem)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"[" * 100_000, b"[]", b"{}", b'{"answers": []}', b'{"answers": [[200, "OK", 1]]}'),
        *(
            b'{"answers": [[-1, "", ""]]}',
            b'{"answers": [[200, "", "?"]]}',
            b'{"answers": [[200, "", ""], 1]}',
        ),
    ],
)
def test_what_is_no_answer_is_not_believed(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_answers(line, 1)


# -- Hooks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run_as_unit(place: Path, tmp_path: Path) -> RunScript:
    """Give what runs a script as a hook in a unit, killed with all its group as systemd does."""

    async def run(script: str, **environment: str) -> None:
        hook = tmp_path / "10-tell"
        hook.write_text(f"#!/bin/sh\n{script}\n")
        hook.chmod(0o755)
        failure = None
        async with listening_for(place, run_module("agent.report.hook_main")) as it:
            try:
                await run_hook(hook, "ready", environment, run=partial(run_in_unit, it.unit))
            except AgentError as error:
                failure = error
        place.unlink()  # noqa: ASYNC240 -- a test
        if failure is not None:
            raise failure

    return run


async def test_a_hook_is_run_in_a_unit(run_as_unit: RunScript, tmp_path: Path) -> None:
    """It finds its word and its facts, an empty input, and the environment of all programs and no more."""
    await run_as_unit(
        f'exec > {tmp_path}/told; echo "$1 $EBS_AGENT_NAME $HOME $EBS_AGENT_HOOK $0"; cat; pwd; env | wc -l',
        EBS_AGENT_NAME="ckpt",
        HOME="/elsewhere",
    )
    first, directory, variables = (tmp_path / "told").read_text().splitlines()
    assert re.fullmatch(rf"ready ckpt / {tmp_path}/10-tell /proc/self/fd/\d+", first)
    assert directory == "/"
    assert int(variables) <= 9


async def test_a_hook_that_fails_in_a_unit_is_told_by_its_last_lines(run_as_unit: RunScript) -> None:
    """However much it wrote before."""
    with pytest.raises(AgentError, match=r"10-tell ended with 3: no room$"):
        await run_as_unit("head -c 3000000 /dev/zero | tr '\\0' '\\n'; echo no room >&2; exit 3")
    with pytest.raises(AgentError, match="10-tell was ended by signal 9"):
        await run_as_unit("kill -9 $$")


async def test_a_hook_that_hangs_in_a_unit_is_ended(
    run_as_unit: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that does not end it itself is killed, and with it, by systemd, the hook."""
    monkeypatch.setattr(hook_unit, "LIMIT_S", 0.5)
    with pytest.raises(AgentError, match=r"did not end within 0\.5 s and was killed"):
        await run_as_unit("exec sleep 600")


async def test_a_hook_ends_with_who_waits_for_it(run_as_unit: RunScript, tmp_path: Path) -> None:
    """Where the daemon goes away, its own process ends it, or is killed and systemd does."""
    script = f"trap 'touch {tmp_path}/ended; exit' TERM; touch {tmp_path}/began; while :; do sleep 0.05; done"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_as_unit, script)
        await until((tmp_path / "began").exists)
        tasks.cancel_scope.cancel()
    await until((tmp_path / "ended").exists)


async def test_a_hook_s_process_that_is_killed_is_told(run_as_unit: RunScript) -> None:
    with pytest.raises(AgentError, match=r"How 10-tell ended is not known: ") as told:
        await run_as_unit("kill -9 $PPID")
    assert "journalctl --identifier ebs-agent-hook" in str(told.value.hint)


async def test_no_unit_is_no_hook(place: Path, tmp_path: Path) -> None:
    """It is not run in the daemon's own unit in place of that."""
    hook = tmp_path / "10-tell"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    run = partial(run_in_unit, UnitSocket(place, os.geteuid()))
    with pytest.raises(AgentError, match=r"10-tell could not be run: .*socket does not listen") as told:
        await run_hook(hook, "ready", {}, run=run)
    assert "systemctl status ebs-agent-hook.socket" in str(told.value.hint)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "line", [b"", b"[]", b'{"error": 1}', b'{"hint": "x"}', b'{"x": 1}', b'{"error": "", "hint": 1}']
)
def test_what_is_no_verdict_is_not_believed(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_verdict(line)
