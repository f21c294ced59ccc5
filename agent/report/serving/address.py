"""Opens the socket that strangers connect to, in the daemon or a unit that may. Imports next to nothing."""

from __future__ import annotations

import socket

BACKLOG = 1024
"""The kernel keeps whoever is not accepted yet, in order; they cost the agent nothing."""


def listen_at(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; OSError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)
