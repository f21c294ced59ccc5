"""The descriptors that systemd stores for a service, for an agent that a test starts and ends itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from pathlib import Path

_MAX_BYTES = 4096
_MAX_DESCRIPTORS = 16
_OUT_OF_THE_WAY = 64
"""Descriptors from here on are nobody's targets when they are handed over as 3, 4, …"""


class FdStore:
    """Takes what a service stores by sd_notify(3), and has it for the service's next start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored: dict[str, int] = {}
        """Descriptors by name."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Forget everything, as systemd does of a service that was stopped for good."""
        # Ends the thread's wait, which closing alone would not.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()
        for fd in self.stored.values():
            os.close(fd)
        self.stored.clear()

    def _listen(self) -> None:
        while True:
            said, descriptors, _, _ = socket.recv_fds(self._socket, _MAX_BYTES, _MAX_DESCRIPTORS)
            if not said:
                return
            fields = dict(line.split("=", maxsplit=1) for line in said.decode().splitlines() if "=" in line)
            name = fields.get("FDNAME", "stored")
            if fields.get("FDSTOREREMOVE") == "1":
                with contextlib.suppress(KeyError):
                    os.close(self.stored.pop(name))
            for fd in descriptors:
                if fields.get("FDSTORE") == "1":
                    self.stored[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
                os.close(fd)
