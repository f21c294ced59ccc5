"""The host's end of the command channel: requests to the guest's command server and their replies."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.vm.guest.errors import GuestError, GuestLostError, GuestTimeoutError

HELLO_EVERY_S = 0.5
# What the guest needs to start a process and to end one that ran out of time, emulated and busy as it may be.
REPLY_MARGIN_S = 30.0
SEND_TIMEOUT_S = 30


class GuestProcess:
    """A command that was started in the guest and may still be running there."""

    def __init__(self, channel: CommandChannel, request_id: str, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self._channel = channel
        self._request_id = request_id
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reply: dict[str, Any] | None = None

    def settle(self, reply: dict[str, Any]) -> None:
        """Take the guest's answer; called by the channel."""
        self._replies.put(reply)

    def is_running(self) -> bool:
        """Tell whether the guest has not yet said how the command ended."""
        return self._reply is None and self._replies.empty()

    def send_signal(self, number: int) -> bool:
        """Send a signal to the command's process group; False when it had ended already."""
        reply = self._channel.request("signal", {"target": self._request_id, "signal": int(number)}).receive(
            REPLY_MARGIN_S
        )
        return bool(reply["delivered"])

    def receive(self, timeout_s: float | None) -> dict[str, Any]:
        """Return the guest's answer, waiting for it no longer than that."""
        if self._reply is None:
            try:
                self._reply = self._replies.get(timeout=timeout_s)
            except queue.Empty:
                raise GuestTimeoutError(
                    f"no answer from the guest within {timeout_s:g} s to {self.argv}"
                ) from None
        if lost := self._reply.get("lost"):
            raise GuestLostError(f"{lost} while it ran {self.argv}")
        if error := self._reply.get("error"):
            raise GuestError(f"the guest could not run {self.argv}: {error}")
        return self._reply

    def wait(
        self, timeout_s: float | None = None, *, check: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Return how the command ended.

        With ``check`` a status other than 0 is an error. A command that ran out of its own time, given when
        it was started, is always one.
        """
        reply = self.receive(timeout_s)
        out, err = base64.b64decode(reply["stdout"]), base64.b64decode(reply["stderr"])
        status = reply["returncode"]
        if reply["timed_out"]:
            ending = (
                "was killed when its time ran out"
                if status is not None
                else "ran out of time and cannot be killed"
            )
            raise GuestTimeoutError(f"{self.argv} {ending}:\n{describe_output(out, err)}")
        if check and status != 0:
            raise GuestError(f"{self.argv} ended with {status}:\n{describe_output(out, err)}")
        return subprocess.CompletedProcess(self.argv, status, out, err)


class CommandChannel:
    """One connection to a guest's command server; QEMU serves one host at a time, a second one waits."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A guest that reads nothing must not block the test for ever; reads have timeouts of their own.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
        self._socket.connect(str(path))
        self._write_lock = threading.Lock()
        self._pending_lock = threading.Lock()
        self._pending: dict[str, GuestProcess] = {}
        self._closed = False
        self._reader = threading.Thread(target=self._read_replies, name="guest-replies", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Disconnect; whatever still waits for an answer is told that there will be none."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def say_hello(self, timeout_s: float, *, unlike: str | None = None) -> str:
        """Return the boot ID of the guest once it answers, with another one than the given."""
        deadline = time.monotonic() + timeout_s
        while True:
            greeting = self._greet()
            try:
                boot_id = str(greeting.receive(HELLO_EVERY_S)["boot_id"])
            except GuestTimeoutError:
                pass
            else:
                if boot_id != unlike:
                    return boot_id
                time.sleep(HELLO_EVERY_S)  # still the old boot, on its way down
            if time.monotonic() > deadline:
                raise GuestTimeoutError(f"the guest's command server does not answer within {timeout_s:g} s")

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float | None = None,
    ) -> GuestProcess:
        """Start a command; it is killed in the guest when it takes longer than its time."""
        return self.request(
            "run",
            {
                "argv": list(argv),
                "stdin": base64.b64encode(stdin).decode("ascii"),
                "env": dict(env or {}),
                "cwd": cwd,
                "timeout_s": timeout_s,
            },
        )

    def request(self, operation: str, arguments: Mapping[str, Any]) -> GuestProcess:
        """Send a request; its reply is received from what is returned."""
        pending, line = self._prepare(operation, arguments)
        try:
            with self._write_lock:
                self._socket.sendall(line)
        except OSError as error:
            raise GuestLostError(f"the guest takes no commands: {error}") from error
        return pending

    def _greet(self) -> GuestProcess:
        """Ask whether somebody is there; a guest that takes nothing gets nothing, and is not waited for."""
        pending, line = self._prepare("hello", {})
        try:
            with self._write_lock, contextlib.suppress(BlockingIOError):
                self._socket.send(line, socket.MSG_DONTWAIT)
        except OSError as error:
            raise GuestLostError(f"the guest takes no commands: {error}") from error
        return pending

    def _prepare(self, operation: str, arguments: Mapping[str, Any]) -> tuple[GuestProcess, bytes]:
        """Return who waits for the reply to a request, and the request as it is sent."""
        request_id = uuid.uuid4().hex
        pending = GuestProcess(self, request_id, arguments.get("argv", [operation]))
        with self._pending_lock:
            if self._closed:
                raise GuestLostError("the guest is gone")
            self._pending[request_id] = pending
        # The first newline ends what an earlier request, or connection, may have left unfinished.
        return pending, b"\n" + json.dumps({**arguments, "op": operation, "id": request_id}).encode() + b"\n"

    def give_up_pending(self, reason: str) -> None:
        """Tell all who wait for an answer that it will not come."""
        with self._pending_lock:
            pending, self._pending = self._pending, {}
        for process in pending.values():
            process.settle({"lost": reason})

    def _read_replies(self) -> None:
        with self._socket.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                try:
                    reply = json.loads(line)
                except ValueError:
                    continue  # an empty line, or the end of a reply to an earlier connection
                with self._pending_lock:
                    process = self._pending.pop(reply["id"], None)
                if process is not None:
                    process.settle(reply)
        with self._pending_lock:
            self._closed = True
        self.give_up_pending("the guest ended")


def describe_output(out: bytes, err: bytes) -> str:
    """Return the end of a command's output for an error message."""
    return (out + err).decode(errors="replace")[-8000:].strip()
