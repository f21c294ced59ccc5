"""The process that answers over HTTP: it is told how volumes are, and has nothing else of the agent's.

Run as ``python -m agent.report.web.main UID`` with a feed as standard input, over which the listening socket
and the certificate come. It is no longer root before it reads the first byte, opens no file, starts no
program, decides nothing, and may be killed at any time. It ends when the feed does, or when nobody was
connected for long.
"""

from __future__ import annotations

import socket

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from agent.node.isolate.unprivileged import Means, become_harmless
from agent.report.endpoints.http import make_app
from agent.report.endpoints.page import content_security_policy, render_page, show_content
from agent.report.feed.face_main import be_face, check_version
from agent.report.feed.mirror import Mirror, MirroredCounters
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.certificates import ServerTls, make_server_context
from agent.report.serving.doors import Door
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from agent.report.web.reader import FeedReader, receive_setup

IDLE_S = 300.0
"""After so long without a connection the process ends; it is started again for the next one."""
LOOK_EVERY_S = 5.0

MEANS = Means(address_space_bytes=512 << 20, processes=64, oom_score=500, niceness=5)
"""Some 60 MB are used of 200 that are reserved, and two threads; fewer than ten more may be of the same user.
It is ended before any job, being started again in half a second, and whoever mounts goes before it."""


async def prepare() -> None:
    """Load what is loaded late, while this process may still read its own installation."""
    content_security_policy()
    await anyio.to_thread.run_sync(render_page, show_content(Mirror(), {}))
    "localhost".encode("idna")


async def serve(feed: socket.socket, listener: socket.socket, tls: ServerTls | None) -> None:
    """Answer at a socket with what the feed tells, until it ends."""
    door = Door(Listen(), listener, tls)
    mirror = Mirror()
    counters = MirroredCounters(mirror)
    reader = FeedReader(feed, mirror)
    app = make_app(
        mirror, Exposition(mirror, counters, mirror.count_abandoned), mirror.get_marks, reader.refresh
    )
    tally = Tally("http", counters.count_connection)
    async with Server(app, HTTP_LIMITS, tally) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(end_with_feed, reader, tasks)
        tasks.start_soon(reader.keep_alive)
        tasks.start_soon(server.serve_door, door)
        tasks.start_soon(end_when_idle, server, tasks)


async def end_with_feed(reader: FeedReader, tasks: TaskGroup) -> None:
    """Read the feed, and end the rest after it."""
    await reader.run()
    tasks.cancel_scope.cancel()


async def end_when_idle(server: Server, tasks: TaskGroup) -> None:
    """End all once nobody was connected for long: the socket stays open at the daemon's."""
    used_at = anyio.current_time()
    while anyio.current_time() - used_at < IDLE_S:
        await anyio.sleep(LOOK_EVERY_S)
        if not server.is_idle:
            used_at = anyio.current_time()
    tasks.cancel_scope.cancel()


async def run(feed: socket.socket, uid: int | None) -> None:
    """Be the face: load what is needed, give up the rest, then read the feed and answer until it ends."""
    await prepare()
    become_harmless(uid, MEANS)
    setup, listener = receive_setup(feed)
    check_version(setup.version)
    tls = None if setup.tls is None else ServerTls(make_server_context(setup.tls), setup.tls)
    feed.setblocking(False)  # noqa: FBT003 -- its only form
    await serve(feed, listener, tls)


def main() -> None:
    """Serve what comes with the feed that is standard input; the argument is who to be."""
    be_face(run)


if __name__ == "__main__":
    main()
