"""What a target does with a host that talks nonsense: end that connection with a reason, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ebs import Target, pdu
from tests.ebs.errors import FatalStatus, ProtocolError
from tests.unit.ebs.conftest import OTHER, SIZE_BYTES, VOLUME, connect
from tests.unit.ebs.initiator import CONNECTION_REQUEST, Attached, Initiator

AttachVolume = Callable[..., Awaitable[Attached]]


def pack_header(kind: int, flags: int, header_bytes: int, data_offset: int, pdu_bytes: int) -> bytes:
    return struct.pack("<BBBBI", kind, flags, header_bytes, data_offset, pdu_bytes)


def command(opcode: int = 0x02, command_id: int = 1) -> bytes:
    return pack_header(4, 0, 72, 0, 72) + struct.pack(
        "<BBHI16xQI3xB24x", opcode, 0x40, command_id, 1, 0, 0, 0x5A
    )


BEFORE_SETUP = {
    "a type no host sends": (pack_header(0x42, 0, 128, 0, 128) + bytes(120), FatalStatus.INVALID_HEADER),
    "a type only controllers send": (pack_header(1, 0, 128, 0, 128) + bytes(120), FatalStatus.INVALID_HEADER),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", FatalStatus.INVALID_HEADER),
    "a wrong header length": (pack_header(0, 0, 127, 0, 128) + bytes(120), FatalStatus.INVALID_HEADER),
    "a PDU too long": (pack_header(0, 0, 128, 0, 1 << 31), FatalStatus.INVALID_HEADER),
    "a PDU too short": (pack_header(0, 0, 128, 0, 8), FatalStatus.INVALID_HEADER),
    "an unknown version": (pack_header(0, 0, 128, 0, 128) + b"\1" + bytes(119), FatalStatus.UNSUPPORTED),
    "an alignment": (pack_header(0, 0, 128, 0, 128) + b"\0\0\3" + bytes(117), FatalStatus.UNSUPPORTED),
    "digests": (pack_header(0, 0, 128, 0, 128) + b"\0\0\0\3" + bytes(116), FatalStatus.UNSUPPORTED),
    "a command first": (command(), FatalStatus.SEQUENCE),
    "two requests": (CONNECTION_REQUEST * 2, FatalStatus.SEQUENCE),
    "a command before Connect": (CONNECTION_REQUEST + command(), FatalStatus.SEQUENCE),
    "data nobody asked for": (
        CONNECTION_REQUEST + struct.pack("<BBBBIHHII4x", 6, 4, 24, 24, 28, 1, 1, 0, 4) + bytes(4),
        FatalStatus.SEQUENCE,
    ),
}


@pytest.mark.parametrize("what", BEFORE_SETUP)
async def test_nonsense_ends_its_connection_with_a_reason(
    target: Target, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """The host reads C2HTermReq and then the end; the log says why."""
    sent, expected = BEFORE_SETUP[what]
    host = await Initiator.open(target.port)
    with caplog.at_level(logging.WARNING):
        host.writer.write(sent)
        if sent.startswith(CONNECTION_REQUEST):
            assert len(await host.read_pdu()) == 128
        status, _ = await host.read_termination()
    assert status == expected
    assert "malformed input" in caplog.text
    await host.close()


SIZE = 64 << 10


class Piece(NamedTuple):
    """One H2CData PDU for a transfer of SIZE bytes, command 1 and tag 1, and why it is wrong."""

    command_id: int
    tag: int
    offset: int
    data_bytes: int
    is_last: bool
    expected: FatalStatus


WRONG_PIECES = {
    "another command's data": Piece(99, 1, 0, SIZE, True, FatalStatus.SEQUENCE),
    "another tag": Piece(1, 99, 0, SIZE, True, FatalStatus.SEQUENCE),
    "a gap": Piece(1, 1, 512, 512, False, FatalStatus.OUT_OF_RANGE),
    "too much": Piece(1, 1, 0, SIZE + 4, True, FatalStatus.OUT_OF_RANGE),
    "a last piece before the end": Piece(1, 1, 0, 512, True, FatalStatus.SEQUENCE),
    "an end that is not marked": Piece(1, 1, 0, SIZE, False, FatalStatus.SEQUENCE),
}


@pytest.mark.parametrize("what", WRONG_PIECES)
async def test_wrong_data_ends_its_connection_and_writes_nothing(
    attach_volume: AttachVolume, target: Target, what: str
) -> None:
    """A transfer that is not the one asked for never reaches the volume."""
    piece = WRONG_PIECES[what]
    await attach_volume()
    async with connect(target) as volume:
        volume.io.start(0x01, **Attached.blocks(0, SIZE), send=b"x" * SIZE, command_id=1)
        assert (await volume.io.read_pdu())[0] == 9
        data = b"x" * piece.data_bytes
        volume.io.send_data(piece.command_id, piece.tag, piece.offset, data, is_last=piece.is_last)
        assert (await volume.io.read_termination())[0] == piece.expected
    async with connect(target) as again:
        assert (await again.read(0, SIZE)).data == bytes(SIZE)


async def test_command_id_in_use_ends_the_connection(attach_volume: AttachVolume, target: Target) -> None:
    """Two commands of one ID could not be told apart."""
    volume = await attach_volume()
    target.volume(VOLUME).stall()
    for _ in range(2):
        volume.io.start(0x02, **Attached.blocks(0, 512), receive=512, command_id=7)
    assert (await volume.io.read_termination())[0] == FatalStatus.SEQUENCE


async def test_more_commands_than_the_queue_holds_end_the_connection(
    attach_volume: AttachVolume, target: Target
) -> None:
    """A queue's size is an agreement."""
    volume = await attach_volume()
    target.volume(VOLUME).stall()
    for _ in range(129):
        volume.io.start(0x02, **Attached.blocks(0, 512), receive=512)
    assert (await volume.io.read_termination())[0] == FatalStatus.LIMIT_EXCEEDED
    assert target.volume(VOLUME).statistics.queue_length == 0


