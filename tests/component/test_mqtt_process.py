"""Publishing from a process of its own: what a broker gets, what it may, what who takes it over can reach."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from agent.base.file_reading import read_file
from agent.base.off_loop import do_here
from agent.cloud.state.state_file import FileStore
from agent.core.model import Condition, NodeFacts
from agent.policy.settings import MqttSettings, MqttTls
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.broker import process as mqtt_process
from agent.report.broker import teller as mqtt_teller
from agent.report.broker.frames import MAX_SAID_BYTES, Said
from agent.report.broker.process import PROGRAM, MqttProcess
from agent.report.feed.frames import HEAD, encode, frame
from agent.report.serving.validity import find_expiry
from tests.agent_process import reserve_port
from tests.component.faces import check_is_nobody, make_memory_bomb, outlive
from tests.component.test_mqtt import (
    BASE,
    FACTS,
    PASSWORD,
    Mosquitto,
    broker,  # noqa: F401 -- a fixture
    listening,
    make_certificates,
)
from tests.unit.report.samples import CHECKPOINTS, READY, make_board, make_status
from tests.waiting import until

pytestmark = pytest.mark.anyio

has_broker = pytest.mark.needs("mosquitto")
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@dataclass
class Publishing:
    """A board and the process that publishes it."""

    board: Board
    mqtt: MqttProcess
    counters: Counters
    note: Path

    def read_counter(self, name: str, **labels: str) -> float:
        return self.counters.registry.get_sample_value(f"ebs_agent_{name}", labels) or 0.0


@asynccontextmanager
async def publishing(
    directory: Path, program: tuple[str, ...] = PROGRAM, port: int = 1, message: str = "", **settings: Any
) -> AsyncIterator[Publishing]:
    board, counters, note = make_board(READY), Counters(), directory / "mqtt.json"
    if message:
        board.publish(make_status(message=message))
    mqtt = MqttProcess(board, counters, do_here, FileStore(note), program=program)
    mqtt.apply(MqttSettings(host="127.0.0.1", port=port, **settings), FACTS)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mqtt.run)
        yield Publishing(board, mqtt, counters, note)
        tasks.cancel_scope.cancel()


@pytest.mark.needs("openssl")
async def test_expiry_is_told_of_the_certificate_that_brokers_are_shown(tmp_path: Path) -> None:
    """While there is a broker that is shown one."""
    make_certificates(tmp_path)
    cert, key = str(tmp_path / "server.pem"), str(tmp_path / "server.key")
    name, labels = "ebs_agent_certificate_not_after_timestamp_seconds", {"certificate": "mqtt"}
    async with publishing(tmp_path, tls=MqttTls(cert=cert, key=key)) as it:

        def read() -> float | None:
            return it.counters.registry.get_sample_value(name, labels)

        expiry = find_expiry(read_file(cert, 1 << 20).check_regular())
        await until(lambda: expiry is not None and read() == expiry)
        it.mqtt.apply(None, FACTS)
        await until(lambda: read() is None)


# -- What a broker gets --------------------------------------------------------------------------------------


@has_broker
async def test_states_and_events_come_as_from_the_daemon(
    broker: Mosquitto,  # noqa: F811 -- the fixture
    tmp_path: Path,
) -> None:
    """States, events, the goodbye, what is counted and what is noted: as where it is published in place."""
    broker.start()
    async with listening(broker) as heard:
        async with publishing(tmp_path, port=broker.port) as it:
            await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Ready")
            it.board.publish(make_status(condition=Condition.LOST))
            it.board.record(EventName.VOLUME_LOST, CHECKPOINTS)
            await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Lost")
            await until(lambda: heard.events() == ["volume.lost"])
            await until(lambda: it.read_counter("mqtt_messages_total", outcome="sent") >= 4)
            assert it.read_counter("mqtt_connected") == 1
            it.board.finish_first_look()
            it.board.remove(CHECKPOINTS)
            await until(lambda: heard.newest(f"{BASE}/volumes/{CHECKPOINTS}") == b"")
            (place,) = json.loads(it.note.read_text())["places"]
            assert (place["base"], place["broker"]) == (BASE, f"127.0.0.1:{broker.port}")
        await until(lambda: heard.newest(f"{BASE}/status") == b"offline")
        assert it.read_counter("mqtt_connected") == 0
        assert it.mqtt.pid is None


@has_broker
async def test_a_process_that_was_killed_is_followed_by_another_that_tells_what_was_missed(
    broker: Mosquitto,  # noqa: F811 -- the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All states come anew, and of the events those the broker does not have yet."""
    monkeypatch.setattr(mqtt_process, "RETRY_S", (0.01,))
    broker.start()
    async with listening(broker) as heard, publishing(tmp_path, port=broker.port) as it:
        it.board.record(EventName.VOLUME_LOST, CHECKPOINTS)
        await until(lambda: heard.events() == ["volume.lost"])
        await until(lambda: it.read_counter("mqtt_messages_total", outcome="sent") >= 3)
        first = it.mqtt.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        it.board.publish(make_status(condition=Condition.LOST))
        it.board.record(EventName.VOLUME_GROWN, CHECKPOINTS)
        await until(lambda: heard.events() == ["volume.lost", "volume.grown"])
        await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Lost")
        assert it.mqtt.pid not in {first, None}


