"""The process that publishes over MQTT: it is told how volumes are, and has nothing else of the agent's.

Run as ``python -m agent.report.broker.main UID`` with a socket to the daemon as standard input, over which
the settings and what it logs in with come. It is no longer root before it reads the first byte, opens no
file of the agent's, starts no program, decides nothing, and may be killed at any time. It ends when the
daemon does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from importlib import import_module

import anyio
from anyio.abc import TaskGroup

from agent.node.isolate.unprivileged import Means, become_harmless
from agent.report.broker.frames import Setup
from agent.report.broker.link import Link
from agent.report.feed.face_main import be_face
from agent.report.mqtt.publisher import MqttPublisher

MEANS = Means(address_space_bytes=1 << 30, processes=64, oom_score=400, niceness=5)
"""Some 50 MB are used; each of a few threads that look names up reserves 72 MB. Jobs live longer than it."""


async def prepare() -> None:
    """Load what is loaded late, while this process may still read its own installation."""
    import_module("agent.report.mqtt.client")
    ssl.create_default_context(capath=os.devnull)  # whom it believes comes with the settings
    "localhost".encode("idna")
    with suppress(OSError):
        await asyncio.get_running_loop().getaddrinfo("localhost", 1883)


async def run(feed: socket.socket, uid: int | None) -> None:
    """Be the face: load what is needed, give up the rest, then publish what is told until that ends."""
    await prepare()
    become_harmless(uid, MEANS)
    feed.setblocking(False)  # noqa: FBT003 -- its only form
    link = Link()
    try:
        await serve(link, await link.begin(feed))
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the daemon ended, or wanted something else, before it said what
    finally:
        link.close()


async def serve(link: Link, setup: Setup) -> None:
    """Publish what the daemon tells, until it ends."""
    publisher = MqttPublisher(link.board, link, link.read_login, link, link.hear_sent, after_event=0)
    publisher.apply(setup.settings, setup.facts)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_with_daemon, link, tasks)
        tasks.start_soon(link.report)
        await link.is_told.wait()
        tasks.start_soon(publisher.run)


async def end_with_daemon(link: Link, tasks: TaskGroup) -> None:
    """Listen to the daemon, and end the rest after it; the publisher says goodbye."""
    await link.listen()
    tasks.cancel_scope.cancel()


def main() -> None:
    """Publish what comes with the socket that is standard input; the argument is who to be."""
    be_face(run)


if __name__ == "__main__":
    main()
