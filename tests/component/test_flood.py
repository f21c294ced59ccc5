"""What strangers send, on either socket: bounded in number, in time and in the log lines it causes."""

from __future__ import annotations

import logging
import os
import resource
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

from agent.base.paths import choose_looking_path
from agent.cli.client import Client, _UnixConnection
from agent.core.errors import AgentError
from agent.core.replace import replace
from agent.report.agent_counters import Counters
from agent.report.control.serve import LIMITS as CONTROL_LIMITS
from agent.report.control.serve import serve_control
from agent.report.endpoints.control import make_control_app
from agent.report.endpoints.http import make_app
from agent.report.http import exchange
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.certificates import Tls
from agent.report.serving.connections import Limits, share_descriptors
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from tests.component.test_control import ScriptedEngine
from tests.component.test_http import certificates  # noqa: F401 -- a fixture
from tests.unit.report.samples import READY, make_board

pytestmark = pytest.mark.anyio

PATIENT = Limits(at_once=8, request_s=600, idle_s=600, answer_s=600)
"""So that nothing ends but by what a test is about."""
NOBODY = 65534


class Face:
    """A face that is served, and what it counted."""

    def __init__(self) -> None:
        self.port = 0
        self.counted: Counter[str] = Counter()

    def count(self, _face: str, outcome: str) -> None:
        self.counted[outcome] += 1

    def connect(self, sent: bytes = b"") -> socket.socket:
        """Return a connection that has sent this and waits."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        sock.sendall(sent)
        return sock

    async def scrape(self, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http,
            http.get(f"http://127.0.0.1:{self.port}/metrics", headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    async def wait_counted(self, outcome: str, number: int) -> None:
        with anyio.fail_after(60):
            while self.counted[outcome] < number:  # noqa: ASYNC110 -- seen from outside, by asking
                await anyio.sleep(0.01)


@asynccontextmanager
async def serving(limits: Limits = PATIENT, tls: Tls | None = None, message: str = "") -> AsyncIterator[Face]:
    face = Face()
    board = make_board(READY)
    if message:
        board.publish(replace(READY, message=message))
    app = make_app(board, Exposition(board, Counters()))
    served = HttpFace(Server(app, limits, Tally("http", face.count)), Listen(port=0, tls=tls))
    async with anyio.create_task_group() as tasks:
        await tasks.start(served.run)
        face.port = served.port
        yield face
        tasks.cancel_scope.cancel()


async def is_closed(sock: socket.socket) -> bool:
    """Whether the agent ended the connection, whatever it said before."""

    def read_on() -> bool:
        try:
            while sock.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    return await anyio.to_thread.run_sync(read_on)


async def test_flood_leaves_room_for_whoever_asks() -> None:
    """Hundreds who send a byte and wait have so many connections at most, and a scrape is answered."""
    async with serving(replace(PATIENT, lobby=100)) as face:
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(closing(face.connect(b"G")))
            status, text = await face.scrape()
            await face.wait_counted("accepted", 301)
            assert (status, "ebs_agent_ready" in text) == (200, True)
            assert face.counted["evicted"] >= 300 - 100 - PATIENT.at_once
            assert face.counted["late"] == 0


@pytest.mark.parametrize("rest", [b"Content-Length: 9\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_who_keeps_a_body_back_makes_room(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head promises what does not come: that is as silent as a connection on which nothing was asked."""
    monkeypatch.setattr(exchange, "BODY_TIMEOUT_S", 600.0)
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + rest
    async with serving() as face:
        with ExitStack() as stack:
            for _ in range(2 * PATIENT.at_once):
                stack.enter_context(closing(face.connect(head)))
            await face.wait_counted("accepted", 2 * PATIENT.at_once)
            assert (await face.scrape())[0] == 200
        assert face.counted["evicted"] >= 1


ALIVE = b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"HEAD / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ALIVE + b"\0bad\r\n\r\n",
        b"\0bad\r\n\r\n",
    ],
)
async def test_what_is_refused_is_no_mistake_of_ours(sent: bytes) -> None:
    """Whatever was asked before, and whether or not its answer has a body."""
    async with serving() as face:
        with closing(face.connect(sent)) as sock:
            answer = await anyio.to_thread.run_sync(lambda: b"".join(iter(lambda: sock.recv(1 << 16), b"")))
    assert b"HTTP/1.1 " in answer
    assert answer.endswith(b"\r\n\r\n") == (b"HEAD / " in sent)
    assert face.counted == {"accepted": 1, "malformed": 1}


async def test_who_goes_before_the_refusal_is_no_mistake_of_ours() -> None:
    """Nonsense, and its end."""
    async with serving() as face:
        for _ in range(50):
            face.connect(b"\0bad\r\n\r\n").close()
        await face.wait_counted("malformed", 50)
        assert (await face.scrape())[0] == 200
    assert face.counted["failed"] == 0


