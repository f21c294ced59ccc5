"""Where whoever connected waits until something was asked: for a descriptor, and nothing else of the agent's.

Those who send nothing, or a part of a request and no more, are kept from where requests are answered; under a
flood only whole requests get there. Nobody is shown out while there are places: a flood that is turned away
comes again, and each time costs more than a descriptor that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.report.serving.flood_log import Outcome, Tally
from agent.report.serving.peer import Asked, Connection, look_ahead

FULL_PAUSE_S = 0.05
"""Before it is looked again whether there is room for whoever has asked."""
PART_PAUSE_S = 2.0
"""Before it is looked again whether the rest of a request has come, while only whole ones are let in."""

LetIn = Callable[[Connection], None]


class Lobby:
    """So many ``places``, each for ``request_s`` at most; the one who came first makes room for the next.

    ``has_room`` makes room for one who has asked a part or the whole of a request, and tells whether it did.
    """

    def __init__(
        self, places: int, request_s: float, has_room: Callable[[Asked], bool], tally: Tally
    ) -> None:
        self._places = places
        self._request_s = request_s
        self._has_room = has_room
        self._tally = tally
        self._waiting: dict[Connection, LetIn] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, connection: Connection, let_in: LetIn) -> None:
        """Keep a connection until something was asked on it, and let it in then."""
        if len(self._waiting) >= self._places:
            self._show_out(next(iter(self._waiting)), Outcome.EVICTED)
        self._waiting[connection] = let_in
        connection.timer = asyncio.get_running_loop().call_later(
            self._request_s, self._show_out, connection, Outcome.LATE
        )
        self._hear(connection)

    def end_all(self) -> None:
        """Close those that are left."""
        for one in list(self._waiting):
            self._show_out(one, None)

    def _hear(self, connection: Connection) -> None:
        """Let in whoever has asked; wait for what has not begun to, and for the rest of what has."""
        let_in = self._waiting.get(connection)
        if let_in is None:
            return
        loop = asyncio.get_running_loop()
        asked = look_ahead(connection.sock)
        if asked is Asked.NOTHING:
            loop.add_reader(connection.sock, self._hear, connection)
            return
        loop.remove_reader(connection.sock)
        if asked is not Asked.END and self._has_room(asked):
            self._leave(connection)
            let_in(connection)
        elif asked is Asked.WHOLE:
            # All are being answered; so it will be.
            loop.call_later(FULL_PAUSE_S, self._hear, connection)
        elif asked is Asked.PART:
            loop.call_later(PART_PAUSE_S, self._hear, connection)
        else:
            self._show_out(connection, None)

    def _leave(self, connection: Connection) -> None:
        del self._waiting[connection]
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None

    def _show_out(self, connection: Connection, why: Outcome | None) -> None:
        self._leave(connection)
        asyncio.get_running_loop().remove_reader(connection.sock)
        connection.sock.close()
        if why is not None:
            self._tally.note(why)