async def test_host_that_says_nothing_is_not_kept(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection has to become a queue in time."""
    monkeypatch.setattr("tests.ebs.connection._SETUP_S", 0.05)
    host = await Initiator.open(target.port)
    assert await asyncio.wait_for(host.reader.read(), 10) == b""
    await host.close()


async def test_host_that_announces_its_end_is_believed(
    attach_volume: AttachVolume, caplog: pytest.LogCaptureFixture
) -> None:
    """H2CTermReq closes the connection, and its reason is in the log."""
    volume = await attach_volume()
    with caplog.at_level(logging.INFO):
        volume.io.writer.write(pack_header(2, 0, 24, 0, 24) + struct.pack("<HI10x", 5, 0x1234))
        assert await volume.io.reader.read() == b""
    assert "fatal error status 5, information 0x1234" in caplog.text


async def test_host_that_takes_no_answers_gives_no_more_commands(
    attach_volume: AttachVolume, target: Target
) -> None:
    """Answers nobody reads do not pile up without end."""
    volume = await attach_volume()
    await attach_volume(OTHER)
    volume.io.writer.transport.pause_reading()  # type: ignore[attr-defined] # of the host's end
    # In one breath, so that all of them fit what the target takes at once.
    commands = [volume.io.start(0x02, **Attached.blocks(0, 256 << 10), receive=256 << 10) for _ in range(800)]
    async with connect(target, OTHER) as other:  # long enough for the target to have seen them
        for _ in range(50):
            assert (await other.read(0, 512)).status == 0
    waiting = [each._transport.get_write_buffer_size() for each in target._connections if each._transport]
    assert 0 < max(waiting) < 16 << 20
    volume.io.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for command_id in commands:
        assert (await volume.io.wait(command_id)).status == 0


@given(st.binary(max_size=200))
def test_no_header_makes_the_parser_stumble(data: bytes) -> None:
    """Whatever eight bytes say, they are a header of a host or a ProtocolError."""
    with contextlib.suppress(ProtocolError):
        header = pdu.parse_header(memoryview(data.ljust(8, b"\0")), 0)
        assert header.kind in {0, 2, 4, 6}
        assert header.header_bytes <= header.pdu_bytes


MUTATIONS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=8)


@given(prefix=st.sampled_from([b"", CONNECTION_REQUEST]), noise=st.binary(max_size=400), mutations=MUTATIONS)
def test_no_bytes_hurt_another_connection(
    tmp_path_factory: pytest.TempPathFactory, prefix: bytes, noise: bytes, mutations: list[tuple[int, int]]
) -> None:
    """Random bytes, and valid ones with bytes changed, leave a connected volume as it was."""
    mutated = bytearray(CONNECTION_REQUEST + command() + command(0x01, 2))
    for place, value in mutations:
        mutated[place % len(mutated)] = value
    directory = tmp_path_factory.mktemp("fuzz")

    async def attack() -> None:
        async with Target(directory, port=0) as target:
            await target.create(VOLUME, size_bytes=SIZE_BYTES)
            await target.attach(VOLUME)
            async with connect(target) as volume:
                await volume.write(0, b"mine" + bytes(508))
                for said in (prefix + noise, bytes(mutated)):
                    host = await Initiator.open(target.port)
                    host.writer.write(said)
                    host.writer.write_eof()
                    await asyncio.wait_for(host.reader.read(), 10)
                    await host.close()
                assert (await volume.read(0, 512)).data[:4] == b"mine"

    asyncio.run(attack())


@given(mutations=MUTATIONS, opcode=st.sampled_from([0x00, 0x01, 0x02, 0x08, 0x09]))
def test_no_bytes_on_a_live_queue_write_outside_their_range(
    tmp_path_factory: pytest.TempPathFactory, mutations: list[tuple[int, int]], opcode: int
) -> None:
    """Whatever a host says on its own queue, its volume keeps its size and others keep their bytes."""
    directory = tmp_path_factory.mktemp("fuzz")
    other = "vol-0000000a"

    async def attack() -> None:
        async with Target(directory, port=0) as target:
            for volume_id in (VOLUME, other):
                await target.create(volume_id, size_bytes=SIZE_BYTES)
                await target.attach(volume_id)
            async with connect(target) as mine, connect(target, other) as others:
                await others.write(0, b"mine" + bytes(508))
                said = bytearray(command(opcode, 3) + bytes(64))
                for place, value in mutations:
                    said[place % len(said)] = value
                mine.io.writer.write(bytes(said))
                mine.io.writer.write_eof()
                await asyncio.wait_for(mine.io.reader.read(), 10)
                assert (await others.read(0, 512)).data[:4] == b"mine"
            assert _size(directory / f"{VOLUME}.img") == SIZE_BYTES

    asyncio.run(attack())


def _size(path: Path) -> int:
    return path.stat().st_size
