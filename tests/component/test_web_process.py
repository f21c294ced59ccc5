"""The face in a process of its own: what it answers, what it may, what whoever takes it over can reach."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

from agent.core.errors import AgentError
from agent.core.model import Condition
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.endpoints.http import make_app
from agent.report.feed.frames import HEAD, FeedError, Setup, encode, frame
from agent.report.feed.mirror import Mirror
from agent.report.feed.teller import Source, Teller
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.certificates import Tls
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from agent.report.web import process as web_process
from agent.report.web import reader as web_reader
from agent.report.web.process import PROGRAM, WebProcess
from agent.report.web.reader import FeedReader, receive_setup
from tests.agent_process import reserve_port
from tests.component import faces
from tests.component.test_http import certificates  # noqa: F401 -- a fixture
from tests.unit.report.samples import CHECKPOINTS, READY, make_board, make_status
from tests.waiting import until

pytestmark = pytest.mark.anyio

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@dataclass
class Face:
    """A board and the process that shows it."""

    board: Board
    web: WebProcess
    http: HttpFace
    told: list[int] = field(default_factory=list)
    """The length of each frame but the first."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.port}"

    def connect(self) -> socket.socket:
        """Connect, so that a process is started; send nothing."""
        return socket.create_connection(("127.0.0.1", self.http.port))


@asynccontextmanager
async def serving(
    program: tuple[str, ...] = PROGRAM, listen: Listen | None = None, message: str = ""
) -> AsyncIterator[Face]:
    board = make_board(READY)
    if message:
        board.publish(make_status(message=message))
    told: list[int] = []

    class Noted(Teller):
        def tell(self) -> bytes:
            content = super().tell()
            told.append(len(content))
            return content

    source = Source(board, Counters().registry, lambda _: (), lambda: 0)
    web = WebProcess(lambda: Noted(source), program=program)
    face = HttpFace(web, listen or Listen(port=0))
    async with anyio.create_task_group() as tasks:
        await tasks.start(face.run)
        yield Face(board, web, face, told)
        tasks.cancel_scope.cancel()


def read_pid(face: Face) -> int | None:
    return face.web.pid


async def get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        is_json = answer.content_type == "application/json"
        return answer.status, await (answer.json() if is_json else answer.text())


# -- What it answers -----------------------------------------------------------------------------------------


async def test_answers_are_as_the_board_is_when_asked() -> None:
    """Nothing is started before somebody connects, and each answer shows what was so when it was asked."""
    async with serving() as face:
        assert read_pid(face) is None
        for _ in range(10):
            face.board.publish(make_status(condition=Condition.LOST))
            assert (await get(f"{face.url}/healthz"))[0] == 503
            face.board.publish(READY)
            assert (await get(f"{face.url}/healthz"))[0] == 200
        _, page = await get(f"{face.url}/")
        assert "checkpoints" in page
        _, metrics = await get(f"{face.url}/metrics")
        assert f'volume_id="{CHECKPOINTS}"' in metrics
        assert 'ebs_agent_connections_total{face="http",outcome="accepted"} 22.0' in metrics
        assert read_pid(face) is not None
    assert read_pid(face) is None


async def test_a_process_that_was_killed_is_started_for_the_next_who_asks() -> None:
    """The port stays held meanwhile, and whoever connects is answered."""
    async with serving() as face:
        assert (await get(f"{face.url}/healthz"))[0] == 200
        first = face.web.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert (await get(f"{face.url}/healthz"))[0] == 200
        assert face.web.pid not in {first, None}


async def test_the_process_ends_with_the_daemon() -> None:
    """One that the daemon closed the feed to is gone when the face is, and holds the port no longer."""
    port = reserve_port()
    async with serving(listen=Listen(port=port)) as face:
        assert (await get(f"{face.url}/healthz"))[0] == 200
        pid = face.web.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid or 0, 0)
    socket.create_server(("127.0.0.1", port)).close()


