"""What the process that publishes says to the daemon, and hears from it."""

from __future__ import annotations

import asyncio
import socket

import anyio
import pytest

from agent.report.broker.link import Link

pytestmark = pytest.mark.anyio


async def test_telling_a_daemon_that_has_ended_ends_quietly() -> None:
    """Its end is seen by who listens; whoever tells meanwhile is no failure of this process."""
    ours, theirs = socket.socketpair()
    link = Link()
    link._reader, link._writer = await asyncio.open_connection(sock=ours)
    theirs.close()
    await link._reader.read()
    link.count_mqtt("sent")
    with anyio.fail_after(10):
        await link.report()
    link.close()
    await asyncio.sleep(0)
