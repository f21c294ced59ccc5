"""The control socket: JSON over HTTP on a Unix socket that only root and the group ``ebs-agent`` can open.

It asks the engine and tells it to look again; it never acts on a volume itself.
"""

from __future__ import annotations

import grp
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import anyio
from aiohttp import web
from aiohttp.typedefs import Handler
from anyio.abc import TaskStatus

from agent.errors import AgentError, ExitCode
from agent.log import get_logger
from agent.model import VolumeId
from agent.report import api
from agent.report.board import Board
from agent.report.http import run_app
from agent.report.readiness import Readiness, assess_volumes
from agent.report.volume_status import VolumeStatus, combine

GROUP = "ebs-agent"
MAX_PATH_BYTES = 107
"""sockaddr_un(7) has room for no more."""
MAX_WAIT_S = 24 * 3600.0
KEEPALIVE_S = 10.0
"""A line at least this often while a client waits, so that either end notices the other's death."""

log = get_logger(__name__)

_STATUS_OF = {
    ExitCode.USAGE: HTTPStatus.NOT_FOUND,
    ExitCode.REFUSED: HTTPStatus.CONFLICT,
    ExitCode.NOT_READY: HTTPStatus.GATEWAY_TIMEOUT,
}


class Engine(Protocol):
    """What the control socket needs of the daemon."""

    async def plan(self) -> tuple[VolumeStatus, ...]:
        """Look at every volume now and return what would be done; changes nothing."""

    async def explain(self, volume_id: VolumeId) -> VolumeStatus:
        """Look at one volume now and return its status with every fact; changes nothing."""

    async def reload(self) -> None:
        """Read the policy again, or raise AgentError and keep the one in force."""

    def wake(self, volume_id: VolumeId | None) -> None:
        """Have a volume, or all of them (None), looked at soon."""


def make_control_app(board: Board, engine: Engine) -> web.Application:
    """Return the application of the control socket."""
    control = _Control(board, engine)
    app = web.Application(middlewares=[_answer_errors])
    app.router.add_get("/v1/status", control.show_node)
    app.router.add_get("/v1/status/{volume}", control.show_volume)
    app.router.add_get("/v1/plan", control.show_plan)
    app.router.add_get("/v1/explain/{volume}", control.explain)
    app.router.add_get("/v1/events", control.show_events)
    app.router.add_post("/v1/wait", control.wait)
    app.router.add_post("/v1/reconcile", control.reconcile)
    app.router.add_post("/v1/reload", control.reload)
    return app


