"""The read-only HTTP face on a real TCP port, with and without TLS."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

from agent.base.off_loop import do_here
from agent.core.errors import AgentError
from agent.core.model import Condition, Process
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.endpoints.http import make_app
from agent.report.http import serve
from agent.report.http.app import App
from agent.report.http.messages import Answer, Request
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.certificates import Tls, make_server_tls
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen, open_listener
from agent.report.serving.validity import find_expiry
from tests.agent_process import reserve_port
from tests.unit.report.samples import CHECKPOINTS, READY, REFUSED, make_board, make_status
from tests.waiting import until as wait_until

pytestmark = pytest.mark.anyio


def make_face(board: Board, listen: Listen) -> HttpFace:
    app = make_app(board, Exposition(board, Counters()))
    return HttpFace(Server(app, HTTP_LIMITS, Tally("http")), listen)


@asynccontextmanager
async def serving(board: Board, tls: Tls | None = None) -> AsyncIterator[str]:
    face = make_face(board, Listen(port=0, tls=tls))
    async with anyio.create_task_group() as tasks:
        await tasks.start(face.run)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{face.port}"
        tasks.cancel_scope.cancel()


async def test_scrape_is_what_prometheus_reads() -> None:
    """``/metrics`` answers the text format, and OpenMetrics to those who ask for it."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with serving(make_board(READY)) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/metrics") as plain:
            assert plain.headers["Content-Type"].startswith("text/plain; version=")
            assert f'volume_id="{CHECKPOINTS}"' in await plain.text()
        async with http.get(f"{url}/metrics", headers=accept) as modern:
            assert (await modern.text()).rstrip().endswith("# EOF")


async def test_health_turns_with_the_required_volumes() -> None:
    """``/healthz`` is 503 naming what is missing, and 200 once it is there."""
    board = make_board(make_status(condition=Condition.PREPARING), is_looked_at=False)
    async with serving(board) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/livez") as alive:
            assert (alive.status, (await alive.json())["alive"]) == (200, True)
        async with http.get(f"{url}/healthz") as early:
            assert early.status == 503
            assert (await early.json())["first_look_done"] is False
        board.finish_first_look()
        async with http.get(f"{url}/healthz") as waiting:
            assert waiting.status == 503
            assert [v["name"] for v in (await waiting.json())["waiting"]] == ["checkpoints"]
        board.publish(READY)
        async with http.get(f"{url}/healthz") as ready:
            assert ready.status == 200


async def test_page_shows_text_as_text() -> None:
    """What a volume is called cannot become markup, and the page loads nothing."""
    board = make_board(make_status(REFUSED, name="<script>alert(1)</script>"))
    async with serving(board) as url, aiohttp.ClientSession() as http, http.get(url) as page:
        text = await page.text()
        policy = page.headers["Content-Security-Policy"]
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert "Volume datasets holds data." in text
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/v1/reload", "/v1/reconcile"])
async def test_nothing_can_be_changed(method: str, path: str) -> None:
    """The TCP face answers questions only; the control socket's requests do not exist on it."""
    async with (
        serving(make_board(READY)) as url,
        aiohttp.ClientSession() as http,
        http.request(method, f"{url}{path}") as answer,
    ):
        assert answer.status in {404, 405}


async def test_port_in_use_is_said() -> None:
    """An address that cannot be listened on names itself and the key of the policy to change."""
    async with serving(make_board()) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(AgentError, match=f"127.0.0.1:{port}") as caught:
            open_listener(Listen(port=port))
    assert "agent.http.listen" in str(caught.value.hint)


async def test_who_has_the_port_is_said() -> None:
    """The log names the process and the user that listen in the agent's place, who may be anybody."""
    with closing(socket.create_server(("127.0.0.1", 0))) as squatter:
        listen = Listen(port=squatter.getsockname()[1])
        with capture_logs() as logs:
            async with running(listen) as face:
                assert face.port == 0
    (line,) = [line for line in logs if line["event"] == "http.unavailable"]
    assert f"(process {os.getpid()}) of user {pwd.getpwuid(os.geteuid()).pw_name}" in line["error"]
    assert "ebs-agent status" in line["hint"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a CA with a server's and a client's certificate, and a stranger's self-signed one."""
    where = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=where, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for ca in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}")
    (where / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", "san",
        )  # fmt: skip
    return where


def ask_by_tls(url: str, context: ssl.SSLContext) -> bytes:
    """Return the first bytes of the answer to a request, nothing where there is none. Blocks."""
    port = int(url.rpartition(":")[2])
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return secure.recv(64)
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.mark.needs("openssl")
async def test_only_vouched_clients_are_answered(certificates: Path) -> None:
    """With a client CA, a client with its certificate is answered, and others get nothing."""
    tls = Tls(certificates / "server.pem", certificates / "server.key", certificates / "ca.pem")
    async with serving(make_board(READY), tls) as url:
        answers = {}
        for name in ("nobody", "stranger", "client"):
            context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
            if name != "nobody":
                context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
            answers[name] = await anyio.to_thread.run_sync(ask_by_tls, url, context)
    assert (answers["nobody"], answers["stranger"]) == (b"", b"")
    assert b"200 OK" in answers["client"]


