"""Reads the feed in the face's process: asks, waits, and says when what is known may be old."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import anyio

from agent.core.errors import AgentError
from agent.report.feed.frames import ASK, HEAD, MAX_BYTES, FeedError, News, Setup, decode, read_head
from agent.report.feed.mirror import Mirror

TIMEOUT_S = 5.0
"""After which a daemon that says nothing is said to have said nothing."""
HEARTBEAT_S = 30.0
"""How often to ask where nobody else does, by which the daemon knows that this process works."""


def receive_setup(feed: socket.socket) -> tuple[Setup, socket.socket]:
    """Return the first frame and the listening socket that came with it. Blocks; raises FeedError."""
    head, fds, _, _ = socket.recv_fds(feed, HEAD.size, 1)
    if len(head) < HEAD.size or not fds:
        raise FeedError("The feed brought no listening socket.")
    with contextlib.ExitStack() as on_failure:
        listener = on_failure.enter_context(socket.socket(fileno=fds[0]))
        setup = decode(_receive(feed, read_head(head)), Setup)
        on_failure.pop_all()
    return setup, listener


def _receive(feed: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        part = feed.recv(min(length - len(content), 1 << 16))
        if not part:
            raise FeedError("The feed ended within a frame.")
        content += part
    return bytes(content)


class FeedReader:
    """Keeps a mirror as fresh as whoever asks needs it."""

    def __init__(self, feed: socket.socket, mirror: Mirror) -> None:
        self._feed = feed
        self._mirror = mirror
        self._writer: asyncio.StreamWriter | None = None
        self._answered: asyncio.Future[None] | None = None
        """Of what was asked and not told yet."""
        self._asked_at = 0.0
        self._known_at: float | None = None
        """As of when the mirror is true."""

    async def run(self) -> None:
        """Read until the daemon ends the feed. Raises FeedError where it says what cannot be."""
        reader, self._writer = await asyncio.open_connection(sock=self._feed, limit=MAX_BYTES)
        try:
            while True:
                length = read_head(await reader.readexactly(HEAD.size))
                self._mirror.heed(decode(await reader.readexactly(length), News))
                self._known_at = self._asked_at
                answered, self._answered = self._answered, None
                if answered is not None and not answered.done():
                    answered.set_result(None)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the daemon is gone, and has no use for this process
        except struct.error as error:
            raise FeedError(str(error)) from error
        finally:
            self._writer.close()

    async def refresh(self) -> None:
        """Return once the mirror is no older than this call; AgentError where the daemon is silent."""
        began = asyncio.get_running_loop().time()
        try:
            with anyio.fail_after(TIMEOUT_S):
                while self._known_at is None or self._known_at < began:
                    await asyncio.shield(self._answered or self._ask())
        except TimeoutError as error:
            raise AgentError(
                f"The agent has not said how its volumes are for {TIMEOUT_S:g} s.",
                hint="Its log says why: journalctl -u ebs-agent.",
            ) from error

    def _ask(self) -> asyncio.Future[None]:
        if self._writer is None or self._writer.is_closing():
            raise AgentError("The agent is ending, or beginning.", hint="Ask again.")
        loop = asyncio.get_running_loop()
        answered = self._answered = loop.create_future()
        self._asked_at = loop.time()
        self._writer.write(ASK)
        return answered

    async def keep_alive(self) -> None:
        """Ask now and then, whether or not somebody wants to know."""
        while True:
            with contextlib.suppress(AgentError):  # told to whoever asks
                await self.refresh()
            await asyncio.sleep(HEARTBEAT_S)
