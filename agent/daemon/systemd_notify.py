"""What systemd is told: ready, reloading, stopping, a status line, and that the loop still turns.

The protocol is sd_notify(3): datagrams to the socket named by NOTIFY_SOCKET. Without that variable, as in a
shell, every call does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import clock_gettime_ns

import anyio

CLOCK_MONOTONIC = 1
US_PER_S = 1_000_000
EXTENSION_S = 20.0
"""How long a stop may go on after each word that more time is needed: the unit's own limit, begun anew."""


class ServiceNotifier:
    """Tells systemd how the service is."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_us = int(environment.get("WATCHDOG_USEC", "0") or 0)
        if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            self._watchdog_us = 0
        self._socket: socket.socket | None = None
        if self._address:
            # Once: when descriptors have run out, systemd is still to hear that the agent turns.
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # noqa: FBT003 -- its only form

    def tell_ready(self, status: str) -> None:
        """Say that start-up, or a reload, is complete."""
        self._send(f"READY=1\nSTATUS={status}")

    def tell_reloading(self) -> None:
        """Say that the policy is being read again; ``tell_ready`` ends it."""
        now_us = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def tell_stopping(self) -> None:
        """Say that the service is ending."""
        self._send("STOPPING=1")

    async def ask_for_time(self) -> None:
        """Have systemd wait for the end of the service for as long as this runs and the event loop turns."""
        while True:
            self._send(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_S * US_PER_S)}")
            await anyio.sleep(EXTENSION_S / 4)

    async def feed_watchdog(self) -> None:
        """Tell systemd that the event loop turns, thrice in the time it allows; return if it does not ask.

        A task of the loop does it, so that a loop that hangs is a daemon that is restarted.
        """
        if not self._watchdog_us:
            return
        while True:
            self._send("WATCHDOG=1")
            await anyio.sleep(self._watchdog_us / US_PER_S / 3)

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # systemd that does not listen must not stop the volumes; its watchdog decides.
        with suppress(OSError):
            self._socket.sendto(message.encode(), address)
