"""How a process begins that systemd started for the agent: seen from inside. It imports next to nothing."""

from __future__ import annotations

import json
import os
import socket
import sys

IN_UNIT = "--in-unit"
"""The one argument of a process that systemd started: its others come with the handshake."""
HELLO = b"!"
LONGEST_BYTES = 64 << 10
"""Of what a process is told at the handshake."""


def arrive() -> None:
    """Shake hands where systemd started this process: be told its arguments, environment and standard error.

    Does nothing in a child of the daemon's. Ends the process where the daemon is gone.
    """
    if sys.argv[1:] != [IN_UNIT]:
        return
    stream = socket.socket(fileno=os.dup(0))
    with stream:
        stream.setblocking(True)  # noqa: FBT003 -- its only form
        stream.sendall(HELLO)
        told, handed = hear_with_descriptor(stream)
    if not told or len(handed) != 1:
        sys.exit("The agent ended before it said what to do.")
    os.dup2(handed[0], 2)
    os.close(handed[0])
    content = json.loads(told)
    sys.argv[1:] = content["arguments"]
    os.environ.update(content["environment"])


def hear_with_descriptor(stream: socket.socket) -> tuple[bytes, list[int]]:
    """Return the line that the daemon says and the descriptor with it; no line where it goes away first."""
    told, handed, _, _ = socket.recv_fds(stream, LONGEST_BYTES, 1)
    while told and not told.endswith(b"\n"):
        more = stream.recv(LONGEST_BYTES)
        told = told + more if more else b""
    return told, list(handed)
