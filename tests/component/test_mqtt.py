"""Publishing to a real mosquitto: what it gets, what it keeps, and what happens when it goes away."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from agent.core.model import Condition, Difference, NodeFacts, Reason, Remedy, VolumeId
from agent.policy.settings import MqttSettings, MqttTls
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.mqtt import client as mqtt_client
from agent.report.mqtt import publisher as mqtt
from agent.report.mqtt.connection import choose_topics, make_client
from agent.report.mqtt.outbox import MAX_EVENTS, Outbox, Topics
from agent.report.mqtt.publisher import MqttPublisher
from agent.report.mqtt.retained import RetainedNote, Store
from tests.agent_process import reserve_port
from tests.unit.report.samples import CHECKPOINTS, DATASETS, READY, REFUSED, make_board, make_status
from tests.waiting import until, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.needs("mosquitto")]

FACTS = NodeFacts(instance_name="compute-1", cluster_id="abcde01234yz")
PASSWORD = "s3cret"  # noqa: S105 -- of a broker that lives for a test
BASE = "ebs-agent/abcde01234yz/compute-1"


@dataclass
class Mosquitto:
    """A broker of the test's own, with nothing of an earlier one."""

    directory: Path
    settings: list[str] = field(default_factory=lambda: ["allow_anonymous true"])
    port: int = field(default_factory=reserve_port)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.directory / "mosquitto.conf"
        config.write_text("\n".join([f"listener {self.port} 127.0.0.1", *self.settings]) + "\n")
        log = self.directory / "mosquitto.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(["mosquitto", "-c", str(config)], stdout=output, stderr=output)
        wait_until(self._is_listening, f"the broker listens, see {log}")

    def _is_listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the broker has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path)
    yield mosquitto
    mosquitto.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: how long the pauses are is not what is tested here."""
    monkeypatch.setattr(mqtt, "RETRY_S", (0.05,))


@dataclass
class Heard:
    """What a subscriber heard, in order; ``retained`` is what it was given on subscribing."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)

    def newest(self, topic: str) -> bytes | None:
        return next((payload for t, payload in reversed(self.messages) if t == topic), None)

    def state(self, volume: VolumeId) -> dict[str, Any]:
        payload = self.newest(f"{BASE}/volumes/{volume}")
        return json.loads(payload) if payload else {}

    def events(self) -> list[str]:
        return [json.loads(payload)["event"] for topic, payload in self.messages if topic == f"{BASE}/events"]


@asynccontextmanager
async def listening(broker: Mosquitto, **options: Any) -> AsyncIterator[Heard]:
    heard = Heard()

    async def listen(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = bytes(message.payload or b"")
            heard.messages.append((str(message.topic), payload))
            if message.retain:
                heard.retained[str(message.topic)] = payload

    async with (
        mqtt_client.Client("127.0.0.1", broker.port, max_messages=sys.maxsize, **options) as client,
        anyio.create_task_group() as tasks,
    ):
        await client.subscribe("#", qos=1)
        tasks.start_soon(listen, client)
        yield heard
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def publishing(
    board: Board,
    broker: Mosquitto,
    counters: Counters | None = None,
    *,
    facts: NodeFacts = FACTS,
    store: Store | None = None,
    **settings: Any,
) -> AsyncIterator[MqttPublisher]:
    publisher = MqttPublisher(board, counters or Counters(), store=store)
    publisher.apply(MqttSettings(host="127.0.0.1", **{"port": broker.port, **settings}), facts)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publisher.run)
        yield publisher
        tasks.cancel_scope.cancel()


