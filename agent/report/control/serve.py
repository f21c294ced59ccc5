"""Serves the control socket. What answers is imported when somebody first asks: volumes come first."""

from __future__ import annotations

import asyncio
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
from agent.report.serving.connections import CLOSE_TIMEOUT_S, PAUSE_S, Connections, Limits
from agent.report.serving.flood_log import Count, Tally
from agent.report.serving.peer import Connection
from agent.report.serving.sockets import bind_control_socket, remove_control_socket

if TYPE_CHECKING:
    from agent.report.control.app import App
    from agent.report.control.exchange import Exchange

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
    begin_exchange = await anyio.to_thread.run_sync(_import_exchange)
    app = await anyio.to_thread.run_sync(make_app)
    connections = Connections(limits, tally)
    # Not in a task group: when the agent stops, an answer that is on the way has a moment to get to its end.
    open_ones: dict[asyncio.Task[None], Exchange] = {}

    looking_app = app.make_for_looking(path)

    def begin(app: App, connection: Connection) -> float:
        exchange = begin_exchange(connection, app, connections, tally)
        task = asyncio.create_task(exchange.run(), name="control connection")
        open_ones[task] = exchange
        task.add_done_callback(open_ones.pop)
        return PAUSE_S

    try:
        async with anyio.create_task_group() as tasks:
            # Of one number: who comes by both is one user with so many connections.
            tasks.start_soon(connections.accept_from, orders, partial(begin, app))
            tasks.start_soon(connections.accept_from, looks, partial(begin, looking_app))
    finally:
        with anyio.CancelScope(shield=True):
            await _end(open_ones)
        connections.end_all()


async def _wait_for_either(*listeners: socket.socket) -> None:
    async def wait(listener: socket.socket) -> None:
        await anyio.wait_readable(listener)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for listener in listeners:
            tasks.start_soon(wait, listener)


def _import_exchange() -> type[Exchange]:
    from agent.report.control.exchange import Exchange  # noqa: PLC0415

    return Exchange


async def _end(open_ones: dict[asyncio.Task[None], Exchange]) -> None:
    """End those that answer nothing, and the others when they have answered, or after a moment."""
    for exchange in open_ones.values():
        if not exchange.is_answering:
            exchange.end()
    if open_ones:
        await asyncio.wait(open_ones, timeout=CLOSE_TIMEOUT_S)
    for exchange in open_ones.values():
        exchange.end()
    if open_ones:
        await asyncio.wait(open_ones, timeout=CLOSE_TIMEOUT_S)
    for task in open_ones:
        task.cancel()
