"""Clients of the control socket that send what no command of the agent would, or take nothing."""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent.report.board.events import EventName
from agent.report.board.volume_status import VolumeStatus
from agent.report.control.serve import serve_control
from agent.report.endpoints.control import make_control_app
from agent.report.http import exchange
from tests.component.test_control import ScriptedEngine
from tests.component.test_flood import (
    FOLLOW,
    NOBODY,
    STATUS,
    being,
    connect,
    controlling,
    meeting_point,  # noqa: F401 -- a fixture
)
from tests.unit.report.samples import READY, make_board

pytestmark = pytest.mark.anyio

POST = b"POST /v1/reconcile HTTP/1.1\r\nHost: agent\r\n"
KEPT = b"GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n"
RELOAD = b"POST /v1/reload HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n"


class SlowEngine(ScriptedEngine):
    """Plans without end, and reloads once it may."""

    def __init__(self) -> None:
        super().__init__(make_board(READY))
        self.began = anyio.Event()
        self.may_end = anyio.Event()
        self.ended: list[str] = []
        self.over = anyio.Event()

    async def plan(self) -> tuple[VolumeStatus, ...]:
        self.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.ended.append("cancelled")
            self.over.set()
        return ()

    async def reload(self) -> tuple[str, ...]:
        self.began.set()
        try:
            await self.may_end.wait()
            self.ended.append("reloaded")
        finally:
            self.over.set()
        return ()


@asynccontextmanager
async def serving(engine: ScriptedEngine, path: Path) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(serve_control, lambda: make_control_app(engine.board, engine), path)
        with anyio.fail_after(60):
            yield
        tasks.cancel_scope.cancel()


async def read_all(sock: socket.socket) -> bytes:
    def read() -> bytes:
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))

    return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)


async def ask(path: Path, sent: bytes) -> bytes:
    """Return all that comes back until the agent ends the connection."""
    with closing(connect(path, sent)) as sock:
        return await read_all(sock)


async def test_requests_sent_at_once_are_answered_in_turn(tmp_path: Path) -> None:
    """Each gets its own answer, the last one's head ending the connection."""
    path = tmp_path / "a.sock"
    async with serving(ScriptedEngine(make_board(READY)), path):
        answer = await ask(path, KEPT + KEPT + STATUS)
    assert answer.count(b"HTTP/1.1 200") == 3


async def test_a_body_in_chunks_is_a_body(tmp_path: Path) -> None:
    """What comes in pieces, however small, is put together before it is looked at."""
    path = tmp_path / "a.sock"
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(ScriptedEngine(make_board(READY)), path):
        answer = await ask(path, head + b"1\r\n{\r\n" + b"1\r\n}\r\n" + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\0\xff\x16\x03\r\n\r\n", b"400"),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v1/status HTTP/9.9\r\nHost: agent\r\n\r\n", b"505"),
        (b"GET /" + b"x" * 100_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: agent\r\n" + b"a: b\r\n" * 20_000, b"431"),
        (POST + b"Content-Length: -1\r\n\r\n", b"400"),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n" + b"x" * 100_000, b"404"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 100_000, b"431"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 70_000, b"404"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", b"501"),
    ],
)
async def test_what_is_no_request_is_answered_and_ended(tmp_path: Path, sent: bytes, status: bytes) -> None:
    """The answer is an error in words, the connection is over, and the next one is answered."""
    path = tmp_path / "a.sock"
    engine = ScriptedEngine(make_board(READY))
    async with serving(engine, path):

        def exchange_bytes() -> bytes:
            with closing(connect(path)) as sock:
                with suppress(BrokenPipeError, ConnectionResetError):
                    sock.sendall(sent)
                return b"".join(iter(lambda: sock.recv(1 << 16), b""))

        answer = await anyio.to_thread.run_sync(exchange_bytes, abandon_on_cancel=True)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert json.loads(body)["error"].startswith("The request was not understood: ")
        assert b"200 OK" in await ask(path, STATUS)
    assert engine.woken == []


