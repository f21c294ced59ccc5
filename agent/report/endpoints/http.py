"""The agent's read-only HTTP face: ``/metrics``, ``/healthz``, ``/livez``, the status page. Changes nothing.

Every answer comes from the board, so a stalled volume delays none. What changes things is on the control
socket (``agent.report.endpoints.control``), which only root and the group ``ebs-agent`` can open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

import agent
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.report import api
from agent.report.board.readiness import assess_node
from agent.report.board.shown import ShownBoard
from agent.report.endpoints.page import content_security_policy, render_page, show_content
from agent.report.endpoints.redaction import redact
from agent.report.health.trends import Mark, list_points
from agent.report.metrics.exposition import Exposition
from agent.report.serving.turns import Turns


async def be_fresh() -> None:
    """See that the board is as things are now, as it is where the board is this process's own."""


def make_app(
    board: ShownBoard,
    exposition: Exposition,
    get_marks: Callable[[VolumeId], Sequence[Mark]] = lambda _: (),
    refresh: Callable[[], Awaitable[None]] = be_fresh,
) -> web.Application:
    """Return the read-only application; ``get_marks`` has what the page's charts are drawn from.

    ``refresh`` is awaited before each answer; AgentError where the board cannot be known to be fresh.
    """
    app = web.Application(middlewares=[_refresh_before(refresh), _answer_in_turn(Turns())])
    app.on_response_prepare.append(_harden)

    async def show_metrics(request: web.Request) -> web.Response:
        body, content_type = exposition.render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    async def show_health(request: web.Request) -> web.Response:
        readiness = assess_node(board)
        status = HTTPStatus.OK if readiness.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return web.json_response(_show_to(request, api.show_readiness(readiness)), status=status)

    async def show_life(_: web.Request) -> web.Response:
        # Asked for its board it has answered, or this is not reached.
        return web.json_response({"alive": True, "version": agent.__version__})

    def gather(request: web.Request) -> dict[str, Any]:
        volumes = [status.volume_id for status in board.statuses() if status.volume_id]
        trends: dict[str, Any] = {volume: list_points(get_marks(volume)) for volume in volumes}
        return _show_to(request, show_content(board, trends))

    async def show_json(request: web.Request) -> web.Response:
        return web.json_response(gather(request))

    async def show_page(request: web.Request) -> web.Response:
        # What others named may hold what no text can: half of a surrogate pair.
        body = render_page(gather(request)).encode(errors="backslashreplace")
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/livez", show_life)
    app.router.add_get("/", show_page)
    app.router.add_get("/status.json", show_json)
    return app


def _show_to(request: web.Request, content: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of ``content`` to whoever asks: all to those whom the policy's authority knows."""
    is_known = request.transport is not None and bool(request.transport.get_extra_info("peercert"))
    return content if is_known else redact(content)


def _answer_in_turn(turns: Turns) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        async with turns:
            return await handler(request)

    return answer


def _refresh_before(refresh: Callable[[], Awaitable[None]]) -> Middleware:
    """Have nothing answered by a board of which nobody knows how old it is."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await refresh()
        except AgentError as error:
            content = {"ready": False, **api.show_error(error)}
            return web.json_response(content, status=HTTPStatus.SERVICE_UNAVAILABLE)
        return await handler(request)

    return answer


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Security-Policy"] = content_security_policy()
