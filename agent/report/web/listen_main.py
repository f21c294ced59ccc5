"""Opens the address that it is told and hands the socket over: in a unit, for a daemon that can open none."""

from __future__ import annotations

import socket
import sys

from agent.base.arrival import arrive
from agent.report.serving.address import listen_at


def main() -> None:
    """Serve the socket that is standard input: with a descriptor, or the number of the error in its place."""
    arrive()
    host, port = sys.argv[1:3]
    with socket.socket(fileno=0) as stream:
        try:
            listener = listen_at(host, int(port))
        except OSError as error:
            stream.sendall(f"{error.errno or 0}\n".encode())
            return
        with listener:
            socket.send_fds(stream, [b"0\n"], [listener.fileno()])


if __name__ == "__main__":
    main()