async def test_state_is_retained_and_events_are_told(broker: Mosquitto) -> None:
    """Who subscribes later finds the node online with every volume's state; who listens hears the events."""
    broker.start()
    board = make_board(READY)
    async with listening(broker) as heard, publishing(board, broker):
        await until(lambda: heard.newest(f"{BASE}/status") == b"online")
        await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Ready")
        board.publish(make_status(condition=Condition.FAILED, reason=Reason.STALLED))
        board.record(EventName.VOLUME_FAILED, CHECKPOINTS, reason="Stalled")
        await until(lambda: heard.state(CHECKPOINTS).get("reason") == "Stalled")
        await until(lambda: heard.events() == ["volume.failed"])
        async with listening(broker) as late:
            await until(lambda: len(late.retained) == 2)
        assert late.retained[f"{BASE}/status"] == b"online"
        assert json.loads(late.retained[f"{BASE}/volumes/{CHECKPOINTS}"])["condition"] == "Failed"


async def test_goodbye_and_last_will(broker: Mosquitto) -> None:
    """An agent that stops is offline, and so is one whose connection breaks."""
    broker.start()
    async with listening(broker) as heard:
        async with publishing(make_board(READY), broker):
            await until(lambda: heard.newest(f"{BASE}/status") == b"online")
        await until(lambda: heard.newest(f"{BASE}/status") == b"offline")
        settings = MqttSettings(host="127.0.0.1", port=broker.port)
        client = make_client(settings, Topics(BASE))
        async with client:
            await client.publish(f"{BASE}/status", mqtt.ONLINE, qos=1, retain=True)
            await until(lambda: heard.newest(f"{BASE}/status") == b"online")
            broken = client._client.socket()
            client._client.loop_stop()
            assert isinstance(broken, socket.socket)
            broken.shutdown(socket.SHUT_RDWR)
            await until(lambda: heard.newest(f"{BASE}/status") == b"offline")
            with pytest.raises(aiomqtt.MqttError):
                await client.publish("x", b"", qos=1, timeout=1)


async def test_volume_that_goes_takes_its_state_along(broker: Mosquitto) -> None:
    """The broker keeps no state of a volume that the board has forgotten, even while it was away."""
    broker.start()
    board = make_board(READY, REFUSED)
    async with publishing(board, broker):
        async with listening(broker) as heard:
            await until(lambda: heard.state(CHECKPOINTS) and heard.state(DATASETS))
            board.remove(DATASETS)
            await until(lambda: heard.newest(f"{BASE}/volumes/{DATASETS}") == b"")
        async with listening(broker) as late:
            await until(lambda: late.retained.get(f"{BASE}/status"))
            assert f"{BASE}/volumes/{DATASETS}" not in late.retained


OTHER = VolumeId("vol-0aaaaaaaaaaaaaaaa")


async def retain(broker: Mosquitto, *topics: str) -> None:
    """Have the broker keep a state of some size under each topic."""
    settings = MqttSettings(host="127.0.0.1", port=broker.port)
    async with make_client(settings, Topics("test")) as client:
        for topic in topics:
            await client.publish(topic, b"{}" + b" " * 8000, qos=1, retain=True)


async def test_states_of_an_earlier_life_are_taken_away(broker: Mosquitto) -> None:
    """A node that was replaced under its name remembers nothing: the broker is asked. Others' are left."""
    broker.start()
    ghosts = [f"{BASE}/volumes/{volume}" for volume in (DATASETS, OTHER)]
    strange = [f"{BASE}/volumes/x", f"{BASE}/volumes/{OTHER}/x", f"{BASE}2/volumes/{OTHER}"]
    await retain(broker, *ghosts, *strange)
    async with listening(broker) as heard, publishing(make_board(READY), broker):
        await until(lambda: all(heard.newest(ghost) == b"" for ghost in ghosts))
        await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Ready")
        async with listening(broker) as late:
            await until(lambda: len(late.retained) == 2 + len(strange))
        assert {*strange, f"{BASE}/status", f"{BASE}/volumes/{CHECKPOINTS}"} == late.retained.keys()
        assert heard.newest(f"{BASE}/status") == b"online", "asking has no last will"


