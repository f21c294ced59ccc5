"""What the target says when it cannot do what it was asked, on the wire or by its owner."""

from __future__ import annotations

from enum import IntEnum


class TargetError(Exception):
    """A request to the target, not a command on the wire, that it cannot or will not carry out."""


class FatalStatus(IntEnum):
    """Why a connection is terminated: the FES field of C2HTermReq (NVMe/TCP transport, 3.6.2.3)."""

    INVALID_HEADER = 1
    SEQUENCE = 2
    OUT_OF_RANGE = 4
    LIMIT_EXCEEDED = 5
    UNSUPPORTED = 6


class ProtocolError(Exception):
    """A PDU that cannot be taken seriously: its connection ends, and only its connection.

    ``field_offset`` is the byte of the PDU's header that is wrong, where one is.
    """

    def __init__(self, status: FatalStatus, reason: str, *, field_offset: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.field_offset = field_offset


class Status(IntEnum):
    """NVMe status: status code type in bits 8-10, status code in bits 0-7 (NVMe base 1.4, 4.6.1)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    COMMAND_ID_CONFLICT = 0x003
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL_ERROR = 0x006
    ABORT_REQUESTED = 0x007
    INVALID_NAMESPACE = 0x00B
    SEQUENCE_ERROR = 0x00C
    SGL_LENGTH_INVALID = 0x00F
    SGL_TYPE_INVALID = 0x011
    SGL_OFFSET_INVALID = 0x016
    LBA_OUT_OF_RANGE = 0x080
    CAPACITY_EXCEEDED = 0x081
    NAMESPACE_NOT_READY = 0x082
    EVENT_LIMIT_EXCEEDED = 0x105
    INVALID_LOG_PAGE = 0x109
    FEATURE_NOT_CHANGEABLE = 0x10E
    CONNECT_FORMAT = 0x180
    CONNECT_BUSY = 0x181
    CONNECT_INVALID = 0x182
    WRITE_FAULT = 0x280
    READ_ERROR = 0x281
    ACCESS_DENIED = 0x286
    INTERNAL_PATH_ERROR = 0x300


DO_NOT_RETRY = 0x4000  # the DNR bit, where Status is the 15 bits above the phase tag


class CommandError(Exception):
    """A well-formed command that is answered with an error status; its connection lives on."""

    def __init__(self, status: int, *, result: int = 0, is_final: bool = True) -> None:
        super().__init__(f"status {status:#05x}")
        self.status = status | (DO_NOT_RETRY if is_final else 0)
        self.result = result
