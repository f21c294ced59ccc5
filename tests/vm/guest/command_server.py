"""Runs inside the guest: reads commands from a virtio-serial port and runs them as root.

It owns nothing else and must never exit because a command misbehaved. Standard library only, since it is
copied into the image alone. One JSON object a line in each direction; bytes are base64. Requests:

- ``{"op": "hello", "id"}`` → ``{"id", "boot_id"}``
- ``{"op": "run", "id", "argv", "stdin", "env", "cwd", "timeout_s"}`` →
  ``{"id", "returncode", "stdout", "stderr", "timed_out"}``, or ``{"id", "error"}`` when it did not start
- ``{"op": "signal", "id", "target", "signal"}`` → ``{"id", "delivered"}``; for the process group of a run
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PORT = "/dev/virtio-ports/guest.command"
READ_BYTES = 1 << 20
# A process in uninterruptible sleep on a dead device does not die: it is reported and left behind.
KILL_GRACE_S = 5.0


class CommandServer:
    """Answers the requests of one port, each in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._write_lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self) -> None:
        """Answer requests until the port fails."""
        for line in self._read_lines():
            try:
                request = json.loads(line)
                operation = {"hello": self._hello, "run": self._run, "signal": self._signal}[request["op"]]
            except (ValueError, KeyError, TypeError):
                continue  # the remains of a line that a host cut off half-way by disconnecting
            threading.Thread(target=self._answer, args=(operation, request), daemon=True).start()

    def _read_lines(self) -> Iterator[bytes]:
        # Chunks are 4 KiB, whatever is asked for, and a line may have megabytes: joined once, at its end.
        pending: list[bytes] = []
        while True:
            chunk = os.read(self._port, READ_BYTES)
            if not chunk:
                # No host is connected, and the port has no event for one that connects.
                pending.clear()
                time.sleep(0.05)
                continue
            *ended, rest = chunk.split(b"\n")
            for end in ended:
                yield b"".join([*pending, end])
                pending.clear()
            pending.append(rest)

    def _answer(self, operation: Any, request: dict[str, Any]) -> None:
        try:
            reply = operation(request)
        except Exception as error:  # noqa: BLE001 - whatever it was, the test that asked is told
            reply = {"error": f"{type(error).__name__}: {error}"}
        # The first newline ends what a reply to an earlier host may have left unfinished.
        line = b"\n" + json.dumps(reply | {"id": request.get("id")}).encode() + b"\n"
        with self._write_lock:
            while line:
                line = line[os.write(self._port, line) :]

    def _hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        # Files, not pipes: a daemon that the command leaves behind may keep them open, the reply is sent.
        with (
            memory_file(base64.b64decode(request["stdin"])) as stdin,
            memory_file() as out,
            memory_file() as err,
        ):
            process = subprocess.Popen(
                request["argv"],
                stdin=stdin,
                stdout=out,
                stderr=err,
                env=os.environ | request["env"],
                cwd=request["cwd"],
                start_new_session=True,
            )
            self._running[request["id"]] = process
            try:
                returncode, timed_out = wait_or_kill(process, request["timeout_s"])
            finally:
                del self._running[request["id"]]
            return {
                "returncode": returncode,
                "timed_out": timed_out,
                "stdout": read_back(out),
                "stderr": read_back(err),
            }

    def _signal(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._running.get(request["target"])
        if process is None or process.poll() is not None:
            return {"delivered": False}
        os.killpg(process.pid, request["signal"])
        return {"delivered": True}


def memory_file(content: bytes = b"") -> Any:
    """Return an unnamed file in memory that holds content and is read from its start."""
    file = os.fdopen(os.memfd_create("command"), "w+b")
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def read_back(file: Any) -> str:
    """Return all that was written to a memory file, in base64."""
    return base64.b64encode(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)).decode("ascii")


def wait_or_kill(process: subprocess.Popen[bytes], timeout_s: float | None) -> tuple[int | None, bool]:
    """Return the exit status and whether the time ran out; None when killing failed too."""
    try:
        return process.wait(timeout_s), False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.wait(KILL_GRACE_S), True
    except subprocess.TimeoutExpired:
        return None, True


def main() -> None:
    """Wait for udev to make the port's link, then serve it."""
    while not Path(PORT).exists():
        time.sleep(0.05)
    CommandServer(os.open(PORT, os.O_RDWR | os.O_CLOEXEC)).serve()


if __name__ == "__main__":
    main()