async def test_nothing_is_taken_away_before_all_volumes_were_looked_at(broker: Mosquitto) -> None:
    """At the start a volume may be here that the board does not have yet."""
    broker.start()
    state = f"{BASE}/volumes/{CHECKPOINTS}"
    await retain(broker, state, f"{BASE}/volumes/{OTHER}")
    board = make_board(is_looked_at=False)
    async with listening(broker) as heard, publishing(board, broker):
        await until(lambda: heard.newest(f"{BASE}/status") == b"online")
        board.publish(READY)
        await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Ready")
        board.finish_first_look()
        await until(lambda: heard.newest(f"{BASE}/volumes/{OTHER}") == b"")
        assert b"" not in [payload for topic, payload in heard.messages if topic == state]


class Disk:
    """A node's disk, for one file."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def read(self) -> bytes | None:
        return self.content

    async def write(self, content: bytes) -> None:
        self.content = content


HERE = NodeFacts(instance_name="compute-1", cluster_id="abcde01234yz", instance_id="i-0123456789abcdef0")


@pytest.mark.parametrize(
    ("before", "now", "is_cleared"),
    [
        (NodeFacts(), HERE, True),
        (NodeFacts(instance_id=HERE.instance_id), HERE, True),
        (NodeFacts(instance_name="compute-2", cluster_id="abcde01234yz", instance_id="i-other"), HERE, False),
        (NodeFacts(instance_name="compute-2", cluster_id="abcde01234yz"), HERE, False),
    ],
)
async def test_topics_of_another_name_are_taken_away(
    broker: Mosquitto, before: NodeFacts, now: NodeFacts, *, is_cleared: bool
) -> None:
    """What this node published under another name goes; what its disk's first owner did is that one's."""
    broker.start()
    disk = Disk()
    old = choose_topics("ebs-agent", before, socket.gethostname())
    async with listening(broker) as heard:
        async with publishing(make_board(READY, REFUSED), broker, facts=before, store=disk):
            await until(lambda: heard.newest(old.volume(DATASETS)))
            await until(lambda: len(RetainedNote(disk).find(f"127.0.0.1:{broker.port}", old.base)) == 2)
        async with publishing(make_board(READY), broker, facts=now, store=disk):
            await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Ready")
            if is_cleared:
                gone = (old.status, old.volume(CHECKPOINTS), old.volume(DATASETS))
                await until(lambda: all(heard.newest(topic) == b"" for topic in gone))
                await until(lambda: not RetainedNote(disk).find(f"127.0.0.1:{broker.port}", old.base))
            await until(lambda: RetainedNote(disk).find(f"127.0.0.1:{broker.port}", BASE))
    if not is_cleared:
        assert heard.newest(old.volume(DATASETS)), "another instance's are left"


async def test_name_that_is_learnt_takes_the_old_topics_along(broker: Mosquitto) -> None:
    """Within one life too, and the states of the new name are whole."""
    broker.start()
    old = choose_topics("ebs-agent", NodeFacts(), socket.gethostname())
    async with (
        listening(broker) as heard,
        publishing(make_board(READY), broker, facts=NodeFacts()) as publisher,
    ):
        await until(lambda: heard.newest(old.volume(CHECKPOINTS)))
        publisher.apply(MqttSettings(host="127.0.0.1", port=broker.port), HERE)
        await until(lambda: heard.newest(old.volume(CHECKPOINTS)) == b"")
        await until(lambda: heard.newest(old.status) == b"")
        await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Ready")


async def test_broker_that_lets_nobody_ask_is_published_to(broker: Mosquitto, tmp_path: Path) -> None:
    """Where subscribing is not allowed the states of an earlier life stay, and everything else goes on."""
    (tmp_path / "acl").write_text("topic write #\n")
    broker.settings = ["user root", "allow_anonymous true", f"acl_file {tmp_path / 'acl'}"]
    broker.start()
    counters = Counters()
    async with publishing(make_board(READY), broker, counters) as publisher:
        await until(lambda: publisher._is_swept)
        await until(lambda: publisher._published == {CHECKPOINTS})


class StrictBroker:
    """A broker that takes what is published, and ends the connection of whoever subscribes."""

    def __init__(self) -> None:
        self.published = self.ended = 0

    async def serve(self, stream: SocketStream) -> None:
        kinds = {0x10: b"\x20\x02\x00\x00"}
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead):
                source = BufferedByteReceiveStream(stream)
                while True:
                    kind = (await source.receive_exactly(1))[0] & 0xF0
                    body = await source.receive_exactly(await self._receive_length(source))
                    if kind == 0x80:  # SUBSCRIBE
                        self.ended += 1
                        return
                    if kind == 0x30:  # PUBLISH, of quality 1: its number follows the topic
                        self.published += 1
                        start = 2 + int.from_bytes(body[:2], "big")
                        await stream.send(b"\x40\x02" + body[start : start + 2])
                    elif kind in kinds:
                        await stream.send(kinds[kind])

    async def _receive_length(self, source: BufferedByteReceiveStream) -> int:
        length = shift = 0
        while True:
            digit = (await source.receive_exactly(1))[0]
            length |= (digit & 0x7F) << shift
            if digit < 0x80:
                return length
            shift += 7


async def test_broker_that_ends_who_asks_is_published_to() -> None:
    """As AWS IoT Core does without iot:Subscribe: the connection that publishes is another, and goes on."""
    strict = StrictBroker()
    board = make_board(READY)
    async with serving(strict) as port, anyio.create_task_group() as tasks:
        publisher = MqttPublisher(board, Counters())
        publisher.apply(MqttSettings(host="127.0.0.1", port=port), FACTS)
        tasks.start_soon(publisher.run)
        await until(lambda: strict.ended == 1 and not publisher._is_sweeping)
        before = strict.published
        board.record(EventName.VOLUME_FAILED, CHECKPOINTS, reason="Stalled")
        await until(lambda: strict.published > before)
        tasks.cancel_scope.cancel()
    assert strict.ended == 1, "it is not asked again while the connection lasts"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"places": 7}', b'{"places": [{}]}', b'{"places": [7]}', b"[" * 100000]
)
def test_note_that_cannot_be_read_is_none(content: bytes) -> None:
    """A damaged note costs ghosts, and nothing else."""
    disk = Disk()
    disk.content = content
    assert RetainedNote(disk).find("x:1", "y") == frozenset()


async def test_broker_that_goes_away_under_load(broker: Mosquitto, tmp_path: Path) -> None:
    """A broker stopped and started amid events gets all that fit the queue, in order, and all states."""
    broker.start()
    board = make_board(READY)
    # Read for each connection, so without it there is none: it keeps the publisher from being back first.
    password = tmp_path / "password"
    password.write_text("any will do")
    async with publishing(board, broker, username="agent", password_file=str(password)):
        async with listening(broker) as heard:
            for _ in range(20):
                board.record(EventName.VOLUME_GROWN, CHECKPOINTS)
            await until(lambda: heard.newest(f"{BASE}/status") == b"online" and heard.events())
        password.unlink()
        broker.stop()
        first = board.history.next_number
        for _ in range(100):
            board.record(EventName.VOLUME_MOUNTED, CHECKPOINTS)
            await anyio.sleep(0.001)
        board.publish(make_status(condition=Condition.DEGRADED, reason=Reason.NEARLY_FULL))
        broker.start()
        async with listening(broker) as heard:
            password.write_text("any will do")
            await until(lambda: heard.events().count("volume.mounted") == 100)
            await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Degraded")
            for _ in range(5):
                board.record(EventName.VOLUME_LOST, CHECKPOINTS)
            await until(lambda: heard.events().count("volume.lost") == 5)
        numbers = [json.loads(p)["number"] for t, p in heard.messages if t == f"{BASE}/events"]
        assert sorted(set(numbers)) == sorted(numbers) == numbers
        assert numbers[-1] == first + 104


async def test_broker_that_dies_while_it_is_sent_to_leaves_nothing_watched(broker: Mosquitto) -> None:
    """The number of a socket whose broker died is another socket's at once, and nobody else's."""
    loop = asyncio.get_running_loop()
    others: list[socket.socket] = []
    for _ in range(5):
        broker.start()
        client = make_client(MqttSettings(host="127.0.0.1", port=broker.port), Topics(BASE))
        with suppress(aiomqtt.MqttError):  # nobody confirms what is sent
            async with client:
                connection = client._client.socket()
                assert isinstance(connection, socket.socket)
                number = connection.fileno()
                broker.stop()
                select.select([number], [], [])
                # The loop finds out in the turn that the next step is in, and after it.
                await asyncio.sleep(0)
                loop.call_soon(lambda: others.extend(socket.socketpair()))
                await client.publish(f"{BASE}/status", mqtt.ONLINE, qos=1, timeout=0.1)
        assert number in {other.fileno() for other in others}, "the number is another's"
        assert not loop.remove_reader(number)
        assert not loop.remove_writer(number)
    for other in others:
        other.close()


@dataclass
class SlowBroker:
    """A broker that takes connections and acknowledges them when it is told to, if ever."""

    may_answer: anyio.Event = field(default_factory=anyio.Event)
    open: int = 0
    seen: int = 0

    async def serve(self, stream: SocketStream) -> None:
        self.seen, self.open = self.seen + 1, self.open + 1
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(self._answer, stream)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()
            tasks.cancel_scope.cancel()
        self.open -= 1

    async def _answer(self, stream: SocketStream) -> None:
        await self.may_answer.wait()
        await stream.send(b"\x20\x02\x00\x00")  # CONNACK: accepted


@asynccontextmanager
async def serving(broker: SlowBroker | FloodingBroker | StrictBroker) -> AsyncIterator[int]:
    """Give the broker's port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, broker.serve)
        yield listener.extra_attributes[SocketAttribute.local_port]()
        tasks.cancel_scope.cancel()


