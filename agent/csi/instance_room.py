"""For how many volumes the instance has places: asked of AWS where kubelet wants to know it and nobody does.

Where the policy has AWS asked about volumes, the cloud half finds it out by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain, repeat

import anyio

from agent.base.log import get_logger
from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces
from agent.csi.calls import NodeInfo
from agent.report.board.board import Board

PAUSES_S = (5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Until it is asked again; the last for ever, since a permission may come."""

log = get_logger(__name__)


class InstanceRoom:
    """Puts the places on the board, which ``ask`` returns.

    ``ask`` returns None where AWS is not to be asked, and raises AgentError where it does not tell.
    """

    def __init__(self, board: Board, ask: Callable[[], Awaitable[AttachmentPlaces | None]]) -> None:
        self._board = board
        self._ask = ask
        self._is_wanted = anyio.Event()

    def note_told(self, info: NodeInfo) -> None:
        """Note what kubelet was told: without a count it is to be found out."""
        if info.max_volumes is None:
            self._is_wanted.set()

    async def run(self) -> None:
        """Find it out once it is wanted; returns when it is known, whoever found it."""
        await self._is_wanted.wait()
        failure = None
        for pause_s in chain(PAUSES_S, repeat(PAUSES_S[-1])):
            try:
                places = await self._ask()
                if places is not None and self._board.places is None:
                    self._board.put_calls(self._board.next_calls, places)
            except AgentError as error:
                if error.message != failure:
                    log.warning("csi.room_not_known", error=error.message, hint=error.hint)
                failure = error.message
            if self._board.places is not None:
                return
            await anyio.sleep(pause_s)