async def test_a_body_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has so long, and then whoever sent the head is told."""
    monkeypatch.setattr(exchange, "BODY_TIMEOUT_S", 0.05)
    path = tmp_path / "a.sock"
    async with serving(ScriptedEngine(make_board(READY)), path):
        assert b"did not come within 0.05 s" in await ask(path, POST + b"Content-Length: 5\r\n\r\n{")


async def test_a_client_that_goes_away_is_worked_for_no_longer(tmp_path: Path) -> None:
    """Its request is cancelled, also where it only said that it has no more to say."""
    path = tmp_path / "a.sock"
    for how in (socket.socket.close, lambda sock: sock.shutdown(socket.SHUT_WR)):
        engine = SlowEngine()
        async with serving(engine, path):
            with closing(connect(path, b"GET /v1/plan HTTP/1.1\r\nHost: agent\r\n\r\n")) as sock:
                await engine.began.wait()
                how(sock)
                await engine.over.wait()
        assert engine.ended == ["cancelled"]


async def test_a_reload_is_not_left_half_done(tmp_path: Path) -> None:
    """It goes on to its end though whoever asked has gone away meanwhile."""
    path = tmp_path / "a.sock"
    engine = SlowEngine()
    async with serving(engine, path):
        with closing(connect(path, RELOAD)):
            await engine.began.wait()
        assert b"200 OK" in await ask(path, STATUS)  # by now its end was seen
        engine.may_end.set()
        await engine.over.wait()
    assert engine.ended == ["reloaded"]


async def test_a_flood_of_requests_behind_one_is_ended(
    meeting_point: Path,  # noqa: F811 -- a fixture
) -> None:
    """While one is worked at, what is kept of those sent after it is bounded."""
    async with controlling(meeting_point) as face:
        with closing(connect(meeting_point, FOLLOW)) as sock:

            def flood() -> None:
                while True:
                    sock.sendall(KEPT * 1000)

            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await anyio.to_thread.run_sync(flood, abandon_on_cancel=True)
        assert face.counted["malformed"] == 1


async def test_a_reader_that_does_not_read_is_kept_little_for(tmp_path: Path) -> None:
    """Events without end are not heaped up for it: what it is behind by is kept once, in the history."""
    path = tmp_path / "a.sock"
    engine = ScriptedEngine(make_board(READY))
    async with serving(engine, path):
        with closing(connect(path, FOLLOW)) as slow:
            await anyio.to_thread.run_sync(slow.recv, 1)
            for _ in range(50):
                for number in range(200):
                    engine.board.record(EventName.POLICY_REJECTED, path="x" * 500, error=str(number))
                assert b"200 OK" in await ask(path, STATUS)
            assert 0 < max(exchange_buffers()) <= 128 << 10


def exchange_buffers() -> list[int]:
    """Return how many bytes wait for each client of this process to take them."""
    found = [one for one in gc.get_objects() if isinstance(one, exchange.Exchange)]
    transports = [one._transport for one in found if one._transport is not None]
    return [transport.get_write_buffer_size() for transport in transports if not transport.is_closing()]


async def test_two_thousand_of_one_user_leave_root_its_place(
    meeting_point: Path,  # noqa: F811 -- a fixture
) -> None:
    """However many connect one after the other, no more than sixteen are kept, and root is answered."""
    async with controlling(meeting_point) as face:
        with ExitStack() as stack:

            def connect_many(count: int) -> None:
                for _ in range(count):
                    stack.enter_context(closing(connect(meeting_point, KEPT)))

            for _ in range(10):
                with being(NOBODY):
                    await anyio.to_thread.run_sync(connect_many, 200)
                assert b"200 OK" in await ask(meeting_point, STATUS)
            await face.wait_counted("accepted", 2010)
    assert face.counted["evicted"] + face.counted["refused"] >= 2000 - 16
    assert face.counted["failed"] == 0