PRIVATE = ("sagemaker-node", "123456789012", "python3 (pid 77", "bob", "token=abc")
"""Of the node's role, of processes in the way, and of a hook."""


def make_telling_board() -> Board:
    """Return a board on which a volume's status and an event hold what is not for everybody."""
    role = "arn:aws:sts::123456789012:assumed-role/sagemaker-node/i-0"
    refused = make_status(
        condition=Condition.REFUSED,
        message=f"vol-0 is in use by {Process(77, 'python3', 'bob').describe()}.",
        hint=f"Give {role} the permission.",
    )
    board = make_board(refused)
    board.record(EventName.HOOK_FAILED, CHECKPOINTS, hook="10-tell", error="ended with 3: token=abc")
    return board


def ask_whole(url: str, path: str, context: ssl.SSLContext) -> str:
    """Return a whole answer over TLS. Blocks."""
    with (
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return b"".join(iter(lambda: secure.recv(1 << 16), b"")).decode()


@pytest.mark.parametrize("path", ["/", "/status.json", "/healthz", "/metrics"])
async def test_what_is_not_for_everybody_is_withheld(path: str) -> None:
    """Where anybody may ask, no role, account, process, user or word of a hook is in any answer."""
    async with (
        serving(make_telling_board()) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}{path}") as answer,
    ):
        text = await answer.text()
    assert [word for word in PRIVATE if word in text] == []
    assert ("is in use by" in text) == (path != "/metrics")


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("has_authority", [True, False])
async def test_vouched_clients_are_shown_all(certificates: Path, *, has_authority: bool) -> None:
    """With a client CA all is shown, since all who get in are known; TLS alone makes nobody known."""
    ca = certificates / "ca.pem"
    tls = Tls(certificates / "server.pem", certificates / "server.key", ca if has_authority else None)
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    async with serving(make_telling_board(), tls) as url:
        text = await anyio.to_thread.run_sync(ask_whole, url, "/status.json", context)
    assert [word in text for word in PRIVATE] == [has_authority] * len(PRIVATE)


@pytest.mark.needs("openssl")
async def test_unusable_certificate_names_its_file(certificates: Path) -> None:
    """A certificate that cannot be read or does not fit its key is an error that names the file."""
    for cert, key in (("none.pem", "server.key"), ("server.pem", "client.key")):
        tls = Tls(certificates / cert, certificates / key)
        with pytest.raises(AgentError, match=cert):
            await make_server_tls(tls, do_here)


@pytest.mark.needs("openssl")
async def test_expiry_is_told_of_the_certificate_that_is_shown(certificates: Path) -> None:
    """Of the one in use, though its file cannot be read any more; none once none is shown."""
    told: list[float | None] = []
    cert = certificates / "server.pem"
    tls = Tls(cert, certificates / "server.key")
    server = Server(make_app(make_board(READY), Exposition(Board(), Counters())), HTTP_LIMITS, Tally("http"))
    face = HttpFace(server, Listen(port=0, tls=tls), note_expiry=told.append)
    whole = cert.read_bytes()
    shown = find_expiry(whole)
    assert shown is not None
    async with anyio.create_task_group() as tasks:
        await tasks.start(face.run)
        cert.write_text("nothing")
        face.apply(Listen(port=0, tls=tls))
        await wait_until(lambda: len(told) > 1)
        face.apply(Listen(port=0))
        await wait_until(lambda: len(told) > 2)
        tasks.cancel_scope.cancel()
    cert.write_bytes(whole)
    assert told == [shown, shown, None]


LARGE = b"x" * (32 << 20)
"""More than any socket takes at once."""


async def test_an_answer_under_way_gets_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the server leaves a client the moment it needs to take what was sent."""
    monkeypatch.setattr(serve, "CLOSE_TIMEOUT_S", 60.0)

    async def answer(_: Request) -> Answer:
        return Answer(LARGE)

    app = App(lambda _: None)
    app.add("GET", "/", answer)
    listener = open_listener(Listen(port=0))
    begun = anyio.Event()
    taken: list[bytes] = []

    def take() -> None:
        with socket.create_connection(listener.getsockname(), timeout=60) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            taken.append(sock.recv(1))
            anyio.from_thread.run_sync(begun.set)
            taken.extend(iter(lambda: sock.recv(1 << 16), b""))

    async with (
        anyio.create_task_group() as outside,
        Server(app, HTTP_LIMITS, Tally("http")) as server,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve, listener)
        outside.start_soon(anyio.to_thread.run_sync, take)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert b"".join(taken).endswith(b"\r\n\r\n" + LARGE)


# -- Reload --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(listen: Listen) -> AsyncIterator[HttpFace]:
    face = make_face(make_board(READY), listen)
    async with anyio.create_task_group() as tasks:
        await tasks.start(face.run)
        yield face
        tasks.cancel_scope.cancel()


async def answers(url: str) -> bool:
    """Whether there is an answer, and not a refusal."""
    async with aiohttp.ClientSession() as http:
        try:
            async with http.get(f"{url}/healthz", ssl=False) as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(20):
        while not await is_so():  # noqa: ASYNC110 -- seen from outside, by asking
            await anyio.sleep(0.02)


def read_certificate(port: int) -> bytes:
    """Return what the server shows. Blocks."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=5))


