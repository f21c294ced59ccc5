"""What other processes tell: the AWS worker, the cluster's file, instance metadata, and whoever connects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import strategies as st
from msgspec import to_builtins

from agent.cloud.aws.all_calls import ALL_CALLS
from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.call import Call
from agent.cloud.aws_worker.answer_lines import GarbledError, Reply, decode_reply, read_failure
from agent.cloud.aws_worker.client import _explain_misread
from agent.cloud.errors.explain import explain_failure, explain_unread
from agent.cloud.identity import whoami
from agent.cloud.orders.request_fields import (
    check_request,
    find_volume,
    parse_snapshot_id,
    read_modification,
    read_new_volume,
)
from agent.cloud.orders.routes import OrderTaker, _find_order, add_cloud_routes
from agent.core.errors import AgentError, ExitCode
from agent.core.model import VolumeId
from agent.core.units import parse_size
from agent.policy import Policy
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.control.serve import serve_control
from agent.report.endpoints.control import make_control_app
from agent.report.endpoints.http import make_app
from agent.report.http.app import App
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from tests.component.test_control import ScriptedEngine
from tests.fuzz.conftest import Fuzz, check_answer, check_error
from tests.fuzz.mutation import mutate_bytes, mutate_json
from tests.fuzz.samples import IDENTITY_DOCUMENT, REPLIES, REQUESTS, RESOURCE_CONFIG, VOLUME, WORDS
from tests.unit.report.samples import READY, REFUSED, make_board


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


# -- The worker ----------------------------------------------------------------------------------------------


def _check_reply(content: bytes) -> None:
    """As the client does with the line of every call there is."""
    try:
        reply = decode_reply(content)
    except GarbledError as error:
        check_error(AgentError(str(error)))
        return
    for call in ALL_CALLS:
        _check_call(call.__new__(call), reply)


def _check_call(call: Call[Any], reply: Reply) -> None:
    try:
        if reply.answer is None:
            check_error(explain_failure(read_failure(call.service, call.operation, reply.failure), VOLUME))
        else:
            said = call.parse(reply.answer)
            json.dumps(said, default=str).encode("utf-8")
            for one in said if isinstance(said, tuple) else ():
                if isinstance(one, Unread):
                    check_error(explain_unread(one))
    except AgentError as error:
        check_error(_explain_misread(call, error.message))


def test_worker(fuzz: Fuzz) -> None:
    """A line of the worker's is an answer, a failure, not understood, or garbled."""
    lines = [_encode(reply) for reply in REPLIES]
    fuzz(_check_reply, st.one_of(mutate_json(REPLIES).map(_encode), mutate_bytes(lines)))


# -- Who this node is ----------------------------------------------------------------------------------------


def _check_finding(finding: whoami.SourceAnswer) -> None:
    if finding.problem is not None:
        check_error(AgentError(finding.problem))
    json.dumps(to_builtins(finding), default=str)
    whoami.merge([finding])


def test_resource_config(fuzz: Fuzz) -> None:
    """The cluster's file says who this node is, or what is wrong with the file."""
    documents = mutate_json([RESOURCE_CONFIG]).map(_encode)
    fuzz(
        lambda content: _check_finding(whoami.parse_resource_config(content, {"10.0.0.1"})),
        st.one_of(documents, mutate_bytes([_encode(RESOURCE_CONFIG)])),
    )


def test_identity_document(fuzz: Fuzz) -> None:
    """Instance metadata says who this node is, or what is wrong with what it said."""

    def check(content: bytes) -> None:
        document, _, partition = content.partition(b"\n\n")
        _check_finding(whoami.parse_identity_document(document, partition.decode("ascii", "replace")))

    documents = mutate_json([IDENTITY_DOCUMENT]).map(lambda told: _encode(told) + b"\n\naws")
    fuzz(check, st.one_of(documents, mutate_bytes([_encode(IDENTITY_DOCUMENT) + b"\n\naws-cn"])))


# -- Orders --------------------------------------------------------------------------------------------------


