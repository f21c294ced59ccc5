"""The PDUs of NVMe/TCP: bytes to values and back, and the rules a PDU's header must keep.

Pure: no sockets, no state. Source: NVM Express TCP Transport Specification 1.0, section 3.6. Header and data
digests are never offered, so their flag bits are errors here.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from tests.ebs.errors import FatalStatus, ProtocolError

COMMON_HEADER = struct.Struct("<BBBBI")
_CONNECTION_REQUEST = struct.Struct("<8xHBBI112x")
_CONNECTION_RESPONSE = struct.Struct("<BBBBIHBBI112x")
_TERMINATION = struct.Struct("<BBBBIHI10x")
_DATA = struct.Struct("<BBBBIHHIIxxxx")
_RESPONSE = struct.Struct("<BBBBIQHHHH")

CONNECTION_REQUEST_BYTES = 128
COMMAND_BYTES = 72  # common header and submission queue entry
DATA_HEADER_BYTES = 24
RESPONSE_BYTES = 24

IN_CAPSULE_BYTES = 8192  # what Linux sends with the command on the admin queue whatever we say
MAX_TRANSFER_BYTES = 256 << 10  # EBS's own largest I/O; larger ones are split by the host
_MAX_CAPSULE_BYTES = 255 * 4 + COMMAND_BYTES + IN_CAPSULE_BYTES  # with the most padding a host can ask for
_MAX_TERMINATION_BYTES = 152


class PduType(IntEnum):
    """What a PDU is: the first byte of its header."""

    CONNECTION_REQUEST = 0
    CONNECTION_RESPONSE = 1
    HOST_TERMINATION = 2
    CONTROLLER_TERMINATION = 3
    COMMAND = 4
    RESPONSE = 5
    HOST_DATA = 6
    CONTROLLER_DATA = 7
    READY_TO_TRANSFER = 9


class Flag(IntEnum):
    """Bits of a PDU's second byte."""

    HEADER_DIGEST = 1
    DATA_DIGEST = 2
    LAST = 4
    SUCCESS = 8


class Header(NamedTuple):
    """The eight bytes every PDU begins with; lengths in bytes."""

    kind: int
    flags: int
    header_bytes: int
    data_offset: int
    pdu_bytes: int


class DataHeader(NamedTuple):
    """Header of H2CData: which transfer, and which bytes of it, the PDU carries."""

    command_id: int
    transfer_tag: int
    offset: int
    data_bytes: int
    is_last: bool


_HEADER_BYTES: dict[int, int] = {
    PduType.CONNECTION_REQUEST: CONNECTION_REQUEST_BYTES,
    PduType.HOST_TERMINATION: 24,
    PduType.COMMAND: COMMAND_BYTES,
    PduType.HOST_DATA: DATA_HEADER_BYTES,
}


def parse_header(buffer: memoryview, offset: int) -> Header:
    """Return the common header at ``offset``; raise ProtocolError where no PDU of a host begins like this."""
    header = Header(*COMMON_HEADER.unpack_from(buffer, offset))
    kind, flags, header_bytes, data_offset, pdu_bytes = header
    expected = _HEADER_BYTES.get(kind)
    if expected is None:
        raise ProtocolError(FatalStatus.INVALID_HEADER, f"PDU type {kind:#x} is not one a host sends")
    if header_bytes != expected:
        raise ProtocolError(
            FatalStatus.INVALID_HEADER,
            f"header of PDU type {kind:#x} is {header_bytes} bytes, not {expected}",
            field_offset=2,
        )
    if flags & (Flag.HEADER_DIGEST | Flag.DATA_DIGEST):
        raise ProtocolError(
            FatalStatus.INVALID_HEADER, "PDU claims a digest nobody agreed on", field_offset=1
        )
    if kind == PduType.HOST_DATA:
        if data_offset < header_bytes or pdu_bytes <= data_offset:
            raise ProtocolError(FatalStatus.INVALID_HEADER, "H2CData without data", field_offset=3)
    elif kind == PduType.COMMAND:
        _check_capsule(header)
    elif not header_bytes <= pdu_bytes <= max(header_bytes, _MAX_TERMINATION_BYTES):
        raise ProtocolError(
            FatalStatus.INVALID_HEADER, f"PDU type {kind:#x} of {pdu_bytes} bytes", field_offset=4
        )
    return header


