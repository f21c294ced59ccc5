"""One client: its requests one after the other, each whole before it is looked at.

Bounded whatever is sent: the head, the body, and what comes while an answer is on the way. A client that
goes away, or says that it has no more to say, has its request cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import anyio
import h11
from typing_extensions import override

from agent.core.errors import AgentError, InvalidValueError
from agent.report.http.app import App, answer_error, parse_target
from agent.report.http.messages import Answer, Peer, Request
from agent.report.serving.connections import LINGER_S, Connections
from agent.report.serving.flood_log import Outcome, Tally
from agent.report.serving.peer import Connection

if TYPE_CHECKING:
    import ssl

MAX_HEAD_BYTES = 32 << 10
MAX_BODY_BYTES = 64 << 10
MAX_AHEAD_BYTES = MAX_HEAD_BYTES + MAX_BODY_BYTES
"""Of requests that were sent while one before them is being answered."""
BODY_TIMEOUT_S = 10.0


class NotUnderstoodError(InvalidValueError):
    """What was sent is no request, or more than is taken."""


class Exchange(asyncio.Protocol):
    """What is said on one connection. It is the asyncio protocol, the stream, and the task that answers."""

    def __init__(self, connection: Connection, app: App, connections: Connections, tally: Tally) -> None:
        self._connection = connection
        self._app = app
        self._connections = connections
        self._tally = tally
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._transport: asyncio.Transport | None = None
        self._scope = anyio.CancelScope()
        self._peer = Peer()
        self._unparsed = bytearray()
        self._heard = anyio.Event()
        self._is_gone = self._is_working = self._is_head = False
        self._is_deaf = False
        """What still comes is thrown away."""
        self._may_write = anyio.Event()
        self._may_write.set()

    # -- The transport's side --------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._connection.transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unparsed += data
        self._heard.set()
        self._bound_ahead()

    def _bound_ahead(self) -> None:
        """Read no more than can be kept. While a request is worked at, its client's end is to be heard."""
        if self._transport is None or len(self._unparsed) <= MAX_AHEAD_BYTES:
            return
        if self._is_working:
            self._tally.note(Outcome.MALFORMED)
            self._connection.drop()
        else:
            self._transport.pause_reading()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._is_gone = True
        self._heard.set()
        self._may_write.set()
        self._scope.cancel()

    @override
    def pause_writing(self) -> None:
        self._may_write = anyio.Event()

    @override
    def resume_writing(self) -> None:
        self._may_write.set()

    # -- The task's side -------------------------------------------------------------------------------------

    @property
    def is_answering(self) -> bool:
        return self._connection.is_answered

    def end(self) -> None:
        """Have it end, whatever it does, but for what may not be left half done."""
        self._scope.cancel()

    async def run(self, context: ssl.SSLContext | None = None) -> None:
        """Answer until the client has gone, or has been answered all it asked. Raises no Exception."""
        try:
            with self._scope:
                if not await self._begin(context):
                    return
                while await self._answer_one():
                    self._http.start_next_cycle()
                    await self._may_write.wait()
                await self._linger()
        except ConnectionError:
            pass  # whoever asked has gone
        except Exception as error:  # noqa: BLE001 -- it ends one connection, and no other
            self._tally.note(Outcome.FAILED, error)
        finally:
            if self._transport is None:
                self._connection.sock.close()
            else:
                self._transport.close()

    async def _begin(self, context: ssl.SSLContext | None) -> bool:
        """Have what is sent come here, and the peer known, where hands are to be shaken first and were."""
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, self._connection.sock, ssl=context
            )
        except OSError as error:  # ssl.SSLError is one
            self._tally.note(Outcome.MALFORMED, error)
            return False
        address = transport.get_extra_info("sockname")
        self._peer = Peer(
            self._connection.uid,
            bool(transport.get_extra_info("peercert")),
            address[0] if isinstance(address, tuple) else None,
        )
        return True

    async def _answer_one(self) -> bool:
        """Answer one request; returns whether another may follow it."""
        self._is_head = False
        try:
            head = await self._hear()
            if not isinstance(head, h11.Request):
                return False
            self._is_head = head.method == b"HEAD"
            _check_version(head)
            # Whoever keeps its end back is silent, as one who asks nothing is, and makes room.
            body = await self._take_body()
            self._connections.begin_answer(self._connection)
            try:
                await self._answer(head, body)
            finally:
                self._connections.end_answer(self._connection)
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            self._refuse(NotUnderstoodError(f"The request was not understood: {error}."), status)
        except NotUnderstoodError as error:
            self._refuse(error)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _answer(self, head: h11.Request, body: bytes) -> None:
        path, query = parse_target(head.target.decode("latin-1"))
        method = head.method.decode("latin-1")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        request = Request(method, path, self._peer, self._open_stream, query, headers, body)
        try:
            answer = await self._work(request)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 -- whoever asked is told, and the log
            self._tally.note(Outcome.FAILED, error)
            answer = answer_error(AgentError(f"The agent failed at this ({type(error).__name__})."))
        if answer is not None and answer.status is HTTPStatus.MISDIRECTED_REQUEST:
            self._tally.note(Outcome.MISDIRECTED)
        if self._http.our_state is h11.SEND_RESPONSE:
            self._send(answer or Answer(b""))
        elif answer is None:
            self._put(self._http.send(h11.EndOfMessage()))
        else:
            self._connection.drop()  # it failed in its middle, which its end must not hide

    async def _work(self, request: Request) -> Answer | None:
        self._is_working = True
        try:
            self._bound_ahead()
            return await self._app.answer(request)
        finally:
            self._is_working = False

    async def _take_body(self) -> bytes:
        """Return the body once it is whole, or raise NotUnderstoodError."""
        body = bytearray()
        with anyio.move_on_after(BODY_TIMEOUT_S):
            while True:
                if self._http.they_are_waiting_for_100_continue:
                    self._put(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
                event = await self._hear()
                if not isinstance(event, h11.Data):
                    return bytes(body)
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise _not_understood(f"it has more than {MAX_BODY_BYTES} bytes")
        raise _not_understood(f"it did not come within {BODY_TIMEOUT_S:g} s")

    async def _hear(self) -> h11.Event | None:
        """Return what comes next of a request, once it has come; None where nothing can.

        Raises h11.RemoteProtocolError if it is none.
        """
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event if isinstance(event, h11.Event) else None
            while not self._unparsed:
                if self._is_gone:
                    raise ConnectionResetError
                self._heard = anyio.Event()
                await self._heard.wait()
            # Not all at once: h11 keeps what it is given, and what is no head is told by its first bytes.
            self._http.receive_data(bytes(self._unparsed[:MAX_HEAD_BYTES]))
            del self._unparsed[:MAX_HEAD_BYTES]
            if self._transport is not None and len(self._unparsed) <= MAX_AHEAD_BYTES:
                self._transport.resume_reading()

    def _refuse(self, error: AgentError, status: HTTPStatus | None = None) -> None:
        """Answer what was no request, after which nothing on this connection can be."""
        self._tally.note(Outcome.MALFORMED)
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._send(answer_error(error, status), is_last=True)

    def _send(self, answer: Answer, *, is_last: bool = False) -> None:
        """Send it whole; whether and when it is taken is no longer part of the answer."""
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
        if is_last:
            headers.append(("Connection", "close"))
        sent = self._http.send(self._make_head(answer.status, headers)) or b""
        if answer.body and not self._is_head:
            sent += self._http.send(h11.Data(data=answer.body)) or b""
        self._put(sent + (self._http.send(h11.EndOfMessage()) or b""))

    async def _open_stream(self, content_type: str) -> Exchange:
        self._put(self._http.send(self._make_head(HTTPStatus.OK, [("Content-Type", content_type)])))
        return self

    def _make_head(self, status: HTTPStatus, headers: list[tuple[str, str]]) -> h11.Response:
        headers += self._app.headers.items()
        return h11.Response(status_code=status, headers=headers, reason=status.phrase)

    async def write(self, chunk: bytes) -> None:
        """Send a part of an answer that goes on, once the client has taken enough of those before."""
        if not self._is_head:
            self._put(self._http.send(h11.Data(data=chunk)))
        await self._may_write.wait()

    def _put(self, sent: bytes | None) -> None:
        if self._is_gone or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        if sent:
            self._transport.write(sent)

    async def _linger(self) -> None:
        """Let the client take its answer though it has not said all: closed at once, it might be lost."""
        if self._http.their_state in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED} and not self._unparsed:
            return
        self._is_deaf = True
        self._unparsed.clear()
        if self._transport is not None:
            self._transport.resume_reading()
            if self._transport.can_write_eof():
                with contextlib.suppress(OSError):  # whoever asked has gone
                    self._transport.write_eof()
        with anyio.move_on_after(LINGER_S):
            await anyio.sleep_forever()


def _check_version(head: h11.Request) -> None:
    if head.http_version not in {b"1.0", b"1.1"}:
        raise h11.RemoteProtocolError("it is of another HTTP", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)


def _not_understood(why: str) -> NotUnderstoodError:
    return NotUnderstoodError(f"The request was not understood: {why}.")
