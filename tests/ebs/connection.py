"""One TCP connection: bytes in, commands out, answers back.

Owns framing, transfers of data in both directions, and the account of commands in flight. Whatever a host
sends that makes no sense ends this connection with a reason, in the log and on the wire, and touches no
other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from tests.ebs import fabrics, pdu
from tests.ebs.controller import Controller
from tests.ebs.errors import CommandError, FatalStatus, ProtocolError, Status
from tests.ebs.fabrics import Connect
from tests.ebs.pdu import PduType
from tests.ebs.request import Request

# mypy: disable-error-code="explicit-override"
# (`override` is in the standard library from Python 3.12 on, and this package has no other dependency.)

log = logging.getLogger(__name__)

_HEADER_BYTES = pdu.COMMON_HEADER.size
_BUFFER_BYTES = 64 << 10
_BATCH_BYTES = 64 << 10
_WAITING_BYTES = 4 << 20
_SETUP_S = 10.0
_TERMINATION_S = 5.0
_EVERY_HEAD = 0xFFFF  # what a Connect without flow control is answered with


class Directory(Protocol):
    """Where a connection finds the controller its host asks for."""

    def open_queue(self, connect: Connect, connection: Connection) -> Controller: ...


class Connection(asyncio.BufferedProtocol):
    """The target's end of one connection, which carries one queue of one controller once it is set up."""

    def __init__(self, directory: Directory, lost: Callable[[Connection], None]) -> None:
        self._directory = directory
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._peer = "?"
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # of the bytes received and not yet taken
        self._payload: memoryview | None = None  # what is still missing of an H2CData PDU
        self._payload_request: Request | None = None
        self._is_receiving = False
        self._answers: list[bytes | bytearray] = []  # not yet given to the transport
        self._answer_bytes = 0
        self._is_initialized = False
        self._is_terminated = False
        self._is_paused = False
        self._controller: Controller | None = None
        self._queue_id = 0
        self._queue_entries = 1
        self._queue_head = 0
        self._has_flow_control = True
        self._requests: dict[int, Request] = {}
        self._transfers: dict[int, Request] = {}  # by tag: commands whose data the host was asked for
        self._timer: asyncio.TimerHandle | None = None

    # asyncio's face

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer = "{}:{}".format(*transport.get_extra_info("peername")[:2])
        # Answers of several reads may wait; more of them than a full queue of small ones pauses the host.
        transport.set_write_buffer_limits(high=_WAITING_BYTES)
        loop = asyncio.get_running_loop()
        self._watch(loop.call_later(_SETUP_S, self.close, "no queue was connected in time"))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._view[self._end :] if self._payload is None else self._payload

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_terminated:
            return
        self._is_receiving = True
        try:
            if self._payload is None:
                self._end += nbytes
            else:
                self._advance_payload(nbytes)
            self._take_pdus()
        except ProtocolError as error:
            self._terminate(error)
        except Exception:
            log.exception("%s: the target failed; the connection ends", self._peer)
            self.close("the target failed")
        finally:
            self._is_receiving = False
            self._flush_answers()

    def eof_received(self) -> None:
        """Let the transport close."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(None)
        self._abandon_requests()
        controller, self._controller = self._controller, None
        if controller is not None:
            log.info(
                "%s: %s queue %d closed: %s",
                self._peer,
                controller.name,
                self._queue_id,
                exc or "by the host",
            )
            controller.remove_queue(self._queue_id)
        self._lost(self)

    def pause_writing(self) -> None:
        """Take no more commands from a host that does not take its answers."""
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._transport is None or self._transport.is_closing():
            return
        self.buffer_updated(0)  # commands may have come already
        if not self._is_paused:
            self._transport.resume_reading()

    # The controller's face

    def close(self, reason: str) -> None:
        """Cut the connection now; what is still in flight is never answered."""
        if self._transport is not None and not self._transport.is_closing():
            log.info("%s: closed: %s", self._peer, reason)
            self._transport.abort()
        self._abandon_requests()

    def find_request(self, command_id: int) -> Request | None:
        return self._requests.get(command_id)

    # Receiving

    def _take_pdus(self) -> None:
        while not self._is_paused and self._payload is None and self._end - self._start >= _HEADER_BYTES:
            header = pdu.parse_header(self._view, self._start)
            if header.kind == PduType.HOST_DATA:
                if self._end - self._start < header.data_offset:
                    break
                self._begin_payload(header)
                continue
            if self._end - self._start < header.pdu_bytes:
                break
            start = self._start
            self._start += header.pdu_bytes
            self._take_pdu(header, self._view[start : self._start])
            if self._transport is None or self._transport.is_closing():
                return
        self._compact()

    def _compact(self) -> None:
        """Move what is left to the buffer's beginning, so that there is always room for a whole capsule."""
        left = self._end - self._start
        if left and self._start:
            self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left

    def _take_pdu(self, header: pdu.Header, view: memoryview) -> None:
        if header.kind == PduType.HOST_TERMINATION:
            self.close(pdu.describe_termination(view))
        elif header.kind == PduType.CONNECTION_REQUEST:
            if self._is_initialized:
                raise ProtocolError(FatalStatus.SEQUENCE, "a second connection request")
            pdu.check_connection_request(view)
            self._is_initialized = True
            self._write(pdu.pack_connection_response())
        elif not self._is_initialized:
            raise ProtocolError(FatalStatus.SEQUENCE, "a command before the connection request")
        else:
            self._take_command(header, view)

    def _take_command(self, header: pdu.Header, view: memoryview) -> None:
        request = Request(view[8 : pdu.COMMAND_BYTES], self)
        if len(self._requests) >= self._queue_entries:
            raise ProtocolError(FatalStatus.LIMIT_EXCEEDED, "more commands than the queue has entries")
        if request.command_id in self._requests:
            raise ProtocolError(FatalStatus.SEQUENCE, f"command ID {request.command_id} is still in use")
        self._requests[request.command_id] = request
        capsule = view[header.data_offset :] if header.pdu_bytes > pdu.COMMAND_BYTES else view[:0]
        try:
            request.check_data_pointer(len(capsule), pdu.MAX_TRANSFER_BYTES)
        except CommandError as error:
            request.finish(error.status)
            return
        if not request.takes_data:
            self._dispatch(request)
        elif request.is_data_in_capsule:
            request.data = bytes(capsule[request.sgl_address : request.sgl_address + request.sgl_bytes])
            self._dispatch(request)
        else:
            request.data = bytearray(request.sgl_bytes)
            tag = request.command_id  # as good a tag as any: it is unique while the transfer lasts
            self._transfers[tag] = request
            self._write(pdu.pack_ready_to_transfer(request.command_id, tag, 0, request.sgl_bytes))

    def _begin_payload(self, header: pdu.Header) -> None:
        piece = pdu.parse_data_header(self._view, self._start, header)
        request = self._transfers.get(piece.transfer_tag)
        if request is None or request.command_id != piece.command_id:
            raise ProtocolError(FatalStatus.SEQUENCE, f"H2CData nobody asked for, tag {piece.transfer_tag}")
        end = piece.offset + piece.data_bytes
        if piece.offset != request.received_bytes or end > len(request.data):
            raise ProtocolError(FatalStatus.OUT_OF_RANGE, f"H2CData of bytes {piece.offset} to {end}")
        if piece.is_last != (end == len(request.data)):
            raise ProtocolError(FatalStatus.SEQUENCE, "the last H2CData is not marked so, or another is")
        self._start += header.data_offset
        self._payload = memoryview(request.data)[piece.offset : end]  # a bytearray since R2T was sent
        self._payload_request = request
        have = min(self._end - self._start, piece.data_bytes)
        self._payload[:have] = self._view[self._start : self._start + have]
        self._start += have
        if have < piece.data_bytes:
            self._compact()
        self._advance_payload(have)

    def _advance_payload(self, count: int) -> None:
        request, payload = self._payload_request, self._payload
        assert request is not None
        assert payload is not None
        request.received_bytes += count
        if count < len(payload):
            self._payload = payload[count:]
            return
        self._payload = self._payload_request = None
        if request.received_bytes == len(request.data):
            del self._transfers[request.command_id]
            self._dispatch(request)

    def _dispatch(self, request: Request) -> None:
        try:
            if self._controller is None:
                self._connect_queue(request)
            elif self._queue_id == 0:
                self._controller.submit_admin(request)
            else:
                self._controller.submit(request)
        except CommandError as error:
            request.finish(error.status, result=error.result)

    def _connect_queue(self, request: Request) -> None:
        if not request.is_fabrics or request.fabrics_type != fabrics.CONNECT:
            raise ProtocolError(FatalStatus.SEQUENCE, "a command before Connect")
        connect = fabrics.parse_connect(request)
        controller = self._directory.open_queue(connect, self)
        self._watch(None)
        self._controller = controller
        self._queue_id, self._queue_entries = connect.queue_id, connect.queue_entries
        self._has_flow_control = connect.has_flow_control
        request.finish(result=controller.controller_id)

    # Sending

    def answer(self, request: Request, status: int, result: int) -> None:
        del self._requests[request.command_id]
        head = self._next_head()
        self._write(pdu.pack_response(result, head, self._queue_id, request.command_id, status))

    def answer_with_data(self, request: Request, frame: bytearray, data_bytes: int) -> None:
        """Send the data that stands in ``frame``, and the response behind it where it must be said."""
        del self._requests[request.command_id]
        head = self._next_head()
        pdu.pack_data_header_into(
            frame, request.command_id, data_bytes, is_success=not self._has_flow_control
        )
        end = pdu.DATA_HEADER_BYTES + data_bytes
        if self._has_flow_control:
            frame[end:] = pdu.pack_response(0, head, self._queue_id, request.command_id, Status.SUCCESS)
        else:
            del frame[end:]
        self._write(frame)

    def _next_head(self) -> int:
        if not self._has_flow_control:
            return _EVERY_HEAD
        self._queue_head = (self._queue_head + 1) % self._queue_entries
        return self._queue_head

    def _write(self, frame: bytes | bytearray) -> None:
        """Send, together with the other answers to what was received in one piece: a system call is dear."""
        self._answers.append(frame)
        self._answer_bytes += len(frame)
        if not self._is_receiving or self._answer_bytes >= _BATCH_BYTES:
            self._flush_answers()

    def _flush_answers(self) -> None:
        answers, self._answers, self._answer_bytes = self._answers, [], 0
        if answers and self._transport is not None and not self._transport.is_closing():
            self._transport.write(answers[0] if len(answers) == 1 else b"".join(answers))

    # Ending

    def _terminate(self, error: ProtocolError) -> None:
        log.warning("%s: malformed input ends the connection: %s", self._peer, error)
        offending = bytes(
            self._view[self._start : min(self._end, self._start + pdu.CONNECTION_REQUEST_BYTES)]
        )
        self._write(pdu.pack_termination(error, offending))
        self._abandon_requests()
        # Closing now, with bytes of the host's unread, would reset the connection and could take the reason
        # with it. So what still comes is thrown away until the host closes, as it must.
        self._is_terminated = True
        self._payload = None
        self._start = self._end = 0
        self._flush_answers()
        if self._transport is not None:
            self._transport.write_eof()
            loop = asyncio.get_running_loop()
            self._watch(loop.call_later(_TERMINATION_S, self.close, "the host did not close it"))

    def _watch(self, timer: asyncio.TimerHandle | None) -> None:
        """Have one timer at a time: for set-up, or for the end."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _abandon_requests(self) -> None:
        requests, self._requests = self._requests, {}
        self._transfers.clear()
        for request in requests.values():
            if self._controller is None:
                request.is_abandoned = True
            else:
                self._controller.volume.abandon(request)
