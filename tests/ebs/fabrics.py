"""Fabrics commands as bytes: Connect and what it carries, and the controller's properties.

Pure. Source: NVMe-oF 1.1, sections 3.3 to 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.ebs.errors import CommandError, Status
from tests.ebs.identify import QUEUE_ENTRIES, VERSION
from tests.ebs.request import Request

PROPERTY_SET, CONNECT, PROPERTY_GET, DISCONNECT = 0x00, 0x01, 0x04, 0x08
ANY_CONTROLLER = 0xFFFF
CONNECT_BYTES = 1024

_WITHOUT_FLOW_CONTROL = 1 << 2
_DATA_PARAMETER = 1 << 16  # in a Connect response: the offset is into the data, not the command

# CAP: queues of 128 contiguous entries, ready within 7.5 s, NVM command set, pages of 4 KiB.
_CAPABILITIES = (QUEUE_ENTRIES - 1) | 1 << 16 | 15 << 24 | 1 << 37


@dataclass(frozen=True)
class Connect:
    """What a host asks for: one queue of a new (`ANY_CONTROLLER`) or of its existing controller."""

    queue_id: int
    queue_entries: int
    keep_alive_ms: int
    has_flow_control: bool
    controller_id: int
    subsystem_nqn: str
    host_id: bytes
    host_nqn: str


def parse_connect(request: Request) -> Connect:
    """Return the Connect command; raise CommandError naming the parameter that is wrong."""
    if len(request.data) < CONNECT_BYTES:
        raise CommandError(Status.SGL_LENGTH_INVALID)
    record_format, queue_id = request.cdw10 & 0xFFFF, request.cdw10 >> 16
    queue_size, attributes = request.cdw11 & 0xFFFF, request.cdw11 >> 16 & 0xFF
    if record_format != 0:
        raise CommandError(Status.CONNECT_FORMAT)
    if not 1 <= queue_size < QUEUE_ENTRIES:
        raise CommandError(Status.CONNECT_INVALID, result=44)
    data = bytes(request.data[:CONNECT_BYTES])
    return Connect(
        queue_id=queue_id,
        queue_entries=queue_size + 1,
        keep_alive_ms=request.cdw12,
        has_flow_control=not attributes & _WITHOUT_FLOW_CONTROL,
        controller_id=int.from_bytes(data[16:18], "little"),
        subsystem_nqn=_parse_nqn(data, 256),
        host_id=data[:16],
        host_nqn=_parse_nqn(data, 512),
    )


def connect_data_error(offset: int) -> CommandError:
    """Return the error for a wrong field at ``offset`` of the Connect data."""
    return CommandError(Status.CONNECT_INVALID, result=_DATA_PARAMETER | offset)


def _parse_nqn(data: bytes, offset: int) -> str:
    name, end, _ = data[offset : offset + 256].partition(b"\0")
    if not name or not end:
        raise connect_data_error(offset)
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise connect_data_error(offset) from error


class Properties:
    """The registers of a controller on a fabric; ``wants_shutdown`` once the host announced its end."""

    def __init__(self) -> None:
        self._configuration = 0
        self._is_shut_down = False

    @property
    def is_enabled(self) -> bool:
        return bool(self._configuration & 1)

    @property
    def wants_shutdown(self) -> bool:
        return bool(self._configuration >> 14 & 3) and not self._is_shut_down

    def finish_shutdown(self) -> None:
        self._is_shut_down = True

    def get(self, request: Request) -> int:
        size, offset = request.cdw10 & 7, request.cdw11
        values = {
            (0x00, 1): _CAPABILITIES,
            (0x08, 0): VERSION,
            (0x14, 0): self._configuration,
            (0x1C, 0): int(self.is_enabled) | (2 << 2 if self._is_shut_down else 0),
        }
        try:
            return values[offset, size]
        except KeyError:
            raise CommandError(Status.INVALID_FIELD) from None

    def set(self, request: Request) -> None:
        """Store a new controller configuration; nothing else can be written."""
        size, offset, value = request.cdw10 & 7, request.cdw11, request.cdw12
        if (offset, size) != (0x14, 0):
            raise CommandError(Status.INVALID_FIELD)
        was_enabled = self.is_enabled
        self._configuration = value
        if self.is_enabled and not was_enabled:
            self._is_shut_down = False