@has_broker
async def test_what_it_logs_in_with_is_read_anew_by_the_daemon(
    broker: Mosquitto,  # noqa: F811 -- the fixture
    tmp_path: Path,
) -> None:
    """The process may not read the password's file, and gets what it holds now at each connection."""
    password = tmp_path / "password"
    broker.start()
    with capture_logs() as logs:
        async with publishing(
            tmp_path, port=broker.port, username="agent", password_file=str(password)
        ) as it:
            await until(lambda: any("cannot be read" in str(line.get("text")) for line in logs))
            assert it.read_counter("mqtt_connected") == 0
            password.write_text(f"{PASSWORD}\n")
            password.chmod(0o600)
            await until(lambda: it.read_counter("mqtt_connected") == 1)


@has_broker
async def test_another_broker_is_another_process(
    broker: Mosquitto,  # noqa: F811 -- the fixture
    tmp_path: Path,
) -> None:
    """And none is where there is no broker."""
    broker.start()
    async with publishing(tmp_path, port=reserve_port()) as it:
        await until(lambda: it.mqtt.pid is not None)
        first = it.mqtt.pid
        it.mqtt.apply(MqttSettings(host="127.0.0.1", port=broker.port), FACTS)
        await until(lambda: it.read_counter("mqtt_connected") == 1)
        assert it.mqtt.pid not in {first, None}
        it.mqtt.apply(None, NodeFacts())
        await until(lambda: it.mqtt.pid is None)


@has_broker
async def test_what_waited_for_a_broker_goes_to_the_one_that_follows(
    broker: Mosquitto,  # noqa: F811 -- the fixture
    tmp_path: Path,
) -> None:
    """From the agent's start on, through a broker that was never there."""
    broker.start()
    board = make_board(READY)
    mqtt = MqttProcess(board, Counters(), do_here, FileStore(tmp_path / "mqtt.json"))
    board.record(EventName.AGENT_STARTED, version="1")
    mqtt.apply(MqttSettings(host="127.0.0.1", port=reserve_port()), FACTS)
    async with listening(broker) as heard, anyio.create_task_group() as tasks:
        tasks.start_soon(mqtt.run)
        await until(lambda: mqtt.pid is not None)
        board.record(EventName.VOLUME_LOST, CHECKPOINTS)
        mqtt.apply(MqttSettings(host="127.0.0.1", port=broker.port), FACTS)
        await until(lambda: heard.events() == ["agent.started", "volume.lost"])
        mqtt.apply(None, FACTS)
        board.record(EventName.VOLUME_GROWN, CHECKPOINTS)
        mqtt.apply(MqttSettings(host="127.0.0.1", port=broker.port), FACTS)
        board.record(EventName.VOLUME_FAILED, CHECKPOINTS)
        await until(lambda: heard.events()[2:] == ["volume.failed"])
        tasks.cancel_scope.cancel()


# -- Who has taken it over -----------------------------------------------------------------------------------

TAKEN = """
import os, socket, struct, sys, threading, time
feed = socket.socket(fileno=0)

def say(**said):
    import msgspec
    content = msgspec.msgpack.encode(said)
    feed.sendall(struct.pack(">I", len(content)) + content)

def swallow():
    while feed.recv(1 << 20):
        pass
"""


def take_over(code: str) -> tuple[str, ...]:
    """Return a program in the place of the process, as whoever has taken that over would have it do."""
    return sys.executable, "-c", TAKEN + code


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_process, "RETRY_S", (0.01,))
    monkeypatch.setattr(mqtt_process, "GRACE_S", 0.1)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "code",
    [
        "feed.sendall(os.urandom(1 << 16)); swallow()",
        "feed.sendall(b'\\xff' * 8); swallow()",
        "feed.sendall(struct.pack('>I', 2) + b'\\xc1\\xc1'); swallow()",
        "say(); say(sent=-1); swallow()",
        "say(); say(event=1 << 60); swallow()",
        "say(); say(is_connected='yes'); swallow()",
        "say(); say(note='text'); swallow()",
        f"feed.sendall(struct.pack('>I', {MAX_SAID_BYTES + 1})); swallow()",
    ],
)
async def test_what_it_may_not_say_ends_it(code: str, tmp_path: Path) -> None:
    """Arbitrary bytes, frames too long, numbers that cannot be: another process takes its place."""
    with capture_logs() as logs:
        async with publishing(tmp_path, take_over(code)) as it:
            await outlive(it.board, lambda: [line["event"] for line in logs].count("mqtt.cut_off") >= 2)
    assert not it.note.exists()
    assert it.read_counter("mqtt_messages_total", outcome="sent") == 0


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "code",
    [
        "os._exit(0)",
        "feed.sendall(b'\\0\\0'); os.kill(os.getpid(), 9)",
        "feed.sendall(struct.pack('>I', 100) + b'\\x81'); os.abort()",
        "feed.shutdown(socket.SHUT_RDWR); time.sleep(1e6)",
        "say(); feed.recv(7); os._exit(3)",
        "sys.stderr.write('x\\n' * (1 << 16)); sys.exit(3)",
    ],
)
async def test_who_ends_in_the_middle_is_started_anew(code: str, tmp_path: Path) -> None:
    """However it ends, or pretends to, another is started, after a pause."""
    async with publishing(tmp_path, take_over(code)) as it:
        pids: set[int | None] = set()

        def is_enough() -> bool:
            pids.add(it.mqtt.pid)
            return len(pids - {None}) >= 3

        await outlive(it.board, is_enough)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("code", ["time.sleep(1e6)", "say(); say(wants_news=True); time.sleep(1e6)"])
