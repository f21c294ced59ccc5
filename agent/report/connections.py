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
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NoReturn

import anyio

from agent.report.tally import Outcome, Tally

ACCEPTS_AT_ONCE = 16
PAUSE_S = 0.002
"""After each connection accepted, so that 500 a second are: accepting must not be all the loop does."""
TLS_PAUSE_S = 0.01
"""A handshake costs as much as ten answers."""
STARVED_PAUSE_S = 1.0
"""Where no descriptor is left, trying again at once would fail at once."""

_ROOT = 0
_UCRED = struct.Struct("iII")
"""struct ucred of unix(7): process, user and group."""
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True)
class Limits:
    """How many connections one face has, and how long each may take."""

    at_once: int = 64
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
    """Return the limits within what this process may open: a face gets an eighth, and volumes the rest."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return limits
    share = max(2, allowed // 8)
    if limits.at_once <= share:
        return limits
    if limits.each_user is None:
        return replace(limits, at_once=share)
    return replace(limits, at_once=share, each_user=max(1, share // 4), others=max(1, share // 2))


@dataclass(eq=False)
class Connection:
    """One connection and what it is doing."""

    sock: socket.socket
    uid: int | None
    """Of the process that connected, where the kernel says so: on a Unix socket."""
    since: float
    """When it began to do what it does: to keep quiet, or to be answered."""
    is_answered: bool = False
    """Being answered now."""
    has_asked: bool = False
    transport: asyncio.Transport | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_closed(self) -> bool:
        """Whether its descriptor is free again, which a transport's closing does not say yet."""
        return self.sock.fileno() < 0

    @property
    def is_unread(self) -> bool:
        """Whether it has not taken all of its answer."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def drop(self) -> None:
        """Close it now, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abort()
            return
        try:
            # Whoever shakes hands on it sees its end, and closes it.
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class Connections:
    """The connections of one face."""

    def __init__(self, limits: Limits, tally: Tally) -> None:
        self._limits = share_descriptors(limits)
        self._tally = tally
        self._open: list[Connection] = []

    def __len__(self) -> int:
        self._forget_closed()
        return len(self._open)

    async def accept_from(
        self, listener: socket.socket, begin: Callable[[Connection], None], pause_s: float = PAUSE_S
    ) -> NoReturn:
        """Accept until cancelled, and have each connection begun."""
        listener.setblocking(False)  # noqa: FBT003 -- its only form
        while True:
            await anyio.wait_readable(listener)
            try:
                accepted = self._accept_some(listener, begin)
            except OSError as error:
                self._tally.note(Outcome.STARVED, error)
                await anyio.sleep(STARVED_PAUSE_S)
            else:
                # Where all are being answered, the next one waits in the kernel's queue.
                await anyio.sleep(max(1, accepted) * pause_s)

    def _accept_some(self, listener: socket.socket, begin: Callable[[Connection], None]) -> int:
        """Return how many there were; OSError where the kernel had nothing to accept one with."""
        accepted = 0
        while accepted < ACCEPTS_AT_ONCE and self._has_room():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if error.errno in _NONE_LEFT:
                    raise
                break  # nobody waits, or whoever did went away
            accepted += 1
            sock.setblocking(False)  # noqa: FBT003 -- its only form
            connection = Connection(sock, read_peer_uid(sock), asyncio.get_running_loop().time())
            if not self._make_room(connection.uid):
                self._tally.note(Outcome.REFUSED, uid=connection.uid)
                sock.close()
                continue
            self._tally.note(Outcome.ACCEPTED)
            self._open.append(connection)
            self._arm(connection)
            begin(connection)
        return accepted

    # -- Room ------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether somebody can be let in; who it is decides on the rest."""
        return (
            self._limits.each_user is not None
            or len(self) < self._limits.at_once
            or any(not one.is_answered for one in self._open)
        )

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

    def begin_answer(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        """Note that a request has come whole; return its connection for ``end_answer``."""
        for one in self._open:
            if one.transport is transport is not None:
                one.is_answered = one.has_asked = True
                self._restart(one)
                return one
        return None

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
        for one in list(self._open):
            self._end(one)
            if one.transport is None:
                one.sock.close()


def read_peer_uid(sock: socket.socket) -> int | None:
    """Return the user of the process that connected to a Unix socket, as it was then; None elsewhere."""
    if sock.family != socket.AF_UNIX:
        return None
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(found)
    return int(uid)