async def test_another_address_is_another_process() -> None:
    """Who has the old address is told no more; the new one answers."""
    ports = reserve_port(), reserve_port()
    async with serving(listen=Listen(port=ports[0])) as face:
        assert (await get(f"{face.url}/healthz"))[0] == 200
        face.http.apply(Listen(port=ports[1]))
        await until(lambda: face.http.port == ports[1])
        assert (await get(f"{face.url}/healthz"))[0] == 200

        def is_refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", ports[0])).close()
            except ConnectionRefusedError:
                return True
            return False

        await until(is_refused)


@pytest.mark.needs("openssl")
async def test_a_renewed_certificate_is_shown(
    certificates: Path,  # noqa: F811 -- the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process is handed what the files hold, and another one is when they hold something else."""
    monkeypatch.setattr("agent.report.serving.doors.RENEWAL_S", 0.05)
    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem")

    def install(name: str) -> bytes:
        tls.key.write_bytes((certificates / f"{name}.key").read_bytes())
        text = (certificates / f"{name}.pem").read_text()
        tls.cert.write_text(text)
        return ssl.PEM_cert_to_DER_cert(text)

    async def shows(expected: bytes) -> None:
        def read() -> bytes:
            pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=30)
            return ssl.PEM_cert_to_DER_cert(pem)

        with anyio.fail_after(60):
            while await anyio.to_thread.run_sync(read) != expected:  # noqa: ASYNC110 -- seen from outside
                await anyio.sleep(0.02)

    server, port = install("server"), reserve_port()
    async with serving(listen=Listen(port=port, tls=tls)):
        await shows(server)
        await shows(install("client"))


async def test_a_silent_daemon_is_said_to_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shown that nobody vouches for: all paths answer 503 with a sentence."""
    monkeypatch.setattr(web_reader, "TIMEOUT_S", 0.05)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    mirror = Mirror()
    reader = FeedReader(ours, mirror)
    app = make_app(mirror, Exposition(mirror, Counters()), refresh=reader.refresh)
    with theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.run)
            http = HttpFace(Server(app, HTTP_LIMITS, Tally("http")), Listen(port=0))
            await tasks.start(http.run)
            for path in ("/healthz", "/livez", "/metrics", "/", "/status.json"):
                status, answer = await get(f"http://127.0.0.1:{http.port}{path}")
                assert (status, answer["ready"]) == (503, False)
                assert "has not said how its volumes are" in answer["error"]
            tasks.cancel_scope.cancel()


# -- What it is told -----------------------------------------------------------------------------------------


def test_a_feed_without_a_socket_is_none() -> None:
    """The first frame brings the listening socket, whole, or the process ends with a sentence."""
    setup = frame(encode(Setup("1")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for sent, fds in ((setup, []), (setup[:9], [listener.fileno()]), (b"", [])):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                if sent:
                    socket.send_fds(theirs, [sent], fds)
                theirs.shutdown(socket.SHUT_WR)
                with pytest.raises(FeedError):
                    receive_setup(ours)


@pytest.mark.parametrize("sent", [b"\xff" * 64, frame(b"\xc1"), frame(b""), frame(encode(Setup("1")))])
async def test_what_does_not_fit_ends_the_reader(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        theirs.sendall(sent)
        with pytest.raises(AgentError):
            await FeedReader(ours, Mirror()).run()


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", HEAD.pack(100) + b"\x81"])
async def test_a_feed_that_is_cut_off_ends_the_reader(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(sent)
    theirs.close()
    with anyio.fail_after(60):
        await FeedReader(ours, Mirror()).run()


# -- Who has taken it over -----------------------------------------------------------------------------------

TAKEN = """
import os, socket, sys, time
feed = socket.socket(fileno=0)
"""


def take_over(code: str) -> tuple[str, ...]:
    """Return a program in the place of the face's, as whoever has taken that over would have it do."""
    return sys.executable, "-c", TAKEN + code