async def test_who_sends_too_much_is_told(meeting_point: Path) -> None:
    """What still comes is thrown away, so that whoever sends it gets to the answer."""

    def ask() -> bytes:
        head = b"POST /v1/reload HTTP/1.1\r\nHost: agent\r\nContent-Length: 4000000\r\n\r\n"
        with closing(connect(meeting_point, head + b"x" * 4_000_000)) as sock:
            return sock.recv(1 << 16)

    async with controlling(meeting_point):
        assert b"more than 65536 bytes" in await anyio.to_thread.run_sync(ask)


async def test_flood_that_fits_is_not_turned_away() -> None:
    """Who is turned away comes again, which costs more than a descriptor: there are places, so nobody is."""
    async with serving() as face:
        with ExitStack() as stack:
            slow = [stack.enter_context(closing(face.connect(b"G"))) for _ in range(100)]
            await face.wait_counted("accepted", 100)
            assert (await face.scrape())[0] == 200
            # One of those that had been let in, for whoever asked.
            assert face.counted == {"accepted": 101, "evicted": 1}
            slow[-1].sendall(b"ET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in await anyio.to_thread.run_sync(slow[-1].recv, 1 << 16)


async def test_who_was_silent_longest_makes_room() -> None:
    """For a whole request the oldest connection that asks for nothing is closed, and nobody else."""
    async with serving() as face:
        with ExitStack() as stack:
            slow = [stack.enter_context(closing(face.connect(b"GET"))) for _ in range(PATIENT.at_once)]
            await face.wait_counted("accepted", PATIENT.at_once)
            assert (await face.scrape())[0] == 200
            assert await is_closed(slow[0])
            assert face.counted["evicted"] == 1


async def test_who_sends_nothing_keeps_nobody_out() -> None:
    """Connections on which nothing was sent take a descriptor, so many at most, and no place of an answer."""
    async with serving(replace(PATIENT, lobby=10)) as face:
        with ExitStack() as stack:
            silent = [stack.enter_context(closing(face.connect())) for _ in range(30)]
            await face.wait_counted("accepted", 30)
            assert await is_closed(silent[0])
            assert (await face.scrape())[0] == 200
            assert face.counted["evicted"] == 21
            silent[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in await anyio.to_thread.run_sync(silent[-1].recv, 1 << 16)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_who_does_not_ask_in_time_is_closed(sent: bytes) -> None:
    """A request has to come whole in its time, however few have a connection."""
    async with serving(Limits(request_s=0.1)) as face:
        with closing(face.connect(sent)) as slow:
            assert await is_closed(slow)
        assert face.counted["late"] == 1


async def test_idle_connection_is_kept_for_a_while_and_closed() -> None:
    """Between two requests a connection may be idle for its time, and no longer."""
    async with serving(Limits(request_s=0.05, idle_s=0.3)) as face:
        with closing(face.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")) as kept:
            assert await is_closed(kept)
        assert face.counted == {"accepted": 1, "late": 1}


async def test_answer_that_is_not_taken_ends() -> None:
    """Whoever asks for much and reads nothing does not keep what was to be sent for ever."""
    async with serving(Limits(request_s=0.1, answer_s=0.2), message="x" * (8 << 20)) as face:
        with closing(face.connect(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")):
            await face.wait_counted("late", 1)


async def test_no_descriptor_left_is_waited_out() -> None:
    """Where nothing can be accepted it is tried again after a while, told once, and then answered."""
    async with serving() as face:
        assert (await face.scrape())[0] == 200
        with capture_logs() as lines, no_descriptor_left():
            waiting = face.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await face.wait_counted("starved", 2)
        with closing(waiting):
            assert await is_closed(waiting)
        assert [line["event"] for line in lines] == ["connection.closed"]
        assert (await face.scrape())[0] == 200


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Have this process open all it may but one, for the client."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 20, limits[1]))
    with ExitStack() as stack:
        try:
            while True:
                stack.enter_context(Path("/dev/null").open("rb"))
        except OSError:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        highest = os.open("/dev/null", os.O_RDONLY)
        os.close(highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_face_that_failed_is_served_anew() -> None:
    """Whoever runs a face again after it ended has it answer as before."""
    board = make_board(READY)
    app = make_app(board, Exposition(board, Counters()))
    served = HttpFace(Server(app, HTTP_LIMITS, Tally("http")), Listen(port=0))
    face = Face()
    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            await tasks.start(served.run)
            face.port = served.port
            assert (await face.scrape())[0] == 200
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("allowed", [64, 256, 1024])
def test_volumes_have_most_descriptors(allowed: int) -> None:
    """However few a process may open, both faces together take a quarter of them."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, limits[1]))
    try:
        shares = [share_descriptors(Limits()), share_descriptors(CONTROL_LIMITS)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sum(share.at_once + share.lobby for share in shares) <= allowed / 4
    assert all(share.at_once >= 2 for share in shares)


async def test_what_is_no_request_is_counted_and_told_once() -> None:
    """A hundred malformed requests are a hundred in the metric and one line in the log, with no traceback."""
    senseless = (b"\x00\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]  # it keeps them
    logging.getLogger().addHandler(handler)
    try:
        async with serving() as face:
            with capture_logs() as lines:
                for number in range(100):
                    with closing(face.connect(senseless[number % 3])) as sock:
                        assert await is_closed(sock)
                await face.wait_counted("malformed", 100)
    finally:
        logging.getLogger().removeHandler(handler)
    assert [(line["event"], line["outcome"]) for line in lines] == [("connection.closed", "malformed")]
    assert "exc_info" not in lines[0]
    assert records == []


async def test_oversized_head_is_refused() -> None:
    """A request line or header without end is not kept until memory is."""
    async with serving() as face:
        for head in (b"GET /" + b"a" * 70000, b"GET / HTTP/1.1\r\nX: " + b"a" * 70000):
            with closing(face.connect(head)) as sock:
                assert await is_closed(sock)


# -- The host that is asked ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9842", "127.0.0.1.evil.example", ""])
async def test_other_names_are_not_answered(host: str) -> None:
    """A page whose host name was turned to this address reads nothing here."""
    async with serving() as face:
        status, text = await face.scrape(Host=host)
    assert status in {400, 421}
    assert "ebs_agent" not in text


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9842", "localhost", "LOCALHOST:1", "[::1]:9842", "10.0.0.1", socket.gethostname()]
)
async def test_own_names_are_answered(host: str) -> None:
    """Numbers, localhost and the host's own name are this node's."""
    async with serving() as face:
        assert (await face.scrape(Host=host))[0] == 200


# -- Names that are no text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/status.json", "/healthz", "/metrics"])
async def test_half_a_character_breaks_no_answer(path: str) -> None:
    """What others named, as a mount's source, may be no text; every page is answered all the same."""
    async with (
        serving(message="\udcff is mounted\x1b[2J there") as face,
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{face.port}{path}") as answer,
    ):
        assert answer.status == 200
        assert await answer.text()


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
async def test_hands_that_are_never_shaken_make_room(certificates: Path) -> None:  # noqa: F811
    """Who connects and does not begin TLS is one of those that make room."""
    tls = Tls(certificates / "server.pem", certificates / "server.key")
    async with serving(replace(PATIENT, lobby=10), tls) as face:
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(closing(face.connect(b"\x16")))
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"https://127.0.0.1:{face.port}/healthz", ssl=False) as answer,
            ):
                assert answer.status == 200
            assert face.counted["evicted"] >= 50 - 10 - PATIENT.at_once


# -- The control socket --------------------------------------------------------------------------------------


@contextmanager
def being(uid: int) -> Iterator[None]:
    """Have what connects meanwhile be another user's: the kernel notes who it was."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def meeting_point() -> Iterator[Path]:
    """Return the path of a socket that every user of this machine can get to."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "agent.sock"


@asynccontextmanager
async def controlling(path: Path, limits: Limits = CONTROL_LIMITS) -> AsyncIterator[Face]:
    face = Face()
    board = make_board(READY)
    async with anyio.create_task_group() as tasks:
        await tasks.start(
            serve_control, lambda: make_control_app(board, ScriptedEngine(board)), path, face.count, limits
        )
        os.chmod(path, 0o666)  # noqa: PTH101, S103 -- for the test's other user, and in no time
        yield face
        tasks.cancel_scope.cancel()


def connect(path: Path, sent: bytes = b"") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(str(path))
    sock.sendall(sent)
    return sock


WAIT = b"POST /v1/wait?names=nothing&timeout=600 HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n"
FOLLOW = b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: agent\r\n\r\n"
STATUS = b"GET /v1/status HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"


async def test_no_user_keeps_root_out(meeting_point: Path) -> None:
    """However many a user has open, for a day if they like, root is let in and answered."""
    async with controlling(meeting_point) as face:
        with ExitStack() as stack:
            with being(NOBODY):
                for _ in range(100):
                    stack.enter_context(closing(connect(meeting_point, FOLLOW)))
            await face.wait_counted("accepted", 100)
            with closing(connect(meeting_point, STATUS)) as root:
                answer = await anyio.to_thread.run_sync(root.recv, 1 << 16)
    assert b"200 OK" in answer
    assert face.counted["evicted"] + face.counted["refused"] == 100 - 16


async def test_root_is_let_in_over_the_number(meeting_point: Path) -> None:
    """Where every connection is taken by somebody who is served, root's is had at another's cost."""
    limits = Limits(at_once=4, each_user=4, others=4, answer_s=None)
    async with controlling(meeting_point, limits) as face:
        with ExitStack() as stack:
            with being(NOBODY):
                for _ in range(4):
                    stack.enter_context(closing(connect(meeting_point, FOLLOW)))
            await face.wait_counted("accepted", 4)
            with closing(connect(meeting_point, STATUS)) as root:
                assert b"200 OK" in await anyio.to_thread.run_sync(root.recv, 1 << 16)
    assert face.counted["evicted"] == 1


ORDERS = (
    "/v1/reload",
    "/v1/reconcile",
    "/v1/cloud/attach",
    "/v1/cloud/detach",
    "/v1/cloud/delete-snapshot",
    "/v1/cloud/none",
)
READING = (
    ("GET", "/v1/status"),
    ("GET", "/v1/status/checkpoints"),
    ("GET", "/v1/plan"),
    ("GET", "/v1/explain/checkpoints"),
    ("GET", "/v1/events"),
    ("POST", "/v1/wait"),
)


async def ask_as(uid: int, path: Path, method: str, target: str) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
    with being(uid):
        sock = connect(path, head.encode())

    def read() -> bytes:
        with closing(sock):
            return b"".join(iter(lambda: sock.recv(1 << 16), b""))

    return await anyio.to_thread.run_sync(read)


@pytest.mark.parametrize("target", ORDERS)
async def test_orders_are_root_s(meeting_point: Path, target: str) -> None:
    """Whoever may open the socket is refused each order with a sentence that names who may."""
    async with controlling(meeting_point):
        answer = await ask_as(NOBODY, meeting_point, "POST", target)
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"Only root may give the agent orders" in answer
    assert b'"exit_code": 5' in answer


@pytest.mark.parametrize(("method", "target"), READING)
async def test_looking_is_allowed(meeting_point: Path, method: str, target: str) -> None:
    """What changes nothing is answered to all who may open the socket."""
    async with controlling(meeting_point):
        answer = await ask_as(NOBODY, meeting_point, method, target)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("method", "target"), READING)
async def test_who_may_only_look_looks_at_the_other_socket(
    meeting_point: Path, method: str, target: str
) -> None:
    """What changes nothing is answered there, too."""
    looking = choose_looking_path(meeting_point)
    async with controlling(meeting_point):
        os.chmod(looking, 0o666)  # noqa: PTH101, S103 -- as above
        assert (await ask_as(NOBODY, looking, method, target)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("target", ORDERS)
async def test_where_people_look_no_order_is_taken(meeting_point: Path, target: str) -> None:
    """Not even root's, who is told where orders are taken."""
    async with controlling(meeting_point):
        answer = await ask_as(0, choose_looking_path(meeting_point), "POST", target)
    assert answer.startswith(b"HTTP/1.1 403")
    assert f"Orders are taken at {meeting_point}, from root.".encode() in answer
    assert b'"exit_code": 5' in answer


async def test_commands_choose_the_socket_they_may_use(meeting_point: Path) -> None:
    """Whoever may not open root's looks at the other; who may open neither is told whom they are for."""
    looking = choose_looking_path(meeting_point)
    async with controlling(meeting_point):
        for path in (meeting_point, looking):
            os.chmod(path, 0o600)  # noqa: PTH101 -- in no time
        with being(NOBODY), pytest.raises(AgentError, match="You may not talk to the agent"):
            Client(meeting_point).status()
        os.chmod(looking, 0o666)  # noqa: PTH101, S103 -- as above
        connection = _UnixConnection(meeting_point, 30)
        with being(NOBODY):
            connection.connect()
        with closing(connection):
            connection.request("POST", "/v1/reload")
            answer = await anyio.to_thread.run_sync(lambda: connection.getresponse().read())
    assert b"Only root may give the agent orders" in answer


async def test_root_gives_orders(meeting_point: Path) -> None:
    """Root's orders are taken as before."""
    async with controlling(meeting_point):
        assert (await ask_as(0, meeting_point, "POST", "/v1/reload")).startswith(b"HTTP/1.1 200")
        assert (await ask_as(0, meeting_point, "POST", "/v1/reconcile")).startswith(b"HTTP/1.1 202")


async def test_body_without_end_is_refused(meeting_point: Path) -> None:
    """An order has so many bytes at most."""
    head = b"POST /v1/reconcile HTTP/1.1\r\nHost: agent\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100000
    async with controlling(meeting_point):
        sock = connect(meeting_point, head)
        with closing(sock):
            assert b"more than 65536 bytes" in await anyio.to_thread.run_sync(sock.recv, 1 << 16)
