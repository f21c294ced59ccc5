"""An HTTP server of the size the agent needs: HTTP/1.1 by h11, on the one event loop, at any bound socket.

It knows routes, and neither volumes nor the policy. A framework does far more than is needed here: importing
one was a third of the daemon's start.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from time import gmtime, strftime
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import h11
import structlog

from agent.errors import AgentError

CLOSE_TIMEOUT_S = 1.0
"""How long open requests may go on once the agent stops: the whole agent has 5 s."""

IDLE_TIMEOUT_S = 75.0
"""For a request to arrive, and for a part of an answer to be taken: who is slower is let go."""

MAX_HEAD_BYTES = 16 << 10
MAX_BODY_BYTES = 64 << 10
"""An order on the control socket has a few hundred bytes."""

_READ_BYTES = 64 << 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Request:
    """What is asked. It is answered when all of it has arrived."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """By their names in lower case."""
    body: bytes = b""
    places: Mapping[str, str] = field(default_factory=dict)
    """What the path holds where the route has ``{name}``."""


@dataclass(frozen=True)
class Response:
    """An answer that is known at once."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """An answer that goes on: JSON objects, one a line, each sent when there is one."""

    lines: AsyncGenerator[Mapping[str, Any], None]


Answer: TypeAlias = Response | Stream
Handler: TypeAlias = Callable[[Request], Awaitable[Answer]]


class _ClientGoneError(Exception):
    """The client went away, or does not take what it asked for."""


def json_response(content: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return ``content`` as JSON."""
    return Response(json.dumps(content, default=str).encode(), "application/json; charset=utf-8", status)


class App:
    """Routes to handlers. ``headers`` go with every answer; ``show_error`` shows a handler's AgentError."""

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        show_error: Callable[[AgentError], Response] | None = None,
    ) -> None:
        self.headers = dict(headers or {})
        self._show_error = show_error
        self._routes: list[tuple[str, list[str], Handler]] = []

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Have ``handler`` answer at ``path``, where a part may be ``{name}``; GET stands for HEAD too."""
        self._routes.append((method, path.split("/"), handler))

    async def answer(self, request: Request) -> Answer:
        """Return the answer; never raises, since what a handler did not expect is logged and answered too."""
        found = {method: (handler, places) for method, handler, places in self._find_routes(request.path)}
        if not found:
            return _refuse(HTTPStatus.NOT_FOUND)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in found:
            return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(sorted(found))})
        handler, places = found[method]
        try:
            return await handler(replace(request, places=places))
        except Exception as error:
            if self._show_error is not None and isinstance(error, AgentError):
                return self._show_error(error)
            log.exception("http.failed", method=request.method, path=request.path)
            return _refuse(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _find_routes(self, path: str) -> Iterator[tuple[str, Handler, dict[str, str]]]:
        parts = path.split("/")
        for method, route, handler in self._routes:
            pairs = list(zip(route, parts, strict=False))
            if len(route) == len(parts) and all(is_place(own) or own == part for own, part in pairs):
                yield method, handler, {own[1:-1]: unquote(part) for own, part in pairs if is_place(own)}


def is_place(part: str) -> bool:
    """Whether a part of a route stands for whatever is there."""
    return part.startswith("{")


def _refuse(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    return Response(f"{status.value} {status.phrase}\n".encode(), status=status, headers=headers or {})


@asynccontextmanager
async def serve_app(
    app: App, listener: socket.socket, context: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Answer at a bound socket while the block runs, then close it and end what is open soon after."""
    connections = _Connections(app)
    server = await asyncio.start_server(connections.begin, sock=listener, ssl=context)
    try:
        yield
    finally:
        server.close()
        with anyio.CancelScope(shield=True):
            await connections.end()


