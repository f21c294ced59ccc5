"""Who is connected to a face: how many may be, how fast they come, how long they may keep quiet.

A connection costs a descriptor and memory, and whoever asks for nothing on it keeps others out. So there are
so many at most, and when all are taken the one that has been silent longest makes room: a flood costs those
who make it, and whoever asks is answered. Nothing here knows what is asked.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable, Iterable
from typing import NoReturn

import anyio
from msgspec import Struct

from agent.core.replace import replace
from agent.report.serving.flood_log import Outcome, Tally
from agent.report.serving.idle_connections import Lobby
from agent.report.serving.peer import Asked, Connection, read_peer_uid

ACCEPTS_AT_ONCE = 64
ACCEPT_PAUSE_S = 0.0005
"""After each one accepted: 2000 a second take a tenth of a processor. It keeps the kernel's queue short, in
which nobody can be told from anybody."""
PAUSE_S = 0.002
"""After each connection let in, which costs far more."""
TLS_PAUSE_S = 0.01
"""A handshake costs as much as ten answers."""
CLOSE_TIMEOUT_S = 1.0
"""How long open requests may go on once the agent stops: the whole agent has 5 s."""
LINGER_S = 1.0
"""For the rest of a request that was answered before it had come to its end."""
STARVED_PAUSE_S = 1.0
"""Where no descriptor is left, trying again at once would fail at once."""

_ROOT = 0
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Limits(Struct, frozen=True):
    """How many connections one face has, and how long each may take."""

    at_once: int = 64
    lobby: int = 2048
    """Connections beside them on which nothing was asked yet: no more than a descriptor each. A flood
    of no more than that waits there: to be closed, and to come again, is what would cost time."""
    each_user: int | None = None
    """Of one user other than root, where the kernel says who they are."""
    others: int | None = None
    """Of all users other than root together."""
    request_s: float = 10.0
    """From the connection, TLS and all, to its first request."""
    idle_s: float = 75.0
    """From an answer to the next request: longer than a scrape interval of one minute."""
    answer_s: float | None = 30.0
    """For an answer, and for taking it; None where answers may stream."""


def share_descriptors(limits: Limits) -> Limits:
    """Return the limits within what may be opened: a sixteenth, and an eighth for a lobby."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return limits
    share = max(2, allowed // 16)
    limits = replace(limits, at_once=min(limits.at_once, share), lobby=min(limits.lobby, 2 * share))
    if limits.each_user is None or limits.others is None:
        return limits
    each_user, others = min(limits.each_user, max(1, share // 4)), min(limits.others, max(1, share // 2))
    return replace(limits, each_user=each_user, others=others)


Begin = Callable[[Connection], float]
"""Begins a connection, and returns for how many seconds nobody is to be accepted, for what that costs."""


class Connections:
    """The connections of one face.

    At a TCP socket, whoever connects waits in the lobby until something was asked. A whole request is let in,
    at the cost of whoever has been silent longest; a part of one only while there is room.
    """

    def __init__(self, limits: Limits, tally: Tally) -> None:
        self._limits = share_descriptors(limits)
        self._tally = tally
        self._open: list[Connection] = []
        self._lobby = Lobby(self._limits.lobby, self._limits.request_s, self._has_room_for, tally)
        self._owed_s = 0.0
        """How long to accept nobody, for what was let in."""

    def __len__(self) -> int:
        self._forget_closed()
        return len(self._open)

    @property
    def is_empty(self) -> bool:
        return not len(self) and not len(self._lobby)

    @property
    def are_sending(self) -> bool:
        """Whether somebody has not taken all of an answer."""
        return any(one.is_unread for one in self._open if not one.is_closed)

    async def accept_from(self, listener: socket.socket, begin: Begin) -> NoReturn:
        """Accept until cancelled, and have each connection begun that is let in."""
        listener.setblocking(False)  # noqa: FBT003 -- its only form
        while True:
            await anyio.wait_readable(listener)
            try:
                self._accept_some(listener, begin)
            except OSError as error:
                self._tally.note(Outcome.STARVED, error)
                self._owed_s += STARVED_PAUSE_S
            # It grows while one sleeps, by those who wait in the lobby and ask; not without end.
            owed_s, self._owed_s = min(self._owed_s, STARVED_PAUSE_S), 0.0
            await anyio.sleep(owed_s)

    def _accept_some(self, listener: socket.socket, begin: Begin) -> None:
        """Accept those who wait, so many at once; OSError where the kernel had nothing to accept one with."""
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if error.errno in _NONE_LEFT:
                    raise
                return  # nobody waits, or whoever did went away
            self._owed_s += ACCEPT_PAUSE_S
            self._tally.note(Outcome.ACCEPTED)
            sock.setblocking(False)  # noqa: FBT003 -- its only form
            connection = Connection(sock, read_peer_uid(sock), asyncio.get_running_loop().time())
            if connection.uid is None:
                self._lobby.wait(connection, lambda one: self._let_in(one, begin))
            elif self._make_room(connection.uid):
                self._let_in(connection, begin)
            else:
                self._tally.note(Outcome.REFUSED, uid=connection.uid)
                sock.close()

    def _let_in(self, connection: Connection, begin: Begin) -> None:
        self._open.append(connection)
        self._arm(connection)
        self._owed_s += begin(connection)

    # -- Room ------------------------------------------------------------------------------------------------

    def _has_room_for(self, asked: Asked) -> bool:
        """Make room for a whole request; for a part of one there is room, or there is not."""
        return len(self) < self._limits.at_once or (asked is Asked.WHOLE and self._evict(self._open))

    def _make_room(self, uid: int | None) -> bool:
        """See that one more of this user can be had, and return whether it can."""
        self._forget_closed()
        if uid not in (None, _ROOT):
            own = [one for one in self._open if one.uid == uid]
            if self._limits.each_user is not None and len(own) >= self._limits.each_user:
                return self._evict(own)
            others = [one for one in self._open if one.uid != _ROOT]
            if self._limits.others is not None and len(others) >= self._limits.others:
                return self._evict(others)
        if len(self._open) < self._limits.at_once:
            return True
        return self._evict(self._open) or (
            uid == _ROOT and self._evict([one for one in self._open if one.uid != _ROOT], is_any=True)
        )

    def _evict(self, candidates: Iterable[Connection], *, is_any: bool = False) -> bool:
        silent = [one for one in candidates if is_any or not one.is_answered]
        if not silent:
            return False
        oldest = min(silent, key=lambda one: one.since)
        self._tally.note(Outcome.EVICTED)
        self._end(oldest)
        return True

    def _end(self, connection: Connection) -> None:
        self._open.remove(connection)
        if connection.timer is not None:
            connection.timer.cancel()
        connection.drop()

    def _forget_closed(self) -> None:
        for one in [one for one in self._open if one.is_closed]:
            self._open.remove(one)
            if one.timer is not None:
                one.timer.cancel()

    # -- Time ------------------------------------------------------------------------------------------------

    def begin_answer(self, connection: Connection) -> None:
        """Note that a request has come whole."""
        connection.is_answered = connection.has_asked = True
        self._restart(connection)

    def end_answer(self, connection: Connection) -> None:
        """Note that its answer is on the way."""
        connection.is_answered = False
        self._restart(connection)

    def _restart(self, connection: Connection) -> None:
        connection.since = asyncio.get_running_loop().time()

    def _find_limit_s(self, connection: Connection) -> float | None:
        if connection.is_answered:
            return self._limits.answer_s
        if connection.is_unread:
            return self._limits.answer_s or self._limits.request_s
        return self._limits.idle_s if connection.has_asked else self._limits.request_s

    def _arm(self, connection: Connection) -> None:
        # Asked again when it would be due at the earliest: what it is doing by then is seen then.
        shortest = min(self._limits.request_s, self._limits.answer_s or self._limits.request_s)
        connection.timer = asyncio.get_running_loop().call_later(shortest, self._check, connection)

    def _check(self, connection: Connection) -> None:
        connection.timer = None
        if connection.is_closed or connection not in self._open:
            return
        limit_s = self._find_limit_s(connection)
        if limit_s is not None and asyncio.get_running_loop().time() >= connection.since + limit_s:
            self._tally.note(Outcome.LATE)
            self._end(connection)
            return
        self._arm(connection)

    def end_all(self) -> None:
        """Close those that are left."""
        self._lobby.end_all()
        self._forget_closed()
        for one in list(self._open):
            self._end(one)
            if one.transport is None:
                one.sock.close()
