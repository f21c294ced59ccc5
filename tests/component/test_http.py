"""The read-only HTTP face on a real TCP port, with and without TLS."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import pytest

from agent.errors import AgentError
from agent.model import Condition
from agent.report.board import Board
from agent.report.counters import Counters
from agent.report.http import Listen, Tls, make_app, serve_http
from agent.report.metrics import Exposition
from tests.unit.report.samples import CHECKPOINTS, READY, REFUSED, make_board, make_status

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(board: Board, tls: Tls | None = None) -> AsyncIterator[str]:
    app = make_app(board, Exposition(board, Counters()))
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(serve_http, app, Listen(port=0, tls=tls))
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
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
            await serve_http(make_app(make_board(), Exposition(make_board(), Counters())), Listen(port=port))
    assert "agent.http.listen" in str(caught.value.hint)


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


@pytest.mark.needs("openssl")
async def test_unusable_certificate_names_its_file(certificates: Path) -> None:
    """A certificate that cannot be read or does not fit its key is an error that names the file."""
    for cert, key in (("none.pem", "server.key"), ("server.pem", "client.key")):
        tls = Tls(certificates / cert, certificates / key)
        with pytest.raises(AgentError, match=cert):
            await serve_http(
                make_app(make_board(), Exposition(make_board(), Counters())), Listen(port=0, tls=tls)
            )
