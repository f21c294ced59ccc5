"""Publishes state and events to an MQTT broker, where the policy names one.

It takes no orders: all it ever asks a broker is which states of this node's volumes it retains, over a
connection of its own, to have those taken away that are of no volume any more.

A broker that is away costs one attempt a minute and a bounded queue; nothing else of the agent notices.
Topics, payloads and the set-up for AWS IoT Core are in ``docs/mqtt.md``.
"""

from __future__ import annotations

import math
import random
import socket
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from agent.base.error_barrier import Barrier
from agent.base.log import get_logger
from agent.core.model import NodeFacts, VolumeId
from agent.core.replace import replace
from agent.policy.settings import MqttSettings
from agent.report.mqtt.connection import CONNECT_TIMEOUT_S, OFFLINE, choose_topics, make_client
from agent.report.mqtt.login import Login, read_login
from agent.report.mqtt.outbox import QUIET_S, Message, Outbox, Topics, show_state_message
from agent.report.mqtt.retained import Place, RetainedNote, Store, ask_retained, list_topics
from agent.report.mqtt.surroundings import Counting, FollowedBoard, HearSent, ReadLogin

if TYPE_CHECKING:
    import aiomqtt

ONLINE = b"online"
RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
STEADY_S = 60.0
"""A connection that lasted so long was a good one; one that a broker ends at once is a failure, too."""
SEND_TIMEOUT_S = 20.0
GOODBYE_S = 1.0
PACE_S = 0.02
"""AWS IoT Core takes 100 messages a second from one connection; half of that empties any queue of ours."""
_CLIENT = "agent.report.mqtt.client"

log = get_logger(__name__)


