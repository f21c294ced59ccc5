"""Runs inside the guest under ``python3 -I -S``: asks the agent's control socket without starting its CLI.

It imports little, since every import is felt under emulation. ``SOCKET METHOD TARGET`` prints the answer to
one request. ``SOCKET wait CONDITION REASON TIMEOUT_S VOLUME…`` waits until each volume is in that condition,
for that reason unless it is empty, and prints by volume its status then, or its last one when time is up.
With an empty condition it waits for a verdict of the reason.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

ANSWER_TIMEOUT_S = 30.0
POLL_S = 0.3


def ask(path: str, method: str, target: str) -> dict[str, Any]:
    """Return the answer to one request; nothing where the agent does not answer, or not with success."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(path)
            connection.sendall(f"{method} {target} HTTP/1.0\r\nHost: agent\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError:
            return {}
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        return {}
    found: dict[str, Any] = json.loads(body)
    return found


def wait(path: str, volume: str, condition: str, reason: str, deadline: float) -> dict[str, Any]:
    """Return the volume's status once it is as asked for, or the last one when time is up."""
    while True:
        found = ask(path, "GET", f"/v1/status/{volume}")
        if condition:
            is_reached = found.get("condition") == condition and reason in {"", found.get("reason")}
        else:
            is_reached = any(verdict["reason"] == reason for verdict in found.get("verdicts") or ())
        if is_reached or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def main() -> None:
    """Do what the arguments say."""
    path, verb, *arguments = sys.argv[1:]
    if verb == "wait":
        condition, reason, timeout_s, *volumes = arguments
        deadline = time.monotonic() + float(timeout_s)
        found = {volume: wait(path, volume, condition, reason, deadline) for volume in volumes}
    else:
        (target,) = arguments
        found = ask(path, verb, target)
    print(json.dumps(found))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