async def test_connection_given_up_on_the_way_is_closed() -> None:
    """Settings that change while a broker is slow to answer leave no connection to it, once it answers."""
    slow = SlowBroker()
    async with serving(slow) as port, anyio.create_task_group() as tasks:
        publisher = MqttPublisher(make_board(READY), Counters())
        publisher.apply(MqttSettings(host="127.0.0.1", port=port), FACTS)
        tasks.start_soon(publisher.run)
        await until(lambda: slow.seen)
        publisher.apply(None, FACTS)
        slow.may_answer.set()
        await until(lambda: not slow.open)
        assert slow.seen == 1
        tasks.cancel_scope.cancel()


async def test_broker_that_never_answers_has_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that was given up for want of an answer is over before the one after the next."""
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT_S", 0.2)
    slow = SlowBroker()
    most = 0

    def count() -> int:
        nonlocal most
        most = max(most, slow.open)
        return slow.seen

    async with serving(slow) as port, anyio.create_task_group() as tasks:
        publisher = MqttPublisher(make_board(READY), Counters())
        publisher.apply(MqttSettings(host="127.0.0.1", port=port), FACTS)
        tasks.start_soon(publisher.run)
        await until(lambda: count() > 4)
        tasks.cancel_scope.cancel()
    assert most <= 2


MUCH = b"\0" * 65536


class FloodingBroker:
    """Takes any connection, and sends without end what nobody asked for."""

    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        self.sent_bytes = 0
        self.ended = 0

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"\x20\x02\x00\x00")  # CONNACK: accepted
            with suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(self.packet)
                    self.sent_bytes += len(self.packet)
            self.ended += 1


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x30\xff\xff\xff\x7f\x00\x01t" + MUCH, id="one of 256 MiB"),
        pytest.param(b"\x30\x08\x00\x01tabcde" * 1000, id="many"),
    ],
)
async def test_broker_that_sends_what_nobody_asked_for_is_left(packet: bytes) -> None:
    """Nothing is subscribed to: the connection ends at once, and the flood is nobody's to keep."""
    flood = FloodingBroker(packet)
    async with serving(flood) as port, anyio.create_task_group() as tasks:
        publisher = MqttPublisher(make_board(READY), Counters())
        publisher.apply(MqttSettings(host="127.0.0.1", port=port), FACTS)
        tasks.start_soon(publisher.run)
        await until(lambda: flood.ended)
        tasks.cancel_scope.cancel()
    assert flood.sent_bytes < 64 * 1024 * 1024, "what the sockets hold, and no more"


