"""What kubelet has last said of the sockets, and has been told there: kept for as long as they are.

kubelet notices no restart behind sockets that systemd keeps: it tells the next agent nothing, and does not
ask again who the node is. Its word is about one socket: of another, at the same path even, nothing is known.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from agent.base.log import get_logger

log = get_logger(__name__)


class Word(Struct, frozen=True):
    """Whether kubelet takes the agent for the plugin."""

    error: str | None
    """Why it does not, as kubelet put it; None: it does."""


class LastWord:
    """kubelet's word about one driver, in the runtime directory, which ends when the sockets do.

    ``told``: the settings that count in what kubelet is told of the node.
    """

    def __init__(self, runtime: Path, driver: str, told: str = "") -> None:
        self._path = runtime / f"kubelet-said-{driver}.json"
        self._told = told

    def begin(self, registration: socket.socket) -> None:
        """Keep what kubelet is told at a new socket, of which it has said nothing yet."""
        self._write({"socket": _identify(registration), "told": self._told})

    def keep(self, registration: socket.socket, word: Word) -> None:
        """Keep what kubelet said at this socket; where that cannot be, a restart begins without it."""
        self._write({"socket": _identify(registration), "told": self._told, "error": word.error})

    def is_current(self, registration: socket.socket) -> bool:
        """Tell whether kubelet was told at this socket what it is to be told now, as far as is known."""
        told = self._read(registration).get("told")
        return told is None or bool(told == self._told)

    def recall(self, registration: socket.socket) -> Word | None:
        """Return what kubelet last said at this socket; None where that is not known."""
        error = self._read(registration).get("error", False)
        return Word(error) if error is None or isinstance(error, str) else None

    def _write(self, said: dict[str, Any]) -> None:
        beside = self._path.with_name(f".{self._path.name}")
        try:
            beside.write_text(json.dumps(said))
            beside.replace(self._path)
        except OSError as error:
            log.warning("csi.word_not_kept", path=str(self._path), error=error.strerror)

    def _read(self, registration: socket.socket) -> dict[str, Any]:
        """Return what is known of this socket."""
        with suppress(OSError, ValueError):
            said = json.loads(self._path.read_text())
            if isinstance(said, dict) and said.get("socket") == _identify(registration):
                return said
        return {}


def _identify(sock: socket.socket) -> int:
    """Return the number of the socket itself, not of its file: it stays when systemd hands it on (sockfs)."""
    return os.fstat(sock.fileno()).st_ino
