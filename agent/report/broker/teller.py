"""The daemon's side of what is said with the process that publishes: tells news, answers what is asked.

Whatever that process sends costs a bounded share of the daemon's time. What it may move is what is counted of
messages, which event it is told next, and the note of what brokers retain, which only it reads.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable

import anyio
from msgspec import Struct

import agent
from agent.core.errors import AgentError
from agent.core.model import NodeFacts, VolumeId
from agent.policy.settings import MqttSettings
from agent.report.api import show_event
from agent.report.board.volume_status import VolumeStatus
from agent.report.broker.frames import MAX_SAID_BYTES, News, Reply, Said, Setup, Told
from agent.report.feed.frames import HEAD, decode, encode, frame, read_head
from agent.report.feed.teller import strip_status
from agent.report.mqtt.login import LoginFiles
from agent.report.mqtt.surroundings import Counting, FollowedBoard

SEND_S = 10.0
"""For a frame to be taken."""
SILENCE_S = 120.0
"""Without a word of the process; it says one every half minute."""
SHARE = 0.1
"""Of the loop's time that it may take, however much it says or asks."""
PAUSE_S = 0.2
"""After files were read, or a note was written, before anything further is heard."""
MAX_EVENTS = 200
"""In one frame; of more the rest comes with the next."""


class Telling(Struct):
    """What the daemon tells with, and what it keeps from one process to the next."""

    board: FollowedBoard
    counters: Counting
    settings: MqttSettings
    facts: NodeFacts
    read_login: Callable[[MqttSettings], Awaitable[LoginFiles]]
    """Raises AgentError."""
    get_note: Callable[[], bytes | None]
    keep_note: Callable[[bytes], Awaitable[None]]
    """Raises AgentError, OSError and ValueError."""
    event: int
    """The number of the newest event that the broker has, or need not be told."""


class Teller:
    """What one process is told. One for each."""

    def __init__(self, feed: socket.socket, telling: Telling) -> None:
        self._feed = feed
        self._telling = telling
        self._sending = anyio.Lock()
        self._changed: dict[VolumeId, VolumeStatus | None] = {}
        self._told_event = telling.event
        self._wanted = anyio.Event()
        self._news = anyio.Event()

    async def run(self) -> None:
        """Tell until the process ends it. Raises TimeoutError, OSError, FeedError for what it may not say."""
        telling = self._telling
        if await self._hear() is None:
            return
        await self._send(Setup(agent.__version__, telling.settings, telling.facts, telling.get_note()))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow_events, name="mqtt feed events")
            tasks.start_soon(self._tell_news, name="mqtt feed news")
            while (said := await self._hear()) is not None:
                await self._heed(said)
            tasks.cancel_scope.cancel()

    # -- What is heard ---------------------------------------------------------------------------------------

    async def _hear(self) -> Said | None:
        """Return what the process says next; None: it says nothing any more."""
        with anyio.fail_after(SILENCE_S):
            head = await self._receive(HEAD.size)
            content = None if head is None else await self._receive(read_head(head, MAX_SAID_BYTES))
        if content is None:
            return None
        began_s = time.thread_time()
        said = decode(content, Said)
        await _yield_for(time.thread_time() - began_s)
        return said

    async def _receive(self, length: int) -> bytes | None:
        content = bytearray()
        while len(content) < length:
            part = await asyncio.get_running_loop().sock_recv(self._feed, length - len(content))
            if not part:
                return None
            content += part
        return bytes(content)

    async def _heed(self, said: Said) -> None:
        counters = self._telling.counters
        counters.count_mqtt("sent", said.sent)
        counters.count_mqtt("dropped", said.dropped)
        if said.is_connected is not None:
            counters.note_mqtt_connection(is_connected=said.is_connected)
        self._telling.event = max(self._telling.event, min(said.event, self._told_event))
        if said.wants_news:
            self._wanted.set()
        if said.wants_login:
            await self._reply(self._telling.read_login(self._telling.settings))
        if said.note is not None:
            await self._reply(self._telling.keep_note(said.note))

    async def _reply(self, asking: Awaitable[LoginFiles | None]) -> None:
        try:
            reply = Reply(await asking)
        except AgentError as error:
            reply = Reply(problem=error.message, hint=error.hint)
        except (OSError, ValueError) as error:
            reply = Reply(problem=str(error))
        await self._send(Told(reply=reply))
        await anyio.sleep(PAUSE_S)

    # -- What is told ----------------------------------------------------------------------------------------

    async def _follow_events(self) -> None:
        async for _ in self._telling.board.history.follow(self._told_event):
            self._news.set()

    async def _tell_news(self) -> None:
        """Tell how all volumes are, and then, whenever the process has taken that, what is new."""
        board = self._telling.board
        with board.subscribe() as changes:
            self._changed = {one.volume_id: one for one in board.statuses() if one.volume_id is not None}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell_whenever_wanted, name="mqtt feed telling")
                self._news.set()
                async for change in changes:
                    if change.volume_id is not None:
                        self._changed[change.volume_id] = change.status
                    self._news.set()

    async def _tell_whenever_wanted(self) -> None:
        while True:
            await self._wanted.wait()
            await self._news.wait()
            self._wanted, self._news = anyio.Event(), anyio.Event()
            began_s = time.thread_time()
            content = self._collect()
            await _yield_for(time.thread_time() - began_s)
            await self._send(content)

    def _collect(self) -> Told:
        changed, self._changed = self._changed, {}
        kept = self._telling.board.history.after(self._told_event)
        events = kept[:MAX_EVENTS]
        if events:
            self._told_event = events[-1].number
        if len(kept) > len(events):
            self._news.set()
        return Told(
            News(
                tuple((key, None if one is None else strip_status(one)) for key, one in changed.items()),
                tuple(json.dumps(show_event(event), default=str) for event in events),
                self._telling.board.is_first_look_done,
            )
        )

    async def _send(self, value: Setup | Told) -> None:
        async with self._sending:
            with anyio.fail_after(SEND_S):
                await asyncio.get_running_loop().sock_sendall(self._feed, frame(encode(value)))


async def _yield_for(took_s: float) -> None:
    await anyio.sleep(took_s * (1 / SHARE - 1))
