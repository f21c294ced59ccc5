"""The agent's read-only HTTP face: ``/metrics``, ``/healthz`` and the status page. It changes nothing.

Every answer comes from the board, so a stalled volume delays none. What changes things is on the control
socket (``agent.report.control``), which only root and the group ``ebs-agent`` can open.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
from aiohttp import hdrs, web
from anyio.abc import TaskStatus

from agent.errors import AgentError, ExitCode
from agent.model import VolumeId
from agent.report import api
from agent.report.board import Board
from agent.report.health import Reading
from agent.report.metrics import Exposition
from agent.report.page import content_security_policy, render_page, show_content
from agent.report.readiness import assess_node
from agent.report.trends import list_points

DEFAULT_PORT = 9842
CLOSE_TIMEOUT_S = 1.0
"""How long open requests may go on once the agent stops: the whole agent has 5 s."""


@dataclass(frozen=True)
class Tls:
    """Certificates for HTTPS. With ``client_ca``, only clients it vouches for are answered."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class Listen:
    """Where the read-only face is offered."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls: Tls | None = None


def make_app(
    board: Board, exposition: Exposition, get_readings: Callable[[VolumeId], Sequence[Reading]] = lambda _: ()
) -> web.Application:
    """Return the read-only application; ``get_readings`` has what the page's charts are drawn from."""
    app = web.Application()
    app.on_response_prepare.append(_harden)

    async def show_metrics(request: web.Request) -> web.Response:
        body, content_type = exposition.render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    async def show_health(_: web.Request) -> web.Response:
        readiness = assess_node(board)
        status = HTTPStatus.OK if readiness.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return web.json_response(api.show_readiness(readiness), status=status)

    def gather() -> dict[str, Any]:
        volumes = [status.volume_id for status in board.statuses() if status.volume_id]
        return show_content(board, {volume: list_points(get_readings(volume)) for volume in volumes})

    async def show_json(_: web.Request) -> web.Response:
        return web.json_response(gather())

    async def show_page(_: web.Request) -> web.Response:
        return web.Response(text=render_page(board, gather()), content_type="text/html")

    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/", show_page)
    app.router.add_get("/status.json", show_json)
    return app


async def serve_http(
    app: web.Application, listen: Listen, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``app`` until cancelled; starts with the port in use, which differs from ``listen`` for port 0.

    Raises AgentError where the address cannot be bound or a certificate not be read.
    """
    context = make_ssl_context(listen.tls) if listen.tls else None
    bound = _bind(listen)
    async with run_app(app, lambda runner: web.SockSite(runner, bound, ssl_context=context)):
        task_status.started(bound.getsockname()[1])
        await anyio.sleep_forever()


@asynccontextmanager
async def run_app(
    app: web.Application, make_site: Callable[[web.AppRunner], web.BaseSite]
) -> AsyncIterator[None]:
    """Serve ``app`` at one site while the block runs, and end open requests soon after."""
    runner = web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,  # a client that went away is waited for no longer
        access_log=None,
        shutdown_timeout=CLOSE_TIMEOUT_S,
    )
    await runner.setup()
    try:
        await make_site(runner).start()
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


def make_ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return a server context for ``tls``, or raise AgentError naming the file that cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:  # ssl.SSLError is one
        raise _certificate_error(f"The certificate {tls.cert} with key {tls.key}", error) from error
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(tls.client_ca)
        except OSError as error:
            raise _certificate_error(f"The client CA {tls.client_ca}", error) from error
    return context


def _certificate_error(what: str, error: OSError) -> AgentError:
    return AgentError(
        f"{what} cannot be used: {error.strerror or error}.",
        hint="Correct agent.http.tls in the policy: PEM files that root can read.",
        retryable=False,
        exit_code=ExitCode.USAGE,
    )


def _bind(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        return socket.create_server((listen.host, listen.port), family=family)
    except OSError as error:
        raise AgentError(
            f"The address {listen.host}:{listen.port} cannot be listened on: {error.strerror or error}.",
            hint="Set agent.http.listen in the policy to a free address of this node.",
            retryable=False,
        ) from error


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Security-Policy"] = content_security_policy()
