"""The NVM command set: what read, write, flush, write zeroes and deallocate do to a backing file.

Owns the meaning of their dwords (NVMe base 1.4, section 6) and the checks against the volume's size. Nothing
here waits; whether a command may run yet, and when it is durable, is the volume's business.
"""

from __future__ import annotations

import errno
import struct

from tests.ebs.backing import Backing
from tests.ebs.errors import DO_NOT_RETRY, CommandError, Status
from tests.ebs.faults import Operation
from tests.ebs.pdu import DATA_HEADER_BYTES, RESPONSE_BYTES
from tests.ebs.record import SECTOR_BYTES, VolumeRecord
from tests.ebs.request import Request

FLUSH, WRITE, READ, WRITE_ZEROES, DATASET_MANAGEMENT = 0x00, 0x01, 0x02, 0x08, 0x09
NAMESPACE_ID = 1  # on every EBS volume
_EVERY_NAMESPACE = 0xFFFFFFFF

OPERATIONS: dict[int, Operation] = {
    FLUSH: Operation.FLUSH,
    WRITE: Operation.WRITE,
    READ: Operation.READ,
    WRITE_ZEROES: Operation.ZERO,
    DATASET_MANAGEMENT: Operation.DISCARD,
}
_WITH_BLOCKS = frozenset({Operation.READ, Operation.WRITE, Operation.ZERO})

_FORCE_UNIT_ACCESS = 1 << 30  # cdw12
_DEALLOCATE = 1 << 2  # cdw11 of dataset management
_RANGE = struct.Struct("<IIQ")


def byte_range(request: Request, operation: Operation) -> tuple[int, int]:
    """Return first byte and length of what the command names: (0, 0) for a flush or a deallocation."""
    if operation not in _WITH_BLOCKS:
        return 0, 0
    return (request.cdw10 | request.cdw11 << 32) * SECTOR_BYTES, ((request.cdw12 & 0xFFFF) + 1) * SECTOR_BYTES


def size_bytes(request: Request) -> int:
    """Return how many bytes a read or write moves."""
    return ((request.cdw12 & 0xFFFF) + 1) * SECTOR_BYTES


def must_be_durable(request: Request, operation: Operation) -> bool:
    """Say whether the command may be answered only once the disk has what it wrote."""
    return operation is Operation.FLUSH or (
        operation in {Operation.WRITE, Operation.ZERO} and bool(request.cdw12 & _FORCE_UNIT_ACCESS)
    )


def execute(
    request: Request, operation: Operation, backing: Backing, record: VolumeRecord
) -> bytearray | None:
    """Do what the command says and return a frame with the data read, or None.

    The frame has room for the PDU header before the data and for the response behind it. Raises CommandError
    for a command that makes no sense on this volume, OSError where the backing file fails.
    """
    if request.namespace_id != NAMESPACE_ID and not (
        operation is Operation.FLUSH and request.namespace_id == _EVERY_NAMESPACE
    ):
        raise CommandError(Status.INVALID_NAMESPACE)
    if operation is Operation.FLUSH:
        return None
    if operation is Operation.DISCARD:
        _discard(request, backing, record)
        return None
    offset, length = byte_range(request, operation)
    if offset + length > record.size_bytes:
        raise CommandError(Status.LBA_OUT_OF_RANGE)
    if operation is Operation.ZERO:
        backing.punch(offset, length)
        return None
    if request.sgl_bytes != length:
        raise CommandError(Status.SGL_LENGTH_INVALID)
    if operation is Operation.WRITE:
        backing.write(request.data, offset)
        return None
    frame = bytearray(DATA_HEADER_BYTES + length + RESPONSE_BYTES)
    backing.read_into(memoryview(frame)[DATA_HEADER_BYTES : DATA_HEADER_BYTES + length], offset)
    return frame


def status_of(error: OSError) -> int:
    """Return how a failure of the backing file looks to the host."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Status.CAPACITY_EXCEEDED | DO_NOT_RETRY
    return Status.INTERNAL_ERROR | DO_NOT_RETRY


def _discard(request: Request, backing: Backing, record: VolumeRecord) -> None:
    if not request.cdw11 & _DEALLOCATE:
        return  # hints about future access, which may be ignored
    count = (request.cdw10 & 0xFF) + 1
    if len(request.data) < count * _RANGE.size:
        raise CommandError(Status.SGL_LENGTH_INVALID)
    ranges = [_RANGE.unpack_from(request.data, index * _RANGE.size) for index in range(count)]
    if any(first + sectors > record.sectors for _, sectors, first in ranges):
        raise CommandError(Status.LBA_OUT_OF_RANGE)
    for _, sectors, first in ranges:
        if sectors:
            backing.punch(first * SECTOR_BYTES, sectors * SECTOR_BYTES)
