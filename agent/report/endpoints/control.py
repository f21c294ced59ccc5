"""The control socket: JSON over HTTP on a Unix socket that only root and the group ``ebs-agent`` can open.

The group may look; root alone gives orders (``agent.report.control.authority``). It asks the engine and
tells it to look again; it never acts on a volume itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Protocol

import anyio

from agent.core.errors import InvalidValueError
from agent.core.model import VolumeId
from agent.report import api
from agent.report.board.board import Board
from agent.report.board.readiness import Readiness, assess_volumes, name_unknown
from agent.report.board.volume_status import VolumeStatus
from agent.report.control.authority import guard_orders, may_order
from agent.report.control.json_lines import JSON_LINES, write_line
from agent.report.http.app import App
from agent.report.http.messages import Answer, Handler, Request, answer_json
from agent.report.serving.turns import Turns

MAX_WAIT_S = 24 * 3600.0
KEEPALIVE_S = 10.0
"""A line at least this often while a client waits, so that either end notices the other's death."""


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


def make_control_app(board: Board, engine: Engine) -> App:
    """Return the application of the control socket."""
    control = _Control(board, engine)
    app = App(guard_orders)
    answers, looks = Turns(), Turns()
    app.add("GET", "/v1/status", _in_turn(answers, control.show_node))
    app.add("GET", "/v1/status/{volume}", _in_turn(answers, control.show_volume))
    app.add("GET", "/v1/plan", _in_turn(looks, control.show_plan))
    app.add("GET", "/v1/explain/{volume}", _in_turn(looks, control.explain))
    app.add("GET", "/v1/events", control.show_events)
    app.add("POST", "/v1/wait", control.wait)
    app.add("POST", "/v1/reconcile", control.reconcile)
    app.add("POST", "/v1/reload", control.reload)
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

    async def show_node(self, _: Request) -> Answer:
        return answer_json(api.show_node(self._board))

    async def show_volume(self, request: Request) -> Answer:
        return answer_json(api.show_status(self._find(request.words["volume"])))

    async def show_plan(self, _: Request) -> Answer:
        planned = [self._board.complete(status) for status in await self._engine.plan()]
        statuses = sorted(planned, key=lambda status: (status.name is None, status.label))
        leaving = self._board.departures.items()
        departures = [{"volume_id": volume_id, "text": text} for volume_id, text in leaving]
        calls = [api.show_next_call(call) for call in self._board.next_calls]
        return answer_json(
            {
                "volumes": api.show_statuses(statuses),
                "cloud": calls,
                "departures": departures,
                "attachments": api.show_attachments(self._board.attachments),
                "remarks": list(self._board.remarks),
            }
        )

    async def explain(self, request: Request) -> Answer:
        status = self._find(request.words["volume"])
        if status.volume_id is not None:
            status = self._board.complete(await self._engine.explain(status.volume_id))
        attachments = api.show_attachments(self._board.attachments)
        return answer_json({**api.show_explanation(status), "attachments": attachments})

    async def show_events(self, request: Request) -> None:
        """Answer the events kept, one JSON object a line, and with ``follow`` every new one as it comes."""
        history = self._board.history
        kept = history.latest()
        stream = await request.open_stream(JSON_LINES)
        for event in kept:
            await write_line(stream, api.show_event(event))
        if "follow" in request.query:
            last = kept[-1].number if kept else history.next_number - 1
            async for event in history.follow(after=last):
                await write_line(stream, api.show_event(event))

    async def wait(self, request: Request) -> None:
        """Answer one line now and one at each change, until the volumes are ready or time is up.

        ``names``: comma-separated names or IDs, all required volumes when empty; ``timeout``: seconds.
        The last line has ``ready`` true, or the time was up.
        """
        names = [name for name in request.query.get("names", "").split(",") if name]
        timeout_s = _parse_timeout(request.query.get("timeout", "0"))
        assess_volumes(self._board, names)  # a wrong name is answered before the stream begins
        stream = await request.open_stream(JSON_LINES)
        with anyio.move_on_after(timeout_s):
            async for readiness in self._follow_readiness(names):
                await write_line(stream, api.show_readiness(readiness))
                if readiness.is_ready:
                    break

    async def _follow_readiness(self, names: list[str]) -> AsyncIterator[Readiness]:
        with self._board.subscribe() as changes:
            while True:
                yield assess_volumes(self._board, names)
                with anyio.move_on_after(KEEPALIVE_S):
                    await anext(changes)

    async def reconcile(self, request: Request) -> Answer:
        name = request.query.get("volume")
        self._engine.wake(None if name is None else self._find(name).volume_id)
        return answer_json({"woken": name or "all"}, status=HTTPStatus.ACCEPTED)

    async def reload(self, _: Request) -> Answer:
        with anyio.CancelScope(shield=True):  # a client that goes away does not leave half a reload
            leaving = await self._engine.reload()
        return answer_json({"reloaded": True, "departures": [{"text": text} for text in leaving]})


def _parse_timeout(text: str) -> float:
    try:
        return min(MAX_WAIT_S, max(0.0, float(text)))
    except ValueError as error:
        raise InvalidValueError(f"{text!r} is not a number of seconds.") from error


def _in_turn(turns: Turns, handler: Handler) -> Handler:
    """Have all but root wait for their turn, so that whoever only looks costs a share of the time at most."""

    async def answer(request: Request) -> Answer | None:
        if may_order(request.peer.uid):
            return await handler(request)
        async with turns:
            return await handler(request)

    return answer
