"""The HTTP server as a client on a socket meets it: requests that are odd, late, many, or left half-way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agent.errors import AgentError
from agent.report.web import MAX_BODY_BYTES, App, Request, Response, Stream, json_response, serve_app

pytestmark = pytest.mark.anyio


class Server:
    """An application for every case, and what became of its longest request."""

    def __init__(self) -> None:
        self.has_begun = anyio.Event()
        self.has_ended = anyio.Event()
        self.may_answer = anyio.Event()
        self.port = 0
        self.app = App({"X-Always": "here"}, lambda error: json_response({"error": error.message}))
        self.app.add("GET", "/things/{name}", self.show)
        self.app.add("POST", "/things/{name}", self.keep)
        self.app.add("GET", "/slow", self.answer_when_told)
        self.app.add("GET", "/endless", self.go_on)
        self.app.add("GET", "/broken", self.break_off)
        self.app.add("GET", "/refused", self.refuse)
        self.app.add("GET", "/bug", self.fail)

    async def show(self, request: Request) -> Response:
        return json_response([request.places["name"], dict(request.query)])

    async def keep(self, request: Request) -> Response:
        return Response(request.body)

    async def answer_when_told(self, _: Request) -> Response:
        self.has_begun.set()
        try:
            await self.may_answer.wait()
        finally:
            self.has_ended.set()
        return Response(b"at last")

    async def go_on(self, _: Request) -> Stream:
        return Stream(self._go_on())

    async def _go_on(self) -> AsyncGenerator[dict[str, Any], None]:
        try:
            yield {"line": 1}
            await anyio.sleep_forever()
        finally:
            self.has_ended.set()

    async def break_off(self, _: Request) -> Stream:
        async def lines() -> AsyncGenerator[dict[str, Any], None]:
            yield {"line": 1}
            raise ValueError("nobody expected this")

        return Stream(lines())

    async def refuse(self, _: Request) -> Response:
        raise AgentError("It is refused.")

    async def fail(self, _: Request) -> Response:
        raise ValueError("nobody expected this")

    async def ask(self, *parts: bytes) -> bytes:
        """Send bytes as they are and return all that comes until the server has enough."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            with anyio.fail_after(10):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listener = socket.create_server(("127.0.0.1", 0))
    server.port = listener.getsockname()[1]
    async with serve_app(server.app, listener):
        yield server


def get(path: str, method: str = "GET", more: str = "Connection: close\r\n") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode()


async def test_places_and_queries_are_what_was_meant() -> None:
    """A part of the path and a query reach the handler decoded, a slash in a name is part of the name."""
    async with serving() as server:
        answer = await server.ask(get("/things/a%2Fb%20c?x=1%262&y"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b'["a/b c", {"x": "1&2", "y": ""}]')


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/nothing"), 404),
        (get("/things"), 404),
        (get("/things/a/b"), 404),
        (get("//things/a"), 404),
        (get("/things/a", "DELETE"), 405),
        (get("/bug"), 500),
        (b"GET /things/a HTTP/1.1\r\n\r\n", 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /things/a HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (get("/things/a", "POST", f"Content-Length: {MAX_BODY_BYTES + 1}\r\n") + b"x" * 66_000, 413),
        (get("/things/a", "POST", "Content-Length: 1\r\nContent-Length: 2\r\n") + b"xx", 400),
    ],
)
async def test_what_cannot_be_answered_is_refused(request_: bytes, status: int) -> None:
    """Each kind of wrong request has its status, and none of them ends the server."""
    async with serving() as server:
        assert f"HTTP/1.1 {status} ".encode() in await server.ask(request_)
        assert b" 200 OK" in await server.ask(get("/things/a"))


async def test_every_answer_has_the_common_headers() -> None:
    """Errors are answers too, and the methods that would be possible are named."""
    async with serving() as server:
        for path, method in (
            ("/things/a", "GET"),
            ("/nothing", "GET"),
            ("/things/a", "PUT"),
            ("/bug", "GET"),
        ):
            answer = await server.ask(get(path, method))
            assert b"\r\nX-Always: here\r\n" in answer
            assert (b"\r\nAllow: GET, POST\r\n" in answer) == (method == "PUT")


async def test_an_agent_error_is_shown_as_the_application_says() -> None:
    """What a handler raises on purpose reaches the client as its sentence."""
    async with serving() as server:
        assert b'{"error": "It is refused."}' in await server.ask(get("/refused"))


async def test_a_connection_is_kept_for_more() -> None:
    """Requests sent at once, with bodies and without, are answered one after the other on one connection."""
    body = get("/things/a", "POST", "Content-Length: 5\r\n") + b"hello"
    head = get("/things/a", "HEAD", "")
    async with serving() as server:
        answer = await server.ask(body, head + get("/things/c", more=""), get("/things/d"))
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.index(b"hello") < answer.index(b'["c", {}]') < answer.index(b'["d", {}]')
    assert b'["a", {}]' not in answer, "HEAD is answered without the body"


async def test_a_client_that_goes_away_is_waited_for_no_longer() -> None:
    """Work for a client ends with its connection, be its answer whole or a stream."""
    for path in ("/slow", "/endless"):
        async with serving() as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get(path))
            if path == "/slow":
                await server.has_begun.wait()
            writer.close()
            with anyio.fail_after(10):
                await server.has_ended.wait()


async def test_a_stream_that_breaks_off_is_seen_to() -> None:
    """A client can tell an answer that failed from one that ended."""
    async with serving() as server:
        answer = await server.ask(get("/broken"))
    assert b'{"line": 1}' in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_the_end_lets_open_requests_finish_and_idle_ones_go() -> None:
    """Who waits for an answer gets it when the server ends; who only keeps a connection is let go."""
    async with serving() as server:
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
        idle_writer.write(get("/things/a", more=""))
        await idle.readuntil(b'["a", {}]')
        busy, busy_writer = await asyncio.open_connection("127.0.0.1", server.port)
        busy_writer.write(get("/slow"))
        await server.has_begun.wait()
        asyncio.get_running_loop().call_soon(server.may_answer.set)
    assert b"at last" in await busy.read()
    assert await idle.read() == b""
    for writer in (idle_writer, busy_writer):
        writer.close()


async def test_the_end_waits_for_nobody_for_long() -> None:
    """A request that does not end is ended with the server."""
    with anyio.fail_after(10):
        async with serving() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get("/slow"))
            await server.has_begun.wait()
        await server.has_ended.wait()
    assert await reader.read() == b""
    writer.close()
