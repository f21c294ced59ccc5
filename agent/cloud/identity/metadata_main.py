"""Asks the instance metadata service in a unit of its own, for a daemon that has no network.

It ends when nothing was asked for some time: the next question starts another.
"""

from __future__ import annotations

import contextlib
import socket

from agent.base.arrival import arrive
from agent.cloud.identity.metadata import fetch_paths
from agent.cloud.identity.metadata_lines import decode_question, encode_answers, encode_failure

IDLE_S = 30.0


def serve(stream: socket.socket) -> None:
    """Answer questions, one after another, until the daemon has gone or asks nothing any more."""
    stream.settimeout(IDLE_S)
    with stream.makefile("rb") as lines, contextlib.suppress(TimeoutError, ConnectionError):
        for line in lines:
            stream.sendall(_answer(line))


def _answer(line: bytes) -> bytes:
    try:
        return encode_answers(fetch_paths(*decode_question(line)))
    except (OSError, ValueError) as error:
        return encode_failure(error)


def main() -> None:
    """Serve the socket that is standard input."""
    arrive()
    with socket.socket(fileno=0) as stream:
        serve(stream)


if __name__ == "__main__":
    main()
