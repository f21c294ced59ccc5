"""One driver as kubelet knows it: its sockets, what answers at them, and what kubelet says of it."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, TypeAlias

from agent.base.log import get_logger
from agent.core.errors import AgentError
from agent.csi.last_word import LastWord, Word
from agent.csi.sockets.keep_sockets import KubeletSockets, Listeners
from agent.csi.tell_registration import recall_registration, tell_obstacle, tell_registration
from agent.report.board.board import Board

if TYPE_CHECKING:
    from agent.csi.service.plugin import NodePlugin
    from agent.csi.service.registration import Registration

MakePlugin: TypeAlias = "Callable[[Callable[[Registration], None]], NodePlugin]"
"""Makes what answers; it is told to whom kubelet's word about the registration goes."""

OpenSockets: TypeAlias = (
    "Callable[[str, Callable[[AgentError | None], None], Callable[[socket], bool]], KubeletSockets]"
)
"""Makes the sockets of a driver: who is told what is in their way, and what tells whether one may stay."""

log = get_logger(__name__)


class ServedDriver:
    """Serves kubelet by one driver's name.

    ``last_word`` is what kubelet said of the sockets, over restarts. ``note_root`` is told kubelet's real
    root whenever it is served below it, ``count`` whether kubelet takes the agent for the driver's plugin.
    """

    def __init__(
        self,
        driver: str,
        make_plugin: MakePlugin,
        open_sockets: OpenSockets,
        board: Board,
        last_word: LastWord,
        note_root: Callable[[str], None],
        count: Callable[[str, bool], None],
    ) -> None:
        self.driver = driver
        self._make_plugin = make_plugin
        self._board = board
        self._last_word = last_word
        self._note_root = note_root
        self._count = count
        self._plugin: NodePlugin | None = None
        self._registration: Registration | None = None
        self._listeners: Listeners | None = None
        """Those that kubelet speaks of."""
        self._sockets = open_sockets(driver, self._note_obstacle, self._may_stay)

    async def run(self) -> None:
        """Serve until cancelled."""
        plugin = self._plugin = self._make_plugin(self._note_registration)

        async def serve(listeners: Listeners) -> None:
            self._note_root(listeners.places.root)
            self._recall(listeners)
            await plugin.serve(listeners)

        await self._sockets.run(serve)

    def _may_stay(self, registration: socket) -> bool:
        """Tell whether kubelet need not ask again who the node is, or not now: it would end what goes on."""
        is_busy = self._plugin is not None and self._plugin.is_busy
        return is_busy or self._last_word.is_current(registration)

    def _recall(self, listeners: Listeners) -> None:
        """Go on with what kubelet has said of these sockets: of new ones nothing, and it will."""
        from agent.csi.service.registration import Registered, say_again  # noqa: PLC0415

        self._listeners = listeners
        word = self._last_word.recall(listeners.registration)
        if word is None:
            self._last_word.begin(listeners.registration)
        self._registration = None if word is None else say_again(self.driver, word.error)
        self._count(self.driver, isinstance(self._registration, Registered))
        recall_registration(self._board, self.driver, self._registration)

    def _note_registration(self, registration: Registration) -> None:
        """Say whether kubelet takes the agent for the plugin; the same as before is no news."""
        from agent.csi.service.registration import Registered  # noqa: PLC0415

        self._count(self.driver, isinstance(registration, Registered))
        if registration == self._registration:
            return
        self._registration = registration
        if self._listeners is not None:
            word = Word(None if isinstance(registration, Registered) else registration.error)
            self._last_word.keep(self._listeners.registration, word)
        tell_registration(self._board, registration)

    def _note_obstacle(self, error: AgentError | None) -> None:
        """Say what is in the way of the sockets; without them kubelet finds no plugin."""
        is_news = tell_obstacle(self._board, self.driver, error)
        if error is not None and is_news:
            # What it said of them before is no news once it says it of others.
            self._registration = None
            self._count(self.driver, False)  # noqa: FBT003 -- the value itself
            log.warning("csi.unreachable", driver=self.driver, error=error.message, hint=error.hint)