def _check_capsule(header: Header) -> None:
    if not header.header_bytes <= header.pdu_bytes <= _MAX_CAPSULE_BYTES:
        raise ProtocolError(
            FatalStatus.INVALID_HEADER, f"command capsule of {header.pdu_bytes} bytes", field_offset=4
        )
    has_data = header.pdu_bytes > header.header_bytes
    if has_data and not header.header_bytes <= header.data_offset <= header.pdu_bytes:
        raise ProtocolError(
            FatalStatus.INVALID_HEADER,
            f"data offset {header.data_offset} is outside the capsule",
            field_offset=3,
        )


def check_connection_request(pdu: memoryview) -> None:
    """Raise ProtocolError where an ICReq asks for what this target does not speak."""
    version, alignment, digests, _max_transfers = _CONNECTION_REQUEST.unpack_from(pdu)
    if version != 0:
        raise ProtocolError(FatalStatus.UNSUPPORTED, f"PDU format version {version}", field_offset=8)
    if alignment != 0:
        raise ProtocolError(FatalStatus.UNSUPPORTED, f"data alignment {alignment}", field_offset=10)
    if digests != 0:
        raise ProtocolError(FatalStatus.UNSUPPORTED, f"digests {digests:#x} are not offered", field_offset=11)


def pack_connection_response() -> bytes:
    return _CONNECTION_RESPONSE.pack(PduType.CONNECTION_RESPONSE, 0, 128, 0, 128, 0, 0, 0, MAX_TRANSFER_BYTES)


def parse_data_header(buffer: memoryview, offset: int, header: Header) -> DataHeader:
    """Return the H2CData header at ``offset``, its length fields proven consistent."""
    *_, command_id, transfer_tag, data_offset, data_bytes = _DATA.unpack_from(buffer, offset)
    if data_bytes != header.pdu_bytes - header.data_offset:
        raise ProtocolError(
            FatalStatus.INVALID_HEADER,
            f"H2CData says {data_bytes} bytes and carries another number",
            field_offset=16,
        )
    return DataHeader(command_id, transfer_tag, data_offset, data_bytes, bool(header.flags & Flag.LAST))


def pack_ready_to_transfer(command_id: int, transfer_tag: int, offset: int, data_bytes: int) -> bytes:
    return _DATA.pack(PduType.READY_TO_TRANSFER, 0, 24, 0, 24, command_id, transfer_tag, offset, data_bytes)


def pack_response(result: int, queue_head: int, queue_id: int, command_id: int, status: int) -> bytes:
    """Return a CapsuleResp; ``status`` is the 15 bits above the phase tag."""
    return _RESPONSE.pack(
        PduType.RESPONSE, 0, 24, 0, RESPONSE_BYTES, result, queue_head, queue_id, command_id, status << 1
    )


def pack_data_header_into(frame: bytearray, command_id: int, data_bytes: int, *, is_success: bool) -> None:
    """Write a C2HData header for ``data_bytes`` bytes over the first 24 bytes of ``frame``.

    ``is_success`` lets the data stand for the response too, as a host without flow control allows.
    """
    flags = Flag.LAST | Flag.SUCCESS if is_success else Flag.LAST
    _DATA.pack_into(
        frame, 0, PduType.CONTROLLER_DATA, flags, 24, 24, 24 + data_bytes, command_id, 0, 0, data_bytes
    )


def pack_termination(error: ProtocolError, offending: bytes) -> bytes:
    """Return the C2HTermReq that tells the host why; ``offending`` is the header of the PDU it sent."""
    excerpt = offending[: _MAX_TERMINATION_BYTES - 24]
    return (
        _TERMINATION.pack(
            PduType.CONTROLLER_TERMINATION, 0, 24, 0, 24 + len(excerpt), error.status, error.field_offset
        )
        + excerpt
    )


def describe_termination(pdu: memoryview) -> str:
    """Say why a host ended the connection, from its H2CTermReq."""
    *_, status, information = _TERMINATION.unpack_from(pdu)
    return f"the host ended the connection: fatal error status {status}, information {information:#x}"