async def test_who_hangs_is_ended(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing, and who takes nothing, is one that hangs."""
    monkeypatch.setattr(mqtt_teller, "SILENCE_S", 0.3)
    monkeypatch.setattr(mqtt_teller, "SEND_S", 0.2)
    with capture_logs() as logs:
        async with publishing(tmp_path, take_over(code), message="x" * (4 << 20)) as it:
            await outlive(it.board, lambda: [line["event"] for line in logs].count("mqtt.stuck") >= 2)


@pytest.mark.usefixtures("_impatient")
async def test_words_without_end_move_what_is_counted_and_no_more(tmp_path: Path) -> None:
    """However much it says, the board is as it was, and the daemon's loop goes on."""
    code = """
threading.Thread(target=swallow, daemon=True).start()
while True:
    say(sent=1, is_connected=True, event=(1 << 53) - 1, wants_news=True)
"""
    async with publishing(tmp_path, take_over(code)) as it:
        await outlive(it.board, lambda: it.read_counter("mqtt_messages_total", outcome="sent") > 1000)
        assert it.mqtt.pid is not None


@pytest.mark.usefixtures("_impatient")
async def test_a_note_is_kept_as_the_daemon_would_write_it(tmp_path: Path) -> None:
    """What is no note is not written, and the one before stays; of what is one, only what a note has."""
    code = """
import json
def note(content):
    say(note=content)
    feed.recv(1 << 20)
place = {"broker": "b:1", "base": "x/y", "instance_id": None, "volumes": ["vol-0123456789abcdef0"]}
place["more"] = "$(id)"
say()
feed.recv(1 << 20)
note(json.dumps({"places": [place], "more": 1}).encode())
for content in (b"", b"{}", b"[" * 100000, b'{"places": 1}', b'{"places": [{"volumes": ["../../etc"]}]}'):
    note(content)
say(sent=7)
swallow()
"""
    async with publishing(tmp_path, take_over(code)) as it:
        await until(lambda: it.read_counter("mqtt_messages_total", outcome="sent") == 7)
        assert json.loads(it.note.read_text()) == {
            "version": 1,
            "places": [
                {"broker": "b:1", "base": "x/y", "instance_id": None, "volumes": ["vol-0123456789abcdef0"]}
            ],
        }


@pytest.mark.usefixtures("_impatient")
async def test_who_asks_without_end_for_memory_is_refused_it(tmp_path: Path) -> None:
    """The process has bound itself before it hears a word of strangers: it ends, and nobody else does."""
    code = make_memory_bomb("agent.report.broker.main", 128)
    with capture_logs() as logs:
        async with publishing(tmp_path, take_over(code)) as it:
            await outlive(it.board, lambda: any(line["event"] == "mqtt.ended" for line in logs))
    codes = [line["code"] for line in logs if line["event"] == "mqtt.ended"]
    assert 1 < codes[0] < 128


@pytest.mark.usefixtures("_impatient")
async def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with publishing(tmp_path, ("/nonexistent/python",)) as it:
            await outlive(it.board, lambda: any(line["event"] == "mqtt.unavailable" for line in logs))


def test_what_nobody_says_is_nothing() -> None:
    """The first frame, and those the process only lives by, are a few bytes."""
    assert len(frame(encode(Said()))) < 100 + HEAD.size


# -- What it may ---------------------------------------------------------------------------------------------


@is_root
async def test_it_is_nobody(tmp_path: Path) -> None:
    """No capability, no group, no way to get one, no file of the agent's: sockets, and bounded memory."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with publishing(tmp_path, port=silent.getsockname()[1]) as it:

            def is_connecting() -> bool:
                silent.settimeout(0.01)
                try:
                    silent.accept()[0].close()
                except TimeoutError:
                    return False
                return True

            await until(is_connecting)
            check_is_nobody(it.mqtt.pid, address_space_bytes=1 << 30, oom_score=400)
