"""Serves the control socket. What answers is imported when somebody first asks: volumes come first."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from agent.base.paths import choose_looking_path
from agent.report.control.authority import make_looking_guard
from agent.report.serving.connections import Limits
from agent.report.serving.flood_log import Count, Tally
from agent.report.serving.sockets import bind_control_socket, remove_control_socket

if TYPE_CHECKING:
    from agent.report.http.app import App
    from agent.report.http.serve import Server

LIMITS = Limits(lobby=0, each_user=16, others=32, answer_s=None)
"""Whoever waits, or follows events, may do so for a day; root is let in however many of them there are."""


async def serve_control(
    make_app: Callable[[], App],
    path: Path,
    count: Count | None = None,
    limits: Limits = LIMITS,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application on a Unix socket at ``path`` until cancelled, then remove it.

    That one is root's; beside it is another for the group, which may look. ``make_app`` is called once, in a
    thread. Raises AgentError where another agent answers there.
    """
    with ExitStack() as sockets:
        orders = _bind(path, sockets, for_group=False)
        looks = _bind(choose_looking_path(path), sockets, for_group=True)
        task_status.started()
        await _serve(orders, looks, path, make_app, limits, Tally("control", count))


def _bind(path: Path, sockets: ExitStack, *, for_group: bool) -> socket.socket:
    listener, inode = bind_control_socket(path, for_group=for_group)
    sockets.callback(remove_control_socket, path, inode)
    return sockets.enter_context(listener)


async def _serve(
    orders: socket.socket,
    looks: socket.socket,
    path: Path,
    make_app: Callable[[], App],
    limits: Limits,
    tally: Tally,
) -> None:
    await _wait_for_either(orders, looks)
    # Beside the loop, which volumes wait for; Python keeps imports in order.
    server_of = await anyio.to_thread.run_sync(_import_server)
    app = await anyio.to_thread.run_sync(make_app)
    looking_app = app.guarded_by(make_looking_guard(path))
    # Of one server: who comes by both sockets is one user with so many connections.
    async with server_of(app, limits, tally) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, orders)
        tasks.start_soon(partial(server.serve, looks, app=looking_app))


async def _wait_for_either(*listeners: socket.socket) -> None:
    async def wait(listener: socket.socket) -> None:
        await anyio.wait_readable(listener)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for listener in listeners:
            tasks.start_soon(wait, listener)


def _import_server() -> type[Server]:
    from agent.report.http.serve import Server  # noqa: PLC0415

    return Server
