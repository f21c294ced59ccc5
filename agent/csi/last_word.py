"""What kubelet has last said of the sockets, and has been told there: kept for as long as they are.

kubelet notices no restart behind sockets that systemd keeps: it tells the next agent nothing, and does not
ask again who the node is. Its word is about one socket: of another, at the same path even, nothing is known.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agent.base.log import get_logger
from agent.core.replace import replace
from agent.csi.calls import NodeInfo
from agent.csi.volumes.node_info import Told

log = get_logger(__name__)


class Word(Struct, frozen=True):
    """Whether kubelet takes the agent for the plugin."""

    error: str | None
    """Why it does not, as kubelet put it; None: it does."""


class _Kept(Struct, frozen=True):
    """What is kept of one socket."""

    socket: int
    told: Told | str | None = None
    """What kubelet was told when it asked there last; None: it has not asked. Agents before kept a text."""
    error: str | UnsetType | None = UNSET
    """As a ``Word`` has it; not set: kubelet has said nothing."""


class LastWord:
    """kubelet's word about one driver, in the runtime directory, which ends when the sockets do.

    ``find_told`` returns what kubelet would be told now of the node.
    """

    def __init__(self, runtime: Path, driver: str, find_told: Callable[[], Told]) -> None:
        self._path = runtime / f"kubelet-said-{driver}.json"
        self._find_told = find_told
        self._kept: _Kept | None = None

    def begin(self, registration: socket.socket) -> None:
        """Keep of a new socket that kubelet has neither asked nor said anything there."""
        if self._find(registration) is None:
            self._keep(_Kept(_identify(registration)))

    def note_told(self, info: NodeInfo) -> None:
        """Keep what kubelet was told at the socket that is served now."""
        told = self._find_told().as_in(info)
        if self._kept is not None and self._kept.told != told:
            self._keep(replace(self._kept, told=told))

    def keep(self, registration: socket.socket, word: Word) -> None:
        """Keep what kubelet said at this socket; where that cannot be, a restart begins without it."""
        kept = self._find(registration) or _Kept(_identify(registration))
        self._keep(replace(kept, error=word.error))

    def is_current(self, registration: socket.socket) -> bool:
        """Tell whether kubelet was told at this socket what it is to be told now, as far as is known.

        It was not where it took an agent before for the plugin, which kept no ID: that may have been wrong.
        """
        kept = self._find(registration)
        if kept is None or kept.told is None:
            return True
        if isinstance(kept.told, str):
            return kept.error is not None
        return kept.told.holds(self._find_told())

    def recall(self, registration: socket.socket) -> Word | None:
        """Return what kubelet last said at this socket; None where that is not known."""
        kept = self._kept = self._find(registration)
        return None if kept is None or kept.error is UNSET else Word(kept.error)

    def _keep(self, kept: _Kept) -> None:
        self._kept = kept
        beside = self._path.with_name(f".{self._path.name}")
        try:
            beside.write_bytes(msgspec.json.encode(kept))
            beside.replace(self._path)
        except OSError as error:
            log.warning("csi.word_not_kept", path=str(self._path), error=error.strerror)

    def _find(self, registration: socket.socket) -> _Kept | None:
        """Return what is known of this socket."""
        number = _identify(registration)
        if self._kept is None or self._kept.socket != number:
            with suppress(OSError, msgspec.MsgspecError):
                kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
                return kept if kept.socket == number else None
            return None
        return self._kept


def _identify(sock: socket.socket) -> int:
    """Return the number of the socket itself, not of its file: it stays when systemd hands it on (sockfs)."""
    return os.fstat(sock.fileno()).st_ino
