"""A small NVMe/TCP host for tests: it says exactly what a test tells it to, right or wrong.

Written from the specifications and not from the target, so that the two can disagree.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from dataclasses import dataclass
from typing import Any

CONNECTION_REQUEST = struct.pack("<BBBBIHBBI112x", 0, 0, 128, 0, 128, 0, 0, 0, 0)
RESPONSE, DATA, READY, TERMINATION = 5, 7, 9, 3


@dataclass(frozen=True)
class Completion:
    """A command's end: status without its phase bit, 64 bits of result, and the data that came before it."""

    command_id: int
    status: int
    result: int
    data: bytes

    @property
    def code(self) -> int:
        """Status code type and status code, without Do Not Retry."""
        return self.status & 0x7FF


class Initiator:
    """One connection to a target."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.transfers: list[tuple[int, int, int]] = []  # (tag, offset, bytes) of every R2T seen
        self._ids = itertools.count(1)
        self._data: dict[int, bytearray] = {}
        self._payloads: dict[int, bytes] = {}
        self._finished: dict[int, Completion] = {}

    @classmethod
    async def open(cls, port: int) -> Initiator:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return cls(reader, writer)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def initialize(self) -> bytes:
        """Exchange ICReq and ICResp, and return the latter."""
        self.writer.write(CONNECTION_REQUEST)
        return await self.reader.readexactly(128)

    async def connect(
        self,
        nqn: str,
        *,
        queue_id: int = 0,
        controller_id: int = 0xFFFF,
        host: str = "nqn.2026-01.example.host:one",
        entries: int = 32,
        attributes: int = 0,
        keep_alive_ms: int = 0,
    ) -> Completion:
        """Send Fabrics Connect for one queue."""
        host_id = host.encode().ljust(16, b"-")[-16:]
        data = host_id + struct.pack("<H238x", controller_id) + nqn.encode().ljust(256, b"\0")
        data = (data + host.encode().ljust(256, b"\0")).ljust(1024, b"\0")
        return await self.run(
            0x7F,
            namespace_id=1,
            cdw10=queue_id << 16,
            cdw11=(entries - 1) | attributes << 16,
            cdw12=keep_alive_ms,
            send=data,
        )

    async def set_property(self, offset: int, value: int) -> Completion:
        return await self.run(0x7F, namespace_id=0, cdw11=offset, cdw12=value)

    async def get_property(self, offset: int, *, wide: bool = False) -> Completion:
        return await self.run(0x7F, namespace_id=4, cdw10=int(wide), cdw11=offset)

    async def run(self, opcode: int, **what: Any) -> Completion:
        """Send one command and wait for its completion."""
        return await self.wait(self.start(opcode, **what))

    def start(
        self,
        opcode: int,
        *,
        namespace_id: int = 1,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        cdw13: int = 0,
        send: bytes | None = None,
        receive: int = 0,
        in_capsule: bool | None = None,
        sgl_type: int | None = None,
        command_id: int | None = None,
    ) -> int:
        """Send a command and return its ID; data of up to 8 KiB goes in the capsule unless told otherwise."""
        command_id = next(self._ids) if command_id is None else command_id
        if in_capsule is None:
            in_capsule = send is not None and len(send) <= 8192
        capsule = send if in_capsule and send is not None else b""
        kind = sgl_type if sgl_type is not None else (0x01 if in_capsule else 0x5A)
        length = len(send) if send is not None else receive
        entry = struct.pack("<BBHI16xQI3xB", opcode, 0x40, command_id, namespace_id, 0, length, kind)
        entry += struct.pack("<6I", cdw10, cdw11, cdw12, cdw13, 0, 0)
        if send is not None and not in_capsule:
            self._payloads[command_id] = send
        header = struct.pack("<BBBBI", 4, 0, 72, 72 if capsule else 0, 72 + len(capsule))
        self.writer.write(header + entry + capsule)
        return command_id

    async def wait(self, command_id: int) -> Completion:
        """Read PDUs until this command has completed, sending what the target asks for."""
        while command_id not in self._finished:
            await self._take_pdu()
        return self._finished.pop(command_id)

    def send_data(self, command_id: int, tag: int, offset: int, data: bytes, *, is_last: bool) -> None:
        """Send one H2CData PDU."""
        self.writer.write(
            struct.pack(
                "<BBBBIHHIIxxxx",
                6,
                4 if is_last else 0,
                24,
                24,
                24 + len(data),
                command_id,
                tag,
                offset,
                len(data),
            )
            + data
        )

    async def read_pdu(self) -> bytes:
        """Return the next PDU, whole."""
        header = await self.reader.readexactly(8)
        return header + await self.reader.readexactly(struct.unpack_from("<I", header, 4)[0] - 8)

    async def read_termination(self) -> tuple[int, int]:
        """Return status and information of a C2HTermReq, after which the target must close the connection."""
        pdu = await self.read_pdu()
        assert pdu[0] == TERMINATION, f"PDU type {pdu[0]}"
        assert await self.reader.read() == b"", "the target said more after it ended the connection"
        status, information = struct.unpack_from("<HI", pdu, 8)
        return status, information

    async def _take_pdu(self) -> None:
        pdu = await self.read_pdu()
        if pdu[0] == READY:
            command_id, tag, offset, length = struct.unpack_from("<HHII", pdu, 8)
            self.transfers.append((tag, offset, length))
            payload = self._payloads[command_id]
            self.send_data(command_id, tag, offset, payload[offset : offset + length], is_last=True)
        elif pdu[0] == DATA:
            command_id, _, offset, length = struct.unpack_from("<HHII", pdu, 8)
            buffer = self._data.setdefault(command_id, bytearray())
            assert offset == len(buffer)
            assert length == len(pdu) - pdu[3]
            buffer += pdu[pdu[3] :]
            if pdu[1] & 8:
                self._finish(command_id, 0, 0)
        else:
            assert pdu[0] == RESPONSE, f"PDU type {pdu[0]}"
            result, _, _, command_id, status = struct.unpack_from("<QHHHH", pdu, 8)
            self._finish(command_id, status >> 1, result)

    def _finish(self, command_id: int, status: int, result: int) -> None:
        data = bytes(self._data.pop(command_id, b""))
        self._finished[command_id] = Completion(command_id, status, result, data)


@dataclass(frozen=True)
class Attached:
    """A volume connected as Linux connects it: an admin queue and one I/O queue of an enabled controller."""

    admin: Initiator
    io: Initiator
    controller_id: int

    async def read(self, offset: int, size_bytes: int) -> Completion:
        return await self.io.run(0x02, **self.blocks(offset, size_bytes), receive=size_bytes)

    async def write(self, offset: int, data: bytes, **more: Any) -> Completion:
        return await self.io.run(0x01, **{**self.blocks(offset, len(data)), **more}, send=data)

    async def flush(self) -> Completion:
        return await self.io.run(0x00)

    async def get_log_page(self, page: int, size_bytes: int = 4096, **more: Any) -> Completion:
        numd = size_bytes // 4 - 1
        return await self.admin.run(0x02, cdw10=page | numd << 16, receive=size_bytes, **more)

    @staticmethod
    def blocks(offset: int, size_bytes: int) -> dict[str, Any]:
        first = offset // 512
        return {"cdw10": first & 0xFFFFFFFF, "cdw11": first >> 32, "cdw12": size_bytes // 512 - 1}

    async def close(self) -> None:
        await self.io.close()
        await self.admin.close()


async def attach(port: int, nqn: str, **connect: Any) -> Attached:
    """Connect to a subsystem as a Linux host does."""
    admin = await Initiator.open(port)
    await admin.initialize()
    connected = await admin.connect(nqn, **connect)
    assert connected.status == 0, hex(connected.status)
    controller_id = connected.result & 0xFFFF
    await admin.set_property(0x14, 0x460001)
    assert (await admin.get_property(0x1C)).result == 1
    io = await Initiator.open(port)
    await io.initialize()
    connected = await io.connect(nqn, queue_id=1, controller_id=controller_id, entries=128, **connect)
    assert connected.status == 0, hex(connected.status)
    return Attached(admin, io, controller_id)