async def test_flood_takes_neither_the_processor_nor_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Also of whoever asks what is retained, which waits for an answer: a message too many ends it."""
    flood = FloodingBroker(b"\x30\x08\x00\x01tabcde")
    async with serving(flood) as port, anyio.create_task_group() as tasks:
        publisher = MqttPublisher(make_board(READY), Counters())
        publisher.apply(MqttSettings(host="127.0.0.1", port=port), FACTS)
        tasks.start_soon(publisher.run)
        await until(lambda: flood.ended >= 2)
        tasks.cancel_scope.cancel()
    assert "queue is full" not in caplog.text


async def test_broker_that_ends_each_connection_is_met_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """To take a connection is not yet to be well: who floods each one is not met every second for ever."""
    monkeypatch.setattr(mqtt, "RETRY_S", (0.01, 0.01, 1000.0))
    monkeypatch.setattr(mqtt, "GOODBYE_S", 0.05)
    flood = FloodingBroker(b"\x30\x08\x00\x01tabcde")
    async with serving(flood) as port, anyio.create_task_group() as tasks:
        publisher = MqttPublisher(make_board(READY), Counters())
        publisher.apply(MqttSettings(host="127.0.0.1", port=port), FACTS)
        tasks.start_soon(publisher.run)
        await until(lambda: flood.ended >= 3)
        with anyio.move_on_after(1.5):
            await until(lambda: flood.ended > 4)
        assert flood.ended <= 4, "three to publish, and one that asks what is retained"
        tasks.cancel_scope.cancel()


async def test_idle_node_is_back_with_its_broker(broker: Mosquitto) -> None:
    """A broker that was restarted and kept nothing has the node's state again, though nothing happened."""
    broker.start()
    async with publishing(make_board(READY), broker):
        async with listening(broker) as heard:
            await until(lambda: heard.newest(f"{BASE}/status") == b"online")
        broker.stop()
        broker.start()
        async with listening(broker) as heard:
            await until(lambda: heard.newest(f"{BASE}/status") == b"online")
            await until(lambda: heard.state(CHECKPOINTS).get("condition") == "Ready")


