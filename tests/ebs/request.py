"""One command of a host, from its submission queue entry to its answer.

Owns the layout of the 64-byte entry (NVMe base 1.4, figure 104) and what its data pointer may be over TCP.
Which connection the answer goes to, and whether anyone still waits for it, is kept here, so that a command
may be held, delayed or executed long after it arrived.
"""

from __future__ import annotations

import struct
from typing import Protocol

from tests.ebs.clock import now_us
from tests.ebs.errors import CommandError, Status

_ENTRY = struct.Struct("<BBHI8x8xQI3xB6I")
ENTRY_BYTES = 64

_SGL_IN_CAPSULE = 0x01  # data block descriptor, address is an offset into the capsule
_SGL_TRANSPORT = 0x5A  # transport data block: the transport carries the data in PDUs of its own
_FABRICS = 0x7F


class Answerer(Protocol):
    """Where answers go: the connection the command came by."""

    def answer(self, request: Request, status: int, result: int) -> None: ...

    def answer_with_data(self, request: Request, frame: bytearray, data_bytes: int) -> None: ...


class Request:
    """A command in flight. ``data`` is what the host sends with it, whole before the command is executed."""

    __slots__ = (
        "answerer",
        "arrived_us",
        "cdw10",
        "cdw11",
        "cdw12",
        "cdw13",
        "cdw14",
        "cdw15",
        "command_id",
        "data",
        "flags",
        "is_abandoned",
        "is_counted",
        "namespace_id",
        "opcode",
        "received_bytes",
        "sgl_address",
        "sgl_bytes",
        "sgl_type",
    )

    opcode: int
    flags: int
    command_id: int
    namespace_id: int
    sgl_address: int
    sgl_bytes: int
    sgl_type: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int

    def __init__(self, entry: memoryview, answerer: Answerer) -> None:
        (
            self.opcode,
            self.flags,
            self.command_id,
            self.namespace_id,
            self.sgl_address,
            self.sgl_bytes,
            self.sgl_type,
            self.cdw10,
            self.cdw11,
            self.cdw12,
            self.cdw13,
            self.cdw14,
            self.cdw15,
        ) = _ENTRY.unpack_from(entry)
        self.answerer = answerer
        self.arrived_us = now_us()
        self.data: bytearray | bytes = b""
        self.received_bytes = 0
        self.is_abandoned = False  # its connection is gone: it must not touch the volume any more
        self.is_counted = False  # in its volume's queue length

    @property
    def takes_data(self) -> bool:
        """Whether the host sends data with it: bit 0 of the opcode, or of a Fabrics command's type."""
        return (
            bool((self.fabrics_type if self.opcode == _FABRICS else self.opcode) & 1) and self.sgl_bytes > 0
        )

    @property
    def is_fabrics(self) -> bool:
        return self.opcode == _FABRICS

    @property
    def fabrics_type(self) -> int:
        """FCTYPE, which stands where other commands have their namespace."""
        return self.namespace_id & 0xFF

    @property
    def is_data_in_capsule(self) -> bool:
        return self.sgl_type == _SGL_IN_CAPSULE

    def check_data_pointer(self, capsule_bytes: int, max_transfer_bytes: int) -> None:
        """Raise CommandError unless the data pointer is one that TCP knows and the data fits."""
        if self.is_data_in_capsule:
            if self.sgl_address + self.sgl_bytes > capsule_bytes:
                raise CommandError(Status.SGL_OFFSET_INVALID)
        elif self.sgl_type != _SGL_TRANSPORT:
            raise CommandError(Status.SGL_TYPE_INVALID)
        if self.sgl_bytes > max_transfer_bytes:
            raise CommandError(Status.INVALID_FIELD)

    def finish(self, status: int = Status.SUCCESS, *, result: int = 0) -> None:
        if not self.is_abandoned:
            self.answerer.answer(self, status, result)

    def finish_with_data(self, frame: bytearray, data_bytes: int) -> None:
        """Answer with success and ``data_bytes`` bytes that stand in ``frame`` from byte 24 on."""
        if not self.is_abandoned:
            self.answerer.answer_with_data(self, frame, data_bytes)
