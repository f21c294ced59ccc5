"""The control socket: JSON over HTTP on a Unix socket that only root and the group ``ebs-agent`` can open.

The group may look; root alone gives orders (``agent.report.endpoints.authority``). It asks the engine and
tells it to look again; it never acts on a volume itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Protocol

import anyio
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from agent.core.errors import AgentError, ExitCode, InvalidValueError
from agent.core.model import VolumeId
from agent.report import api
from agent.report.board.board import Board
from agent.report.board.readiness import Readiness, assess_volumes, name_unknown
from agent.report.board.volume_status import VolumeStatus, combine
from agent.report.endpoints.authority import NotPermittedError, may_order, read_uid, refuse_orders_of_others
from agent.report.serving.requests import Turns

MAX_BODY_BYTES = 64 << 10
BODY_TIMEOUT_S = 10.0
MAX_WAIT_S = 24 * 3600.0
KEEPALIVE_S = 10.0
"""A line at least this often while a client waits, so that either end notices the other's death."""

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

    async def reload(self) -> tuple[str, ...]:
        """Read the policy again, or raise AgentError and keep the one in force.

        Returns what it will have deleted, in sentences.
        """

    def wake(self, volume_id: VolumeId | None) -> None:
        """Have a volume, or all of them (None), looked at soon."""


def make_control_app(board: Board, engine: Engine) -> web.Application:
    """Return the application of the control socket."""
    control = _Control(board, engine)
    app = web.Application(
        middlewares=[_answer_errors, refuse_orders_of_others, _take_body], client_max_size=MAX_BODY_BYTES
    )
    answers, looks = Turns(), Turns()
    app.router.add_get("/v1/status", _in_turn(answers, control.show_node))
    app.router.add_get("/v1/status/{volume}", _in_turn(answers, control.show_volume))
    app.router.add_get("/v1/plan", _in_turn(looks, control.show_plan))
    app.router.add_get("/v1/explain/{volume}", _in_turn(looks, control.explain))
    app.router.add_get("/v1/events", control.show_events)
    app.router.add_post("/v1/wait", control.wait)
    app.router.add_post("/v1/reconcile", control.reconcile)
    app.router.add_post("/v1/reload", control.reload)
    return app


class _Control:
    """The requests, each one small: find the volume, ask, answer."""

    def __init__(self, board: Board, engine: Engine) -> None:
        self._board = board
        self._engine = engine

    def _find(self, name: str) -> VolumeStatus:
        status = self._board.find(name)
        if status is None:
            raise name_unknown(self._board, name)
        return status

    async def show_node(self, _: web.Request) -> web.Response:
        return web.json_response(api.show_node(self._board))

    async def show_volume(self, request: web.Request) -> web.Response:
        return web.json_response(api.show_status(self._find(request.match_info["volume"])))

    async def show_plan(self, _: web.Request) -> web.Response:
        statuses = sorted(await self._engine.plan(), key=lambda status: (status.name is None, status.label))
        leaving = self._board.departures.items()
        departures = [{"volume_id": volume_id, "text": text} for volume_id, text in leaving]
        calls = [api.show_next_call(call) for call in self._board.next_calls]
        return web.json_response(
            {
                "volumes": api.show_statuses(statuses),
                "cloud": calls,
                "departures": departures,
                "attachments": api.show_attachments(self._board.attachments),
                "remarks": list(self._board.remarks),
            }
        )

    async def explain(self, request: web.Request) -> web.Response:
        status = self._find(request.match_info["volume"])
        if status.volume_id is not None:
            known = status
            status = combine(await self._engine.explain(status.volume_id), known.health)
            status = replace(
                status,
                since=known.since,
                checks=known.checks,
                snapshots=known.snapshots,
                drift=known.drift,
            )
        attachments = api.show_attachments(self._board.attachments)
        return web.json_response({**api.show_explanation(status), "attachments": attachments})

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
            leaving = await self._engine.reload()
        return web.json_response({"reloaded": True, "departures": [{"text": text} for text in leaving]})


def _parse_timeout(text: str) -> float:
    try:
        return min(MAX_WAIT_S, max(0.0, float(text)))
    except ValueError as error:
        raise InvalidValueError(f"{text!r} is not a number of seconds.") from error


async def _start_stream(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await stream.prepare(request)
    return stream


async def _write_line(stream: web.StreamResponse, line: dict[str, Any]) -> None:
    await stream.write(json.dumps(line, default=str).encode() + b"\n")


def _in_turn(turns: Turns, handler: Handler) -> Handler:
    """Have all but root wait for their turn, so that whoever only looks costs a share of the time at most."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if may_order(read_uid(request)):
            return await handler(request)
        async with turns:
            return await handler(request)

    return answer


@web.middleware
async def _take_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Have the whole of a request before it is looked at, in its time or not at all."""
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            await request.read()
    except TimeoutError as error:
        raise _not_understood(f"it did not come within {BODY_TIMEOUT_S:g} s") from error
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise _not_understood("its body is none") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise _not_understood(f"it has more than {MAX_BODY_BYTES} bytes") from error
    return await handler(request)


def _not_understood(why: str) -> AgentError:
    return InvalidValueError(f"The request was not understood: {why}.")


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NotPermittedError as error:
        return web.json_response(api.show_error(error), status=HTTPStatus.FORBIDDEN)
    except AgentError as error:
        status = _STATUS_OF.get(error.exit_code, HTTPStatus.INTERNAL_SERVER_ERROR)
        return web.json_response(api.show_error(error), status=status)
