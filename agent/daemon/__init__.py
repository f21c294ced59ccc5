"""The daemon: what is made and started, in which order, and what follows for all from what one part says.

Composition only: what is to be done with a volume is decided below.
"""

from __future__ import annotations

from agent.base.lean_imports import hidden, replaced

# It speaks no TLS: where that is spoken it is another process's, and only where there are certificates is
# OpenSSL loaded at all.
with hidden("ssl"):
    import asyncio  # noqa: F401
with replaced("ssl", SSLContext=object):
    # What anyio has of sockets comes when it is first asked for; of TLS it takes one name, for annotations.
    from anyio import wait_readable  # noqa: F401

from agent.daemon.start import run

__all__ = ["run"]