async def test_absent_broker_costs_nothing(broker: Mosquitto) -> None:
    """With no broker at all the queue stays bounded, drops the oldest and counts them."""
    board = make_board(READY)
    counters = Counters()
    async with publishing(board, broker, counters) as publisher:
        await anyio.wait_all_tasks_blocked()
        for _ in range(MAX_EVENTS + 50):
            board.record(EventName.VOLUME_READY, CHECKPOINTS)
            await anyio.lowlevel.checkpoint()
        await until(lambda: publisher._outbox.dropped == 50)
        await until(
            lambda: (
                counters.registry.get_sample_value("ebs_agent_mqtt_messages_total", {"outcome": "dropped"})
                == 50
            )
        )
        assert counters.registry.get_sample_value("ebs_agent_mqtt_connected") == 0


async def test_drift_is_published_at_once() -> None:
    """What a volume is not as its claim says is news, though its condition is as before."""
    outbox, topics = Outbox(), Topics(BASE)
    outbox.put_state(CHECKPOINTS, READY, now_s=0)
    await outbox.take(topics)
    drift = Difference("iops", "6000", "3000", Remedy.LATER)
    outbox.put_state(CHECKPOINTS, make_status(drift=(drift,)), now_s=1)
    with anyio.fail_after(5):
        message, _ = await outbox.take(topics)
    assert json.loads(message.payload)["drift"][0]["what"] == "iops"


