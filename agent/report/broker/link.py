"""The process's side: a board as the daemon tells of it, and a way to ask and to say what was done."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager

import anyio

from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.policy.settings import MqttSettings
from agent.report.board.changes import Change, Readers, Subscription
from agent.report.board.events import Event, EventHistory
from agent.report.board.volume_status import VolumeStatus
from agent.report.broker.frames import News, Reply, Said, Setup, Told
from agent.report.feed.face_main import check_version
from agent.report.feed.frames import HEAD, MAX_BYTES, FeedError, decode, encode, frame, read_head
from agent.report.history import parse_event
from agent.report.mqtt.login import Login, LoginFiles, make_login

HEARTBEAT_S = 30.0
"""How often something is said, by which the daemon knows that this process works."""


class ToldBoard:
    """A ``FollowedBoard`` that is as the daemon says."""

    def __init__(self) -> None:
        self.history = EventHistory()
        self.is_first_look_done = False
        self._statuses: dict[VolumeId, VolumeStatus] = {}
        self._readers = Readers()

    def statuses(self) -> tuple[VolumeStatus, ...]:
        return tuple(self._statuses.values())

    def subscribe(self) -> AbstractContextManager[Subscription]:
        return self._readers.subscribe()

    def heed(self, news: News) -> None:
        """Be as the daemon says, and tell who follows."""
        self.is_first_look_done = news.is_first_look_done
        for volume_id, status in news.volumes:
            if status is None:
                self._statuses.pop(volume_id, None)
            else:
                self._statuses[volume_id] = status
        for volume_id, status in news.volumes:
            self._readers.tell(Change(volume_id, status))
        self._readers.tell(Change(None, None))
        for line in news.events:
            event = parse_event(line.encode())
            if event is not None and event.number >= self.history.next_number:
                self.history.append(event)


class Link:
    """What is said with the daemon. To the publisher it is where to count, where to log in, and a store."""

    def __init__(self) -> None:
        self.board = ToldBoard()
        self.is_told = anyio.Event()
        """Set once it is known how all volumes are."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._note: bytes | None = None
        self._asking = anyio.Lock()
        self._reply: asyncio.Future[Reply] | None = None
        self._is_connected: bool | None = None
        self._sent = self._dropped = self._event = 0
        self._unsaid = anyio.Event()

    async def begin(self, feed: socket.socket) -> Setup:
        """Say that this process is there, and return what it is to do."""
        self._reader, self._writer = await asyncio.open_connection(sock=feed, limit=MAX_BYTES)
        self._say(Said())
        setup = decode(await self._receive(), Setup)
        check_version(setup.version)
        self._note = setup.note
        return setup

    async def listen(self) -> None:
        """Heed what the daemon says until it ends. Raises FeedError where that cannot be."""
        self._say(Said(wants_news=True))
        try:
            while True:
                told = decode(await self._receive(), Told)
                if told.reply is not None and self._reply is not None and not self._reply.done():
                    self._reply.set_result(told.reply)
                if told.news is not None:
                    self.board.heed(told.news)
                    self.is_told.set()
                    self._say(Said(wants_news=True))
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the daemon is gone, and has no use for this process

    async def report(self) -> None:
        """Say what was done whenever something was, and that this process works now and then."""
        while True:
            with anyio.move_on_after(HEARTBEAT_S):
                await self._unsaid.wait()
            self._unsaid = anyio.Event()
            said = Said(
                is_connected=self._is_connected, sent=self._sent, dropped=self._dropped, event=self._event
            )
            self._is_connected, self._sent, self._dropped, self._event = None, 0, 0, 0
            self._say(said)
            if self._writer is not None:
                try:
                    await self._writer.drain()
                except ConnectionError:
                    return  # the daemon has ended, which ``listen`` sees

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    # -- What the publisher needs ----------------------------------------------------------------------------

    def count_mqtt(self, outcome: str, count: int = 1) -> None:
        if outcome == "sent":
            self._sent += count
        else:
            self._dropped += count
        self._unsaid.set()

    def note_mqtt_connection(self, *, is_connected: bool) -> None:
        self._is_connected = is_connected
        self._unsaid.set()

    def hear_sent(self, event: Event) -> None:
        """Have it said that the broker has an event."""
        self._event = event.number
        self._unsaid.set()

    async def read_login(self, _: MqttSettings) -> Login:
        """Return what the files hold now that only the daemon may read. Raises AgentError."""
        return make_login(await self._ask(Said(wants_login=True)) or LoginFiles())

    def read(self) -> bytes | None:
        return self._note

    async def write(self, content: bytes) -> None:
        """Have the daemon keep what brokers retain. Raises AgentError."""
        await self._ask(Said(note=content))

    async def _ask(self, said: Said) -> LoginFiles | None:
        async with self._asking:
            self._reply = asyncio.get_running_loop().create_future()
            self._say(said)
            reply = await self._reply
        if reply.problem is not None:
            raise AgentError(reply.problem, reply.hint)
        return reply.login

    def _say(self, said: Said) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(encode(said)))

    async def _receive(self) -> bytes:
        if self._reader is None:
            raise FeedError("Nobody was asked yet.")
        length = read_head(await self._reader.readexactly(HEAD.size))
        return await self._reader.readexactly(length)