def _check_words(content: bytes) -> None:
    """As whoever takes orders does: none is read that its own check refused."""
    name, _, text = content.partition(b" ")
    order, words = name.decode("utf-8", "replace"), json.loads(text)
    board = make_board(READY, REFUSED)
    _find_order(order)
    check_request(order, words)
    for read in (
        lambda: find_volume(board, str(words.get("volume", ""))),
        lambda: parse_snapshot_id(words.get("snapshot")),
        lambda: parse_size(str(words.get("size", ""))),
        lambda: read_new_volume(words),
        lambda: read_modification(VolumeId(VOLUME), words),
    ):
        check_answer(read)


def test_words(fuzz: Fuzz) -> None:
    """The words of an order are understood, or refused in words."""
    orders = st.sampled_from([order for order, _ in WORDS] + ["x", ""])
    words = mutate_json([words for _, words in WORDS]).filter(lambda made: isinstance(made, dict))
    fuzz(_check_words, st.tuples(orders, words).map(lambda made: made[0].encode() + b" " + _encode(made[1])))


# -- Whoever connects ----------------------------------------------------------------------------------------


def _make_control(board: Board) -> App:
    async def prepare(_tell: object) -> Any:
        raise AgentError("AWS is switched off here.", exit_code=ExitCode.REFUSED)

    app = make_control_app(board, ScriptedEngine(board))
    policy = Policy(version=1, classes={})
    add_cloud_routes(app, OrderTaker(board, prepare, lambda _: None, lambda: policy))
    return app


Address = Path | tuple[str, int]
KNOWN = REQUESTS[0], b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def served(short_path: Path) -> Iterator[tuple[Address, Address]]:
    """Serve both faces, from an event loop of its own: the control socket and a port."""
    path = short_path / "agent.sock"
    board = make_board(READY, REFUSED)
    app = make_app(board, Exposition(board, Counters()))
    http = HttpFace(Server(app, HTTP_LIMITS, Tally("http")), Listen(port=0))
    has_begun = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        ending = anyio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(ending.set))
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_control, lambda: _make_control(board), path)
            await tasks.start(http.run)
            has_begun.set()
            await ending.wait()
            tasks.cancel_scope.cancel()

    thread = threading.Thread(target=anyio.run, args=(serve,), name="served")
    thread.start()
    assert has_begun.wait(60)
    yield path, ("127.0.0.1", http.port)
    stop[0]()
    thread.join(60)


def _ask(address: Address, request: bytes, patience_s: float = 0.02) -> bytes:
    """Send bytes, and no more once nothing came back for a moment; return all that comes back."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(60)
        connection.connect(str(address) if isinstance(address, Path) else address)
        answer = b""
        is_ended = False
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
            while True:
                if not is_ended and not select.select([connection], [], [], patience_s)[0]:
                    # Half a request, or a connection kept for the next one: either could be waited for long.
                    is_ended = True
                    connection.shutdown(socket.SHUT_WR)
                chunk = connection.recv(1 << 16)
                if not chunk:
                    break
                answer += chunk
                assert len(answer) < 1 << 22, "an answer without end"
    return answer


@pytest.mark.parametrize("face", [0, 1], ids=["control", "http"])
def test_requests(fuzz: Fuzz, served: tuple[Address, Address], face: int) -> None:
    """Whatever bytes connect, what comes back is an answer, or nothing; and the next one is answered."""

    def check(content: bytes) -> None:
        answer = _ask(served[face], content)
        if b" 500 " in answer.partition(b"\r\n")[0]:
            assert b'"error"' in answer, answer[:300]
        else:
            assert not answer or answer.startswith(b"HTTP/"), answer[:300]
        assert _ask(served[face], KNOWN[face], 60).startswith(b"HTTP/1.1 200"), "nobody answers any more"

    # Those that wait for events would wait for ever.
    requests = mutate_bytes(REQUESTS).filter(lambda request: b"follow" not in request)
    fuzz(check, st.one_of(requests, st.binary(max_size=200)))