async def test_numbers_alone_are_published_now_and_then() -> None:
    """A state in which only use has changed waits a minute; a change of condition does not."""
    outbox = Outbox()
    topics = Topics(BASE)
    outbox.put_state(CHECKPOINTS, READY, 0.0)
    await outbox.take(topics)
    outbox.put_state(CHECKPOINTS, make_status(usage=None), 15.0)
    outbox.put_late_states(30.0)
    with anyio.move_on_after(0.02) as nothing:
        await outbox.take(topics)
    assert nothing.cancelled_caught
    outbox.put_late_states(61.0)
    message, _ = await outbox.take(topics)
    assert json.loads(message.payload)["filesystem"] is None
    outbox.put_state(CHECKPOINTS, make_status(condition=Condition.LOST), 62.0)
    message, _ = await outbox.take(topics)
    assert json.loads(message.payload)["condition"] == "Lost"


# paho drops the socket of a TLS handshake that failed without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_password_and_tls(broker: Mosquitto, tmp_path: Path) -> None:
    """With TLS and a password file the broker lets the agent in; of an unknown authority it is not told."""
    make_certificates(tmp_path)
    users = make_users(tmp_path)
    broker.settings = [
        "user root", f"cafile {tmp_path}/ca.pem", f"certfile {tmp_path}/server.pem",
        f"keyfile {tmp_path}/server.key", "allow_anonymous false", f"password_file {users}",
    ]  # fmt: skip
    broker.start()
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    secrets: dict[str, Any] = {"username": "agent", "password_file": str(tmp_path / "password")}
    board = make_board(READY)
    async with listening(broker, username="agent", password=PASSWORD, tls_context=context) as heard:
        async with publishing(board, broker, tls=MqttTls(ca=str(tmp_path / "ca.pem")), **secrets):
            await until(lambda: heard.newest(f"{BASE}/status") == b"online")
        heard.messages.clear()
        counters = Counters()
        async with publishing(board, broker, counters, tls=MqttTls(), **secrets):
            await anyio.sleep(0.3)
        assert heard.newest(f"{BASE}/status") != b"online"
        assert counters.registry.get_sample_value("ebs_agent_mqtt_connected") == 0


def make_users(directory: Path) -> Path:
    """Make a broker's file of users with one user, and the agent's file with the password."""
    (directory / "password").write_text(f"{PASSWORD}\n")
    users = directory / "users"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(users), "agent", PASSWORD], check=True)
    users.chmod(0o644)
    return users


def make_certificates(directory: Path) -> None:
    """Make an authority and a certificate of 127.0.0.1 that it vouches for."""
    script = """
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca \
        -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1 \
        -keyout server.key -out server.csr
    printf 'subjectAltName=IP:127.0.0.1\\nauthorityKeyIdentifier=keyid\\n' > server.ext
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext \
        -out server.pem
    """
    subprocess.run(["sh", "-ec", script], cwd=directory, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("facts", "base"),
    [
        (FACTS, BASE),
        (NodeFacts(), "ebs-agent/no-cluster/host"),
        (NodeFacts(instance_id="i-0123456789abcdef0"), "ebs-agent/no-cluster/i-0123456789abcdef0"),
        (NodeFacts(instance_name="a/+#\n$b", cluster_id="c"), "ebs-agent/c/a_____b"),
    ],
)
def test_topics(facts: NodeFacts, base: str) -> None:
    """A node's topics have its cluster and its name, and no character that means something to a broker."""
    assert choose_topics("ebs-agent", facts, "host").base == base
