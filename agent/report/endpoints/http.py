"""The agent's read-only HTTP face: ``/metrics``, ``/healthz``, ``/livez``, the status page. Changes nothing.

Every answer comes from the board, so a stalled volume delays none. What changes things is on the control
socket (``agent.report.endpoints.control``), which only root and the group ``ebs-agent`` can open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

import agent
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.report import api
from agent.report.board.readiness import assess_node
from agent.report.board.shown import ShownBoard
from agent.report.endpoints.page import content_security_policy, render_page, show_content
from agent.report.endpoints.redaction import redact
from agent.report.health.trends import Mark, list_points
from agent.report.http.app import App
from agent.report.http.hosts import refuse_other_hosts
from agent.report.http.messages import Answer, Request, answer_json
from agent.report.metrics.exposition import Exposition
from agent.report.serving.turns import Turns

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def be_fresh() -> None:
    """See that the board is as things are now, as it is where the board is this process's own."""


def make_app(
    board: ShownBoard,
    exposition: Exposition,
    get_marks: Callable[[VolumeId], Sequence[Mark]] = lambda _: (),
    refresh: Callable[[], Awaitable[None]] = be_fresh,
) -> App:
    """Return the read-only application; ``get_marks`` has what the page's charts are drawn from.

    ``refresh`` is awaited before each answer; AgentError where the board cannot be known to be fresh.
    """
    app = App(refuse_other_hosts(), _HEADERS | {"Content-Security-Policy": content_security_policy()})
    turns = Turns()

    def add(path: str, show: Callable[[Request], Answer]) -> None:
        async def answer(request: Request) -> Answer:
            try:
                await refresh()
            except AgentError as error:
                content = {"ready": False, **api.show_error(error)}
                return answer_json(content, HTTPStatus.SERVICE_UNAVAILABLE)
            async with turns:
                return show(request)

        app.add("GET", path, answer)

    def show_metrics(request: Request) -> Answer:
        body, content_type = exposition.render(request.headers.get("accept", ""))
        return Answer(body, content_type=content_type)

    def show_health(request: Request) -> Answer:
        readiness = assess_node(board)
        status = HTTPStatus.OK if readiness.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return answer_json(_show_to(request, api.show_readiness(readiness)), status)

    def show_life(_: Request) -> Answer:
        # Asked for its board it has answered, or this is not reached.
        return answer_json({"alive": True, "version": agent.__version__})

    def gather(request: Request) -> dict[str, Any]:
        volumes = [status.volume_id for status in board.statuses() if status.volume_id]
        trends: dict[str, Any] = {volume: list_points(get_marks(volume)) for volume in volumes}
        return _show_to(request, show_content(board, trends))

    def show_json(request: Request) -> Answer:
        return answer_json(gather(request))

    def show_page(request: Request) -> Answer:
        # What others named may hold what no text can: half of a surrogate pair.
        page = render_page(gather(request), only=request.query.get("volume"))
        body = page.encode(errors="backslashreplace")
        return Answer(body, content_type="text/html; charset=utf-8")

    add("/metrics", show_metrics)
    add("/healthz", show_health)
    add("/livez", show_life)
    add("/", show_page)
    add("/status.json", show_json)
    return app


def _show_to(request: Request, content: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of ``content`` to whoever asks: all to those whom the policy's authority knows."""
    return content if request.peer.is_vouched else redact(content)