class MqttPublisher:
    """Follows the board and keeps a broker told; ``apply`` changes or ends to whom."""

    def __init__(
        self,
        board: FollowedBoard,
        counters: Counting,
        login: ReadLogin = read_login,
        store: Store | None = None,
        hear_sent: HearSent = lambda _: None,
        after_event: int | None = None,
    ) -> None:
        self._after_event = after_event
        """Events with higher numbers are published; None: those from the beginning of each run."""
        self._read_login = login
        self._hear_sent = hear_sent
        self._note = RetainedNote(store)
        self._place = Place("", "")
        """Where it publishes, or published last."""
        self._is_swept = False
        """Whether what that place retained from an earlier life was asked for."""
        self._is_sweeping = False
        self._board = board
        self._counters = counters
        self._settings: MqttSettings | None = None
        self._facts = NodeFacts()
        self._changed = anyio.Event()
        self._outbox = Outbox()
        self._barrier = Barrier()
        self._published: set[VolumeId] = set()
        """Volumes the broker retains a state of there, as far as this agent knows."""

    def apply(self, settings: MqttSettings | None, facts: NodeFacts) -> None:
        """Publish to this broker, to none if None, as the node that ``facts`` tell of, from now on."""
        if (settings, facts) != (self._settings, self._facts):
            self._settings, self._facts = settings, facts
            self._changed.set()

    async def run(self) -> None:
        """Publish until cancelled, whenever there is a broker to publish to."""
        while True:
            self._changed = anyio.Event()
            if self._settings is None:
                await self._changed.wait()
                continue
            async with anyio.create_task_group() as tasks:
                self._outbox = Outbox()
                tasks.start_soon(self._collect_states, name="mqtt states")
                tasks.start_soon(self._collect_events, name="mqtt events")
                tasks.start_soon(self._collect_late_states, name="mqtt late states")
                tasks.start_soon(self._publish, self._settings, tasks, name="mqtt publisher")
                await self._changed.wait()
                tasks.cancel_scope.cancel()

    # -- Collecting ------------------------------------------------------------------------------------------

    async def _collect_states(self) -> None:
        with self._board.subscribe() as changes:
            async for change in changes:
                if change.volume_id is not None:
                    self._outbox.put_state(change.volume_id, change.status, anyio.current_time())

    async def _collect_late_states(self) -> None:
        while True:
            await anyio.sleep(QUIET_S)
            self._outbox.put_late_states(anyio.current_time())

    async def _collect_events(self) -> None:
        history = self._board.history
        dropped = 0
        after = history.next_number - 1 if self._after_event is None else self._after_event
        async for event in history.follow(after):
            self._outbox.put_event(event)
            self._counters.count_mqtt("dropped", self._outbox.dropped - dropped)
            dropped = self._outbox.dropped

    # -- Publishing ------------------------------------------------------------------------------------------

    async def _publish(self, settings: MqttSettings, tasks: TaskGroup) -> None:
        """Connect and publish, again and again, with longer pauses while it fails."""
        failures = 0
        while True:
            problem = await self._publish_once(settings, tasks)
            self._counters.note_mqtt_connection(is_connected=False)
            if anyio.current_time() >= problem.connected_at + STEADY_S:
                failures = 0
            failures += 1
            if failures == 1 or failures % 60 == 0:
                # Once when it begins, and about once an hour while it lasts.
                log.warning("mqtt.disconnected", host=settings.host, port=settings.port, error=problem.why)
            pause_s = RETRY_S[min(failures, len(RETRY_S)) - 1]
            # A broker that comes back must not meet all nodes of a cluster in the same second.
            await anyio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret

    async def _publish_once(self, settings: MqttSettings, tasks: TaskGroup) -> _Problem:
        # Its disk may hang: the loop does not wait for it. Nothing else imports it meanwhile.
        await anyio.to_thread.run_sync(import_module, _CLIENT, abandon_on_cancel=True)
        import aiomqtt  # noqa: PLC0415 -- memory that only those who use it pay for

        problem = _Problem()
        try:
            topics = choose_topics(settings.topic, self._facts, socket.gethostname())
            login = await self._read_login(settings)
            async with make_client(settings, topics, login, timeout_s=CONNECT_TIMEOUT_S) as client:
                problem.connected_at = anyio.current_time()
                self._counters.note_mqtt_connection(is_connected=True)
                log.info("mqtt.connected", host=settings.host, port=settings.port, topic=topics.base)
                with anyio.CancelScope() as conversation:
                    tasks.start_soon(_end_with, client, conversation, name="mqtt connection")
                    await self._move_to(settings, topics)
                    if not (self._is_swept or self._is_sweeping):
                        tasks.start_soon(self._sweep, settings, topics, login, name="mqtt ghosts")
                    await self._converse(client, topics)
        except aiomqtt.MqttError as error:
            problem.why = str(error)
        except OSError as error:
            problem.why = error.strerror or str(error)
        except UnicodeError as error:
            problem.why = f"the host name {settings.host!r} cannot be written as DNS has it ({error})"
        except Exception as error:  # noqa: BLE001 -- the barrier of one connection: the next is tried all the same
            problem.why = str(self._barrier.explain(error, f"publish to {settings.host}"))
        return problem

    async def _converse(self, client: aiomqtt.Client, topics: Topics) -> None:
        """Say how everything is, then everything new as it comes, until the connection breaks."""
        try:
            await self._send(client, Message(topics.status, ONLINE, is_retained=True))
            known = {status.volume_id: status for status in self._board.statuses() if status.volume_id}
            if self._board.is_first_look_done:  # before, a volume may be here all the same
                for volume_id in self._published - known.keys():
                    await self._send(client, show_state_message(topics, volume_id, None))
                self._published &= known.keys()
            for volume_id, status in known.items():
                await self._send(client, show_state_message(topics, volume_id, status))
            self._published |= known.keys()
            await self._note_published()
            await self._clear_old(client)
            while True:
                await self._send_next(client, topics)
        except anyio.get_cancelled_exc_class():
            # Ended on purpose, so the broker will not publish the last will.
            with anyio.move_on_after(GOODBYE_S, shield=True), suppress(Exception):
                await self._send(client, Message(topics.status, OFFLINE, is_retained=True))
            raise

    async def _send_next(self, client: aiomqtt.Client, topics: Topics) -> None:
        message, item = await self._outbox.take(topics)
        is_sent = False
        try:
            await self._send(client, message)
            is_sent = True
        finally:
            if not is_sent:
                self._outbox.put_back(item)
        if isinstance(item, str):
            (self._published.add if message.payload else self._published.discard)(item)
            await self._note_published()
        else:
            self._hear_sent(item)
        await anyio.sleep(PACE_S)

    # -- What is retained of volumes and names that are gone -------------------------------------------------

    async def _move_to(self, settings: MqttSettings, topics: Topics) -> None:
        """Take note of where is published from now on, before anything is."""
        broker = f"{settings.host}:{settings.port}"
        if (broker, topics.base) != (self._place.broker, self._place.base):
            self._published = set(self._note.find(broker, topics.base))
            self._is_swept = False
        self._place = Place(broker, topics.base, self._facts.instance_id)
        await self._note_published()

    async def _note_published(self) -> None:
        await self._note.put(replace(self._place, volumes=frozenset(self._published)))

    async def _clear_old(self, client: aiomqtt.Client) -> None:
        """Take away what this node has left at the broker under other names."""
        place, topic = self._place, "" if self._settings is None else self._settings.topic
        nameless = choose_topics(topic, NodeFacts(), socket.gethostname()).base
        for old in self._note.list_old(place.broker, place.base, self._facts, nameless):
            for one in list_topics(old):
                await self._send(client, Message(one, b"", is_retained=True))
                await anyio.sleep(PACE_S)
            await self._note.drop(old)

    async def _sweep(self, settings: MqttSettings, topics: Topics, login: Login) -> None:
        """Have those states taken away that the broker retains of volumes which are not known here.

        Once for each place, and not before all volumes were looked at. A broker that does not let itself be
        asked keeps them.
        """
        self._is_sweeping = True
        try:
            with self._board.subscribe() as changes:
                while not self._board.is_first_look_done:
                    await anext(changes)
            retained = await self._ask_retained(settings, topics, login)
        finally:
            self._is_sweeping = False
        known = {status.volume_id for status in self._board.statuses()}
        for volume_id in sorted((retained | self._published) - known):
            self._outbox.put_state(volume_id, None, anyio.current_time())

    async def _ask_retained(
        self, settings: MqttSettings, topics: Topics, login: Login
    ) -> frozenset[VolumeId]:
        """Return the volumes of which the broker retains a state; none where it cannot be asked.

        A broker may end the connection of who may not subscribe, as AWS IoT Core does.
        """
        import aiomqtt  # noqa: PLC0415 -- as where it is published

        try:
            async with make_client(settings, topics, login, is_listener=True) as client:
                retained = await ask_retained(client, topics)
            self._is_swept = True
        except (aiomqtt.MqttError, OSError, UnicodeError) as error:
            log.info("mqtt.unswept", host=settings.host, error=str(error))
        except Exception as error:  # noqa: BLE001 -- the barrier of one connection: publishing goes on
            why = self._barrier.explain(error, f"ask {settings.host} what it retains")
            log.info("mqtt.unswept", host=settings.host, error=str(why))
        else:
            return retained
        return frozenset()

    async def _send(self, client: aiomqtt.Client, message: Message) -> None:
        """Publish one message and wait until the broker has it."""
        await client.publish(
            message.topic, message.payload, qos=1, retain=message.is_retained, timeout=SEND_TIMEOUT_S
        )
        self._counters.count_mqtt("sent")


async def _end_with(client: aiomqtt.Client, conversation: anyio.CancelScope) -> None:
    """End the conversation with its connection: a message under way would be waited for in vain.

    It ends as well with the first message that comes: nothing is subscribed to, and a broker that sends all
    the same may send without end.
    """
    with suppress(Exception):
        async for _ in client.messages:
            break
    conversation.cancel()


class _Problem:
    """Why a connection ended, or did not come about."""

    def __init__(self) -> None:
        self.connected_at = math.inf
        self.why = "the connection was closed"