async def test_a_changed_address_takes_effect() -> None:
    """After a reload the new address answers and the old one does not; who was connected stays so."""
    ports = reserve_port(), reserve_port()
    first, second = (f"http://127.0.0.1:{port}" for port in ports)
    async with running(Listen(port=ports[0])) as face, aiohttp.ClientSession() as http:
        assert await answers(first)
        async with http.get(f"{first}/healthz") as kept:
            assert kept.status == 200
        face.apply(Listen(port=ports[1]))
        await until(lambda: answers(second))
        await until(lambda: _not(answers(first)))
        # On the connection that was kept, since a new one is refused.
        async with http.get(f"{first}/healthz") as kept:
            assert kept.status == 200


async def _not(question: Awaitable[bool]) -> bool:
    return not await question


async def test_one_address_becomes_all_and_one_again() -> None:
    """Two addresses that overlap cannot both be had, so the old one goes first, and comes back if need be."""
    port = reserve_port()
    async with running(Listen(port=port)) as face:
        face.apply(Listen("0.0.0.0", port))  # noqa: S104 -- loopback is one of them
        await until(lambda: answers(f"http://127.0.0.2:{port}"))
        face.apply(Listen("127.0.0.1", port))
        await until(lambda: _not(answers(f"http://127.0.0.2:{port}")))
        assert await answers(f"http://127.0.0.1:{port}")
        face.apply(Listen("192.0.2.1", port))  # nobody's
        with capture_logs() as lines:
            await until(lambda: _is_told(lines))
        assert await answers(f"http://127.0.0.1:{port}")


async def _is_told(lines: Sequence[Mapping[str, object]]) -> bool:
    return any(line["event"] == "http.unavailable" for line in lines)


async def test_an_address_that_cannot_be_had_leaves_the_old_one() -> None:
    """The reason is logged with a hint, the old address goes on, and the next reload is a new try."""
    with socket.create_server(("127.0.0.1", 0)) as taken, capture_logs() as lines:
        port = taken.getsockname()[1]
        async with running(Listen(port=0)) as face:
            old = face.port
            face.apply(Listen(port=port))
            await until(lambda: _is_told(lines))
            assert await answers(f"http://127.0.0.1:{old}")
            taken.close()
            face.apply(Listen(port=port))
            await until(lambda: answers(f"http://127.0.0.1:{port}"))
    (told,) = lines
    assert str(port) in told["error"]
    assert "agent.http.listen" in told["hint"]


@pytest.mark.needs("openssl")
async def test_renewed_certificates_are_taken_up(certificates: Path, tmp_path: Path) -> None:
    """A reload reads the files again at once, by the same names; one that is no good leaves the old."""
    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem")

    def install(name: str) -> None:
        tls.cert.write_bytes((certificates / f"{name}.pem").read_bytes())
        tls.key.write_bytes((certificates / f"{name}.key").read_bytes())

    def expected(name: str) -> bytes:
        return ssl.PEM_cert_to_DER_cert((certificates / f"{name}.pem").read_text())

    async def shows(port: int, name: str) -> bool:
        return await anyio.to_thread.run_sync(read_certificate, port) == expected(name)

    install("server")
    listen = Listen(port=reserve_port(), tls=tls)
    async with running(listen) as face:
        assert await shows(listen.port, "server")
        install("client")
        assert await shows(listen.port, "server"), "not at once"
        face.apply(listen)
        await until(lambda: shows(listen.port, "client"))
        tls.key.write_text("not a key")
        with capture_logs() as lines:
            face.apply(listen)
            await until(lambda: _is_told(lines))
        assert "cert.pem" in lines[0]["error"]
        assert await shows(listen.port, "client")
        face.apply(Listen(port=listen.port))
        await until(lambda: answers(f"http://127.0.0.1:{listen.port}"))


@pytest.mark.needs("openssl")
async def test_renewed_certificates_are_noticed(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reload, files that were renewed are shown before long, and another authority is believed."""
    monkeypatch.setattr("agent.report.serving.doors.RENEWAL_S", 0.05)
    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")

    def install(name: str, authority: str) -> None:
        tls.key.write_bytes((certificates / f"{name}.key").read_bytes())
        tls.cert.write_bytes((certificates / f"{name}.pem").read_bytes())
        (tmp_path / "ca.pem").write_bytes((certificates / f"{authority}.pem").read_bytes())

    async def is_answered(name: str) -> bool:
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        answer = await anyio.to_thread.run_sync(ask_by_tls, f"https://127.0.0.1:{listen.port}", context)
        return b" 200 " in answer

    install("server", "ca")
    listen = Listen(port=reserve_port(), tls=tls)
    async with running(listen):
        assert await is_answered("client")
        assert not await is_answered("stranger")
        install("server", "stranger")
        await until(lambda: is_answered("stranger"))
        assert not await is_answered("client")
