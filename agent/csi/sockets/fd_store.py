"""systemd's store of descriptors: what a service gives it is handed back at the service's next start.

The protocol is sd_notify(3), FDSTORE and FDSTOREREMOVE, and sd_listen_fds(3). A listening socket that is kept
so has somebody's calls wait while the agent is started anew, and kubelet notices nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress

from agent.base.log import get_logger

PREFIX = "csi-"
"""Of the names of what is kept here; others are not ours to close."""

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""

log = get_logger(__name__)


class FdStore:
    """Sockets that outlive this process. Without systemd nothing does.

    What was handed over is taken from descriptor ``first`` on, once: the first of these has it.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, first: int = FIRST_DESCRIPTOR) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._found = dict(_take(environment, first))

    @property
    def is_there(self) -> bool:
        """Whether what is kept is handed back."""
        return bool(self._address)

    @property
    def found(self) -> Mapping[str, socket.socket]:
        """What was handed back at the start and is not forgotten, by name."""
        return self._found

    def keep(self, name: str, sock: socket.socket) -> None:
        """Have a socket handed back at the next start. ``name`` begins with PREFIX and holds no colon."""
        self._send(f"FDSTORE=1\nFDNAME={name}", sock.fileno())

    def forget(self, name: str) -> None:
        """Close what is kept by this name, here and in the store."""
        found = self._found.pop(name, None)
        if found is not None:
            found.close()
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, message: str, *fds: int) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(address)
                sock.setblocking(False)  # noqa: FBT003 -- its only form
                socket.send_fds(sock, [message.encode()], fds)
        except OSError as error:
            log.warning("csi.not-stored", error=str(error))


def _take(environment: Mapping[str, str], first: int) -> Iterator[tuple[str, socket.socket]]:
    """Yield each listening socket of ours that systemd hands over. Programs started later do not get it."""
    if environment.get("LISTEN_PID", "") != str(os.getpid()):
        return
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    count = int(environment.get("LISTEN_FDS", "0") or 0)
    for fd, name in zip(range(first, first + count), names, strict=False):
        if not name.startswith(PREFIX):
            continue
        with suppress(OSError):
            os.set_inheritable(fd, False)  # noqa: FBT003 -- its only form
            yield name, socket.socket(fileno=fd)
