"""What kubelet has last said of the sockets: kept for as long as they are, since it says so once.

kubelet notices no restart behind sockets that systemd keeps, and tells the next agent nothing. Its word is
about one socket: of another, at the same path even, nothing is known.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.base.log import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Word:
    """Whether kubelet takes the agent for the plugin."""

    error: str | None
    """Why it does not, as kubelet put it; None: it does."""


class LastWord:
    """kubelet's word about one driver, in the runtime directory, which ends when the sockets do."""

    def __init__(self, runtime: Path, driver: str) -> None:
        self._path = runtime / f"kubelet-said-{driver}.json"

    def keep(self, registration: socket.socket, word: Word) -> None:
        """Keep what kubelet said at this socket; where that cannot be, a restart begins without it."""
        beside = self._path.with_name(f".{self._path.name}")
        said = {"socket": _identify(registration), "error": word.error}
        try:
            beside.write_text(json.dumps(said))
            beside.replace(self._path)
        except OSError as error:
            log.warning("csi.word_not_kept", path=str(self._path), error=error.strerror)

    def recall(self, registration: socket.socket) -> Word | None:
        """Return what kubelet last said at this socket; None where that is not known."""
        with suppress(OSError, ValueError):
            said = json.loads(self._path.read_text())
            if isinstance(said, dict) and said.get("socket") == _identify(registration):
                error = said.get("error", False)
                return Word(error) if error is None or isinstance(error, str) else None
        return None


def _identify(sock: socket.socket) -> int:
    """Return the number of the socket itself, not of its file: it stays when systemd hands it on (sockfs)."""
    return os.fstat(sock.fileno()).st_ino
