"""For how many volumes the instance has places: asked of AWS before kubelet is told, where it is to say so.

kubelet asks once, and lets pods on the node by what it was told then. Where AWS has not told it in time it is
told later, by registering anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain, repeat

import anyio

from agent.base.log import get_logger
from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces
from agent.report.board.board import Board

PAUSES_S = (5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Until it is asked again; the last for ever, since a permission may come."""

FIRST_S = 20.0
"""For how long kubelet waits for the first answer; it takes two minutes for none (``csiTimeout``)."""

log = get_logger(__name__)


class InstanceRoom:
    """Puts the places on the board, which ``ask`` returns.

    ``ask`` returns None where AWS is not to be asked, or not about this instance, and raises AgentError where
    it does not tell.
    """

    def __init__(self, board: Board, ask: Callable[[], Awaitable[AttachmentPlaces | None]]) -> None:
        self._board = board
        self._ask = ask
        self._is_wanted = anyio.Event()
        self._is_asked = anyio.Event()

    def want(self) -> None:
        """Have it found out: there is a kubelet to be told."""
        self._is_wanted.set()

    async def wait_asked(self) -> None:
        """Return once AWS has answered, or has not for the first time, or kubelet should wait no longer."""
        with anyio.move_on_after(FIRST_S):
            await self._is_asked.wait()

    async def run(self) -> None:
        """Find it out once it is wanted; returns when it is known, whoever found it."""
        await self._is_wanted.wait()
        failure = None
        for pause_s in chain(PAUSES_S, repeat(PAUSES_S[-1])):
            try:
                places = None if self._board.places is not None else await self._ask()
                if places is not None and self._board.places is None:
                    self._board.put_calls(self._board.next_calls, places)
            except AgentError as error:
                if error.message != failure:
                    log.warning("csi.room_not_known", error=error.message, hint=error.hint)
                failure = error.message
            finally:
                self._is_asked.set()
            if self._board.places is not None:
                return
            await anyio.sleep(pause_s)