async def outlive(face: Face, is_enough: Callable[[], bool]) -> None:
    """See that volumes go on while the process does what it does for somebody connected."""
    with face.connect():
        await faces.outlive(face.board, is_enough)


async def test_bytes_without_end_are_a_wish_to_be_told_and_no_more() -> None:
    """Whatever is sent, and however much: it is told what is so, now and then, and changes nothing."""
    code = """
import threading
threading.Thread(target=lambda: [feed.sendall(os.urandom(65536)) for _ in iter(int, 1)], daemon=True).start()
while feed.recv(1 << 20):
    pass
"""
    async with serving(take_over(code)) as face:
        await outlive(face, lambda: len(face.told) > 20)
        assert face.web.pid is not None


async def test_who_takes_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon keeps one frame for it, and not for long."""
    monkeypatch.setattr(web_process, "SEND_S", 0.2)
    code = """
while True:
    feed.sendall(b"x")
    time.sleep(0.01)
"""
    with capture_logs() as logs:
        async with serving(take_over(code), message="x" * (4 << 20)) as face:
            await outlive(face, lambda: any(line["event"] == "web.stuck" for line in logs))
            assert len(face.told) <= 2


async def test_who_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs is one that does not ask, and another takes its place."""
    monkeypatch.setattr(web_process, "SILENCE_S", 0.2)
    monkeypatch.setattr(web_process, "GRACE_S", 0.1)
    with capture_logs() as logs:
        async with serving(take_over("time.sleep(1e6)")) as face:
            await outlive(face, lambda: [line["event"] for line in logs].count("web.stuck") >= 2)


@pytest.mark.parametrize(
    "code",
    [
        "feed.recv(2); os._exit(0)",
        "feed.sendall(b'?'); feed.recv(7); os.kill(os.getpid(), 9)",
        "feed.shutdown(socket.SHUT_RDWR); time.sleep(1e6)",
        "os.close(0); time.sleep(1e6)",
        "os.abort()",
        "sys.stderr.write('x\\n' * (1 << 16)); sys.exit(3)",
    ],
)
async def test_who_ends_in_the_middle_is_started_anew(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it ends, or pretends to, whoever connects next starts another, after a pause."""
    monkeypatch.setattr(web_process, "SILENCE_S", 0.5)
    monkeypatch.setattr(web_process, "GRACE_S", 0.1)
    monkeypatch.setattr(web_process, "RETRY_S", (0.01,))
    async with serving(take_over(code)) as face:
        pids: set[int | None] = set()

        def is_enough() -> bool:
            pids.add(face.web.pid)
            return len(pids - {None}) >= 3

        await outlive(face, is_enough)


async def test_who_asks_without_end_for_memory_is_refused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has bound itself before it hears a word of strangers: it ends, and nobody else does."""
    monkeypatch.setattr(web_process, "RETRY_S", (0.01,))
    code = faces.make_memory_bomb("agent.report.web.main", 64)
    with capture_logs() as logs:
        async with serving(take_over(code)) as face:
            await outlive(face, lambda: any(line["event"] == "web.ended" for line in logs))
    codes = [line["code"] for line in logs if line["event"] == "web.ended"]
    assert 1 < codes[0] < 64


async def test_a_program_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_process, "RETRY_S", (0.01,))
    with capture_logs() as logs:
        async with serving(("/nonexistent/python",)) as face:
            await outlive(face, lambda: any(line["event"] == "web.unavailable" for line in logs))


# -- What it may ---------------------------------------------------------------------------------------------


@is_root
async def test_it_is_nobody() -> None:
    """No capability, no group, no way to get one, no file of the agent's: sockets, and bounded memory."""
    async with serving() as face:
        assert (await get(f"{face.url}/healthz"))[0] == 200
        faces.check_is_nobody(face.web.pid, address_space_bytes=512 << 20, oom_score=500)