class _Connections:
    """The open connections of one listening socket, each with its task."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._open: dict[asyncio.Task[None], _Connection] = {}

    def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self._app, reader, writer)
        task = asyncio.get_running_loop().create_task(connection.serve(), name="http connection")
        self._open[task] = connection
        task.add_done_callback(self._open.pop)

    async def end(self) -> None:
        """End those that wait for a request at once, and the others when they had their time."""
        for task, connection in self._open.items():
            if connection.is_idle:
                task.cancel()
        if self._open:
            await asyncio.wait(set(self._open), timeout=CLOSE_TIMEOUT_S)
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(set(self._open))


class _Connection:
    """One client's connection: its requests, one after the other."""

    def __init__(self, app: App, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_idle = True
        self._app = app
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._early = b""
        """What the client sent while it was being answered."""

    async def serve(self) -> None:
        """Answer until either side has enough; a client that goes away or errs is its own business."""
        try:
            with suppress(_ClientGoneError):
                await self._answer_requests()
        finally:
            self._writer.close()

    async def _answer_requests(self) -> None:
        while True:
            self.is_idle = True
            try:
                with anyio.move_on_after(IDLE_TIMEOUT_S) as patience:
                    request = await self._receive()
            except h11.RemoteProtocolError as error:
                await self._send_response(_refuse(HTTPStatus(error.error_status_hint)))
                return
            if patience.cancelled_caught or request is None:
                return
            self.is_idle = False
            await self._answer_while_connected(request)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    # -- A request -------------------------------------------------------------------------------------------

    async def _receive(self) -> Request | None:
        """Return the next request, or None where the client wants nothing more."""
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._read())
            elif isinstance(event, h11.Request):
                head, self.is_idle = event, False
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError(
                        "too large a body", error_status_hint=HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                    )
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _make_request(head, bytes(body))
            else:
                return None

    async def _read(self) -> bytes:
        early, self._early = self._early, b""
        try:
            return early or await self._reader.read(_READ_BYTES)
        except OSError as error:
            raise _ClientGoneError from error

    # -- Its answer ------------------------------------------------------------------------------------------

    async def _answer_while_connected(self, request: Request) -> None:
        """Answer, and stop where the client goes away: what it waited for may take a day."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_client, tasks.cancel_scope)
            with suppress(_ClientGoneError):
                await self._answer(request)
            tasks.cancel_scope.cancel()

    async def _watch_client(self, answering: anyio.CancelScope) -> None:
        with suppress(_ClientGoneError):
            self._early = await self._read()
        if not self._early:
            answering.cancel()

    async def _answer(self, request: Request) -> None:
        answer = await self._app.answer(request)
        if isinstance(answer, Response):
            await self._send_response(answer, has_body=request.method != "HEAD")
            return
        await self._send_head(HTTPStatus.OK, {"Content-Type": "application/x-ndjson"})
        async with aclosing(answer.lines) as lines:
            try:
                async for line in lines:
                    await self._send(h11.Data(data=json.dumps(line, default=str).encode() + b"\n"))
            except _ClientGoneError:
                raise
            except Exception:
                # Without its proper end the client sees that the answer is not whole.
                log.exception("http.failed", method=request.method, path=request.path)
                return
        await self._send(h11.EndOfMessage())

    async def _send_response(self, response: Response, *, has_body: bool = True) -> None:
        headers = {"Content-Type": response.content_type, "Content-Length": str(len(response.body))}
        await self._send_head(response.status, headers | dict(response.headers))
        if has_body:
            await self._send(h11.Data(data=response.body))
        await self._send(h11.EndOfMessage())

    async def _send_head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        date = strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime())
        pairs = [*headers.items(), *self._app.headers.items(), ("Date", date)]
        await self._send(h11.Response(status_code=status, headers=pairs, reason=status.phrase.encode()))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if not data:
            return
        try:
            with anyio.fail_after(IDLE_TIMEOUT_S):
                self._writer.write(data)
                await self._writer.drain()
        except OSError as error:  # TimeoutError is one
            raise _ClientGoneError from error


def _make_request(head: h11.Request, body: bytes) -> Request:
    target = urlsplit(head.target.decode("ascii"))
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    query = dict(parse_qsl(target.query, keep_blank_values=True))
    return Request(head.method.decode("ascii"), target.path, query, headers, body)
