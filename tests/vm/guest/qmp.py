"""Speaks QEMU's machine protocol: one command at a time, and the events between them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vm.guest.errors import GuestError, GuestLostError, GuestTimeoutError

COMMAND_TIMEOUT_S = 30.0


class QmpClient:
    """One connection to a QEMU's control socket; close it to let another connect."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(COMMAND_TIMEOUT_S)
        self._socket.connect(str(path))
        self._received = b""
        self._events: list[dict[str, Any]] = []
        self._read_message(time.monotonic() + COMMAND_TIMEOUT_S)  # the greeting
        self.execute("qmp_capabilities")

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Return a command's result; underscores in argument names stand for QMP's hyphens."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while True:
            message = self._read_message(deadline)
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise GuestError(f"QEMU refused {command} {named}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name: str, is_wanted: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
        """Wait for an event whose data is wanted, or find it among those seen."""
        deadline = time.monotonic() + timeout_s
        while True:
            for event in self._events:
                if event["event"] == name and is_wanted(event.get("data", {})):
                    self._events.remove(event)
                    return
            self._events.append(self._read_message(deadline))

    def _read_message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise GuestTimeoutError("QEMU does not answer in time")
            self._socket.settimeout(remaining_s)
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                raise GuestLostError("QEMU ended")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