async def serve_control(
    app: web.Application, path: Path, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``app`` on a Unix socket at ``path`` until cancelled, then remove it.

    Raises AgentError where another agent answers there.
    """
    bound, inode = bind_control_socket(path)
    try:
        async with run_app(app, lambda runner: web.SockSite(runner, bound)):
            task_status.started()
            await anyio.sleep_forever()
    finally:
        _remove_socket(path, inode)


def bind_control_socket(path: Path) -> tuple[socket.socket, int]:
    """Return a socket bound at ``path`` and its inode: mode 0660, group ``ebs-agent`` where that exists."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise AgentError(
            f"The control socket {path} cannot be made: its path has more than {MAX_PATH_BYTES} bytes.",
            hint="Choose a shorter --root DIR.",
            retryable=False,
            exit_code=ExitCode.USAGE,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_umask = os.umask(0o177)  # closed to all until it has its group; the daemon has one thread
    try:
        bound.bind(os.fspath(path))
    except OSError as error:
        bound.close()
        raise AgentError(
            f"The control socket {path} cannot be made: {error.strerror or error}.",
            hint="Run the agent as root, or move its files with --root DIR.",
            retryable=False,
        ) from error
    finally:
        os.umask(old_umask)
    if os.geteuid() == 0 and (group_id := _find_group()) is not None:
        os.chown(path, 0, group_id)
    path.chmod(0o660)
    return bound, path.stat().st_ino


def _remove_socket(path: Path, inode: int) -> None:
    """Remove our socket, and not the one another agent has put there since."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def _find_group() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def _clear_stale_socket(path: Path) -> None:
    """Remove what a dead agent left; a live one answers and is left alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise AgentError(
                f"The control socket {path} is in the way: {error.strerror or error}.",
                hint="Remove it if no agent runs here.",
                retryable=False,
            ) from error
    raise AgentError(
        f"Another agent already answers at {path}.",
        hint="Stop it first (systemctl stop ebs-agent), or give this one its own --root DIR.",
        retryable=False,
    )


class _Control:
    """The requests, each one small: find the volume, ask, answer."""

    def __init__(self, board: Board, engine: Engine) -> None:
        self._board = board
        self._engine = engine

    def _find(self, name: str) -> VolumeStatus:
        status = self._board.find(name)
        if status is None:
            known = ", ".join(status.label for status in self._board.statuses()) or "none"
            raise AgentError(
                f"No volume is called {name}.",
                hint=f"Volumes known here: {known}.",
                retryable=False,
                exit_code=ExitCode.USAGE,
            )
        return status

    async def show_node(self, _: web.Request) -> web.Response:
        return web.json_response(api.show_node(self._board))

    async def show_volume(self, request: web.Request) -> web.Response:
        return web.json_response(api.show_status(self._find(request.match_info["volume"])))

    async def show_plan(self, _: web.Request) -> web.Response:
        statuses = sorted(await self._engine.plan(), key=lambda status: (status.name is None, status.label))
        return web.json_response({"volumes": api.show_statuses(statuses)})

    async def explain(self, request: web.Request) -> web.Response:
        status = self._find(request.match_info["volume"])
        if status.volume_id is not None:
            known = status
            status = combine(await self._engine.explain(status.volume_id), known.health)
            status = replace(status, since=known.since)
        return web.json_response(api.show_explanation(status))

    async def show_events(self, request: web.Request) -> web.StreamResponse:
        """Answer the events kept, one JSON object a line, and with ``follow`` every new one as it comes."""
        history = self._board.history
        kept = history.latest()
        stream = await _start_stream(request)
        for event in kept:
            await _write_line(stream, api.show_event(event))
        if "follow" in request.query:
            last = kept[-1].number if kept else history.next_number - 1
            async for event in history.follow(after=last):
                await _write_line(stream, api.show_event(event))
        return stream

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """Answer one line now and one at each change, until the volumes are ready or time is up.

        ``names``: comma-separated names or IDs, all required volumes when empty; ``timeout``: seconds.
        The last line has ``ready`` true, or the time was up.
        """
        names = [name for name in request.query.get("names", "").split(",") if name]
        timeout_s = _parse_timeout(request.query.get("timeout", "0"))
        assess_volumes(self._board, names)  # a wrong name is answered before the stream begins
        stream = await _start_stream(request)
        with anyio.move_on_after(timeout_s):
            async for readiness in self._follow_readiness(names):
                await _write_line(stream, api.show_readiness(readiness))
                if readiness.is_ready:
                    break
        return stream

    async def _follow_readiness(self, names: list[str]) -> AsyncIterator[Readiness]:
        with self._board.subscribe() as changes:
            while True:
                yield assess_volumes(self._board, names)
                with anyio.move_on_after(KEEPALIVE_S):
                    await anext(changes)

    async def reconcile(self, request: web.Request) -> web.Response:
        name = request.query.get("volume")
        self._engine.wake(None if name is None else self._find(name).volume_id)
        return web.json_response({"woken": name or "all"}, status=HTTPStatus.ACCEPTED)

    async def reload(self, _: web.Request) -> web.Response:
        with anyio.CancelScope(shield=True):  # a client that goes away does not leave half a reload
            await self._engine.reload()
        return web.json_response({"reloaded": True})


def _parse_timeout(text: str) -> float:
    try:
        return min(MAX_WAIT_S, max(0.0, float(text)))
    except ValueError as error:
        raise AgentError(
            f"{text!r} is not a number of seconds.", retryable=False, exit_code=ExitCode.USAGE
        ) from error


async def _start_stream(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await stream.prepare(request)
    return stream


async def _write_line(stream: web.StreamResponse, line: dict[str, Any]) -> None:
    await stream.write(json.dumps(line, default=str).encode() + b"\n")


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except AgentError as error:
        status = _STATUS_OF.get(error.exit_code, HTTPStatus.INTERNAL_SERVER_ERROR)
        return web.json_response(api.show_error(error), status=status)
