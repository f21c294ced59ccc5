"""What a host gets when it does what it should."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.ebs import Status, Target, TargetError
from tests.unit.ebs.conftest import OTHER, SIZE_BYTES, VOLUME, SyncWitness, connect
from tests.unit.ebs.initiator import Attached, Initiator

AttachVolume = Callable[..., Awaitable[Attached]]
PATTERN = bytes(range(256))


async def test_small_write_travels_in_its_capsule_and_reads_back(attach_volume: AttachVolume) -> None:
    """Up to 8 KiB need no transfer of their own."""
    volume = await attach_volume()
    written = PATTERN * 32
    assert (await volume.write(4096, written)).status == 0
    assert volume.io.transfers == []
    assert (await volume.read(4096, 8192)).data == written
    assert (await volume.read(0, 4096)).data == bytes(4096)


async def test_large_write_is_asked_for_and_reads_back(attach_volume: AttachVolume) -> None:
    """What does not come with the command is asked for, in one piece."""
    volume = await attach_volume()
    written = PATTERN * 1024
    assert (await volume.write(1 << 20, written)).status == 0
    assert [(offset, size) for _, offset, size in volume.io.transfers] == [(0, len(written))]
    assert (await volume.read(1 << 20, len(written))).data == written


async def test_data_may_come_in_several_pieces(attach_volume: AttachVolume) -> None:
    """A host splits what it was asked for as it likes."""
    volume = await attach_volume()
    written = PATTERN * 256
    command = volume.io.start(0x01, **Attached.blocks(0, len(written)), send=written)
    pdu = await volume.io.read_pdu()
    tag = struct.unpack_from("<H", pdu, 10)[0]
    for offset in range(0, len(written), 16384):
        piece = written[offset : offset + 16384]
        volume.io.send_data(command, tag, offset, piece, is_last=offset + 16384 == len(written))
        await asyncio.sleep(0)
    assert (await volume.io.wait(command)).status == 0
    assert (await volume.read(0, len(written))).data == written


async def test_commands_in_flight_together_get_their_own_answers(attach_volume: AttachVolume) -> None:
    """A queue holds many commands, and each answer names its own."""
    volume = await attach_volume()
    for index in range(16):
        assert (await volume.write(index * 512, bytes([index]) * 512)).status == 0
    commands = [
        volume.io.start(0x02, **Attached.blocks(index * 512, 512), receive=512) for index in range(16)
    ]
    answers = [await volume.io.wait(command) for command in reversed(commands)]
    assert [answer.data for answer in answers] == [bytes([index]) * 512 for index in reversed(range(16))]


async def test_success_flag_stands_for_the_response_without_flow_control(
    target: Target, attach_volume: AttachVolume
) -> None:
    """A host that disables flow control gets reads without a response of their own."""
    await attach_volume()
    async with connect(target, attributes=1 << 2) as volume:
        volume.io.start(0x02, **Attached.blocks(0, 512), receive=512)
        pdu = await volume.io.read_pdu()
        assert (pdu[0], pdu[1] & 8, len(pdu)) == (7, 8, 24 + 512)
        assert (await volume.flush()).status == 0


async def test_flush_is_answered_only_when_the_disk_has_it(
    attach_volume: AttachVolume, target: Target, sync: SyncWitness
) -> None:
    """An acknowledged flush is a promise that fdatasync has kept."""
    volume = await attach_volume()
    inode = (target.directory / f"{VOLUME}.img").stat().st_ino
    await volume.write(0, PATTERN * 2)
    assert sync.synced == []
    assert (await volume.flush()).status == 0
    assert sync.synced == [inode]


async def test_forced_write_is_durable_without_a_flush(
    attach_volume: AttachVolume, sync: SyncWitness
) -> None:
    """Force Unit Access makes a write its own flush."""
    volume = await attach_volume()
    assert (await volume.write(0, PATTERN * 2, cdw12=1 << 30)).status == 0
    assert len(sync.synced) == 1


async def test_flush_that_failed_is_not_acknowledged(attach_volume: AttachVolume, sync: SyncWitness) -> None:
    """Where the disk did not take the bytes, the host hears so."""
    volume = await attach_volume()
    sync.error = OSError(errno.EIO, "no")
    assert (await volume.flush()).code == Status.INTERNAL_ERROR


async def test_zeroed_and_deallocated_ranges_read_as_zeros_and_free_their_space(
    attach_volume: AttachVolume, target: Target
) -> None:
    """Write zeroes and deallocate punch holes in the backing file."""
    volume = await attach_volume()
    for offset in range(0, 1 << 20, 128 << 10):
        await volume.write(offset, b"x" * (128 << 10))
    await volume.flush()
    used_bytes = target.volume(VOLUME).backing.used_bytes
    assert (await volume.io.run(0x08, **Attached.blocks(0, 256 << 10))).status == 0
    ranges = struct.pack("<IIQ", 0, 512, 1024) + struct.pack("<IIQ", 0, 8, 0)
    assert (await volume.io.run(0x09, cdw10=1, cdw11=4, send=ranges)).status == 0
    assert (await volume.read(0, 256 << 10)).data == bytes(256 << 10)
    assert (await volume.read(512 << 10, 256 << 10)).data == bytes(256 << 10)
    assert (await volume.read(256 << 10, 4096)).data == b"x" * 4096
    assert target.volume(VOLUME).backing.used_bytes <= used_bytes - (512 << 10)


@pytest.mark.parametrize(
    ("opcode", "what", "expected"),
    [
        (0x02, {**Attached.blocks(SIZE_BYTES, 512), "receive": 512}, Status.LBA_OUT_OF_RANGE),
        (0x02, {**Attached.blocks(SIZE_BYTES - 512, 1024), "receive": 1024}, Status.LBA_OUT_OF_RANGE),
        (0x02, {"cdw10": 0xFFFFFFFF, "cdw11": 0xFFFFFFFF, "receive": 512}, Status.LBA_OUT_OF_RANGE),
        (0x01, {**Attached.blocks(SIZE_BYTES, 512), "send": bytes(512)}, Status.LBA_OUT_OF_RANGE),
        (0x08, Attached.blocks(SIZE_BYTES, 512), Status.LBA_OUT_OF_RANGE),
        (0x09, {"cdw11": 4, "send": struct.pack("<IIQ", 0, 1, SIZE_BYTES)}, Status.LBA_OUT_OF_RANGE),
        (0x09, {"cdw10": 1, "cdw11": 4, "send": bytes(16)}, Status.SGL_LENGTH_INVALID),
        (0x02, {**Attached.blocks(0, 1024), "receive": 512}, Status.SGL_LENGTH_INVALID),
        (0x01, {**Attached.blocks(0, 1024), "send": bytes(512)}, Status.SGL_LENGTH_INVALID),
        (0x02, {"receive": 512, "namespace_id": 2}, Status.INVALID_NAMESPACE),
        (0x02, {"receive": 512, "sgl_type": 0x40}, Status.SGL_TYPE_INVALID),
        (0x01, {"send": bytes(512), "in_capsule": False, "sgl_type": 0x01}, Status.SGL_OFFSET_INVALID),
        (0x02, {"cdw12": 1023, "receive": 512 << 10}, Status.INVALID_FIELD),
        (0x05, {}, Status.INVALID_OPCODE),
        (0x7F, {}, Status.INVALID_OPCODE),
    ],
)
async def test_command_that_makes_no_sense_fails_with_its_status(
    attach_volume: AttachVolume, opcode: int, what: dict[str, int], expected: Status
) -> None:
    """A well-formed command gets a status; the connection lives on."""
    volume = await attach_volume()
    assert (await volume.io.run(opcode, **what)).code == expected
    assert (await volume.read(0, 512)).status == 0


async def test_last_sector_can_be_written_and_the_next_cannot(attach_volume: AttachVolume) -> None:
    """The volume ends exactly where Identify says."""
    volume = await attach_volume()
    assert (await volume.write(SIZE_BYTES - 512, b"z" * 512)).status == 0
    assert (await volume.read(SIZE_BYTES - 512, 512)).data == b"z" * 512


async def test_volumes_do_not_see_each_other(attach_volume: AttachVolume) -> None:
    """Twenty volumes in one process are twenty files."""
    volumes = [await attach_volume(f"vol-{index:017x}") for index in range(20)]
    for index, volume in enumerate(volumes):
        assert (await volume.write(0, bytes([index]) * 512)).status == 0
    for index, volume in enumerate(volumes):
        assert (await volume.read(0, 512)).data == bytes([index]) * 512


async def test_growing_announces_itself_once_until_its_log_page_is_read(
    attach_volume: AttachVolume, target: Target
) -> None:
    """A host that asked for namespace events hears of a new size, and reads which namespace changed."""
    volume = await attach_volume()
    await volume.admin.run(0x09, cdw10=0x0B, cdw11=1 << 8)
    events = [volume.admin.start(0x0C, namespace_id=0) for _ in range(2)]
    await volume.admin.run(0x18)
    await target.grow(VOLUME, 2 * SIZE_BYTES)
    await target.grow(VOLUME, 3 * SIZE_BYTES)
    assert (await volume.admin.wait(events[0])).result == 0x040002
    identified = await volume.admin.run(0x06, cdw10=0, receive=4096)
    assert struct.unpack_from("<Q", identified.data)[0] * 512 == 3 * SIZE_BYTES
    assert events[1] not in volume.admin._finished
    changed = await volume.admin.run(0x02, cdw10=0x04 | 1023 << 16, receive=4096)
    assert changed.data == struct.pack("<I", 1).ljust(4096, b"\0")
    await target.grow(VOLUME, 4 * SIZE_BYTES)
    assert (await volume.admin.wait(events[1])).result == 0x040002
    assert (await volume.read(4 * SIZE_BYTES - 512, 512)).status == 0


async def test_growing_says_nothing_to_a_host_that_did_not_ask(
    attach_volume: AttachVolume, target: Target
) -> None:
    """Events are off until a host turns them on."""
    volume = await attach_volume()
    event = volume.admin.start(0x0C, namespace_id=0)
    await volume.admin.run(0x18)
    await target.grow(VOLUME, 2 * SIZE_BYTES)
    await volume.admin.run(0x18)
    assert event not in volume.admin._finished


async def test_volume_never_shrinks(attach_volume: AttachVolume, target: Target) -> None:
    """EBS has no smaller, and neither has its emulation."""
    await attach_volume()
    with pytest.raises(TargetError, match="shrinks"):
        await target.grow(VOLUME, SIZE_BYTES // 2)


async def test_host_that_connects_anew_replaces_its_controller(
    attach_volume: AttachVolume, target: Target
) -> None:
    """A reconnected host's former commands can no longer touch the volume."""
    first = await attach_volume()
    target.volume(VOLUME).stall()
    first.io.start(0x01, **Attached.blocks(0, 512), send=b"old" + bytes(509))
    await first.admin.run(0x18)
    async with connect(target) as second:
        assert await first.io.reader.read() == b""
        target.volume(VOLUME).resume()
        assert (await second.write(0, b"new" + bytes(509))).status == 0
        assert (await second.read(0, 512)).data[:3] == b"new"


async def test_second_host_may_connect_to_a_multi_attach_volume_only(
    attach_volume: AttachVolume, target: Target
) -> None:
    """An ordinary volume is on one instance at a time."""
    await attach_volume(VOLUME)
    await attach_volume(OTHER, is_multi_attach=True)
    async with connect(target, OTHER, host="nqn.2026-01.example.host:two") as shared:
        assert (await shared.read(0, 512)).status == 0
    stranger = await Initiator.open(target.port)
    await stranger.initialize()
    refused = await stranger.connect(target.volume(VOLUME).record.nqn, host="nqn.2026-01.example.host:two")
    assert refused.code == Status.CONNECT_BUSY
    await stranger.close()


async def test_silent_host_is_given_up_after_its_keep_alive_time(
    attach_volume: AttachVolume, target: Target
) -> None:
    """A host that promised to keep alive and does not is gone, whatever TCP says."""
    await attach_volume()
    async with connect(target, keep_alive_ms=200) as volume:
        assert await asyncio.wait_for(volume.io.reader.read(), 10) == b""


async def test_detached_volume_cannot_be_found(attach_volume: AttachVolume, target: Target) -> None:
    """After detach the subsystem is unknown, and its connections are cut."""
    volume = await attach_volume()
    nqn = target.volume(VOLUME).record.nqn
    await target.detach(VOLUME)
    assert await volume.io.reader.read() == b""
    stranger = await Initiator.open(target.port)
    await stranger.initialize()
    refused = await stranger.connect(nqn)
    assert (refused.code, refused.result) == (Status.CONNECT_INVALID, 1 << 16 | 256)
    await stranger.close()


async def test_volume_that_returns_with_another_serial_is_another_device(
    attach_volume: AttachVolume, target: Target
) -> None:
    """The same bytes under another identity: what a confused control plane could do."""
    volume = await attach_volume()
    await volume.write(0, b"same" + bytes(508))
    await target.pull(VOLUME)
    await target.put_back(VOLUME, serial="vol0badc0ffee0ddf00d")
    assert target.volume(VOLUME).record.device_name == "/dev/sdf"
    async with connect(target) as other:
        identified = await other.admin.run(0x06, cdw10=1, receive=4096)
        assert identified.data[4:24] == b"vol0badc0ffee0ddf00d"
        assert (await other.read(0, 512)).data[:4] == b"same"


async def test_everything_survives_a_restart_of_the_target(tmp_path: Path) -> None:
    """Identity, size, attachment and bytes are on disk; hosts find the volume again."""
    async with Target(tmp_path, port=0) as before:
        await before.create(VOLUME, size_bytes=SIZE_BYTES, is_multi_attach=True)
        await before.attach(VOLUME, device_name="/dev/sdg")
        await before.grow(VOLUME, 2 * SIZE_BYTES)
        async with connect(before) as volume:
            await volume.write(SIZE_BYTES, b"kept" + bytes(508))
        record = before.volume(VOLUME).record
    async with Target(tmp_path, port=0) as after:
        assert after.volume(VOLUME).record == record
        async with connect(after) as volume:
            assert (await volume.read(SIZE_BYTES, 512)).data[:4] == b"kept"


async def test_snapshot_is_the_volume_at_one_moment(
    attach_volume: AttachVolume, target: Target, tmp_path: Path
) -> None:
    """What is written after the snapshot began is not in it, and a volume made of it has what is."""
    volume = await attach_volume()
    await volume.write(0, b"then" + bytes(508))
    copying = asyncio.create_task(target.snapshot(VOLUME, tmp_path / "snapshot"))
    await asyncio.sleep(0)
    assert (await volume.write(0, b"now." + bytes(508))).status == 0
    await copying
    assert (tmp_path / "snapshot").stat().st_size == SIZE_BYTES
    restored = await attach_volume(OTHER, size_bytes=2 * SIZE_BYTES, source=tmp_path / "snapshot")
    assert (await restored.read(0, 512)).data[:4] == b"then"
    assert (await volume.read(0, 512)).data[:4] == b"now."


async def test_volume_is_not_made_smaller_than_its_snapshot(target: Target, tmp_path: Path) -> None:
    """A snapshot's bytes all have to fit."""
    (tmp_path / "snapshot").write_bytes(bytes(SIZE_BYTES))
    with pytest.raises(TargetError, match="smaller"):
        await target.create(VOLUME, size_bytes=SIZE_BYTES // 2, source=tmp_path / "snapshot")


async def test_two_targets_never_serve_one_directory(target: Target) -> None:
    """Two writers of one file would be two truths."""
    with pytest.raises(TargetError, match="another target"):
        await Target(target.directory, port=0).start()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"volume_id": "vol-1"}', "null"])
async def test_record_that_cannot_be_read_stops_the_target(tmp_path: Path, content: str) -> None:
    """A damaged record is named, never guessed at."""
    (tmp_path / f"{VOLUME}.json").write_text(content)
    with pytest.raises(TargetError, match=VOLUME):
        await Target(tmp_path, port=0).start()


async def test_attached_volume_is_not_deleted(target: Target) -> None:
    """Bytes somebody may be using stay."""
    await target.create(VOLUME, size_bytes=SIZE_BYTES)
    await target.attach(VOLUME)
    with pytest.raises(TargetError, match="attached"):
        await target.delete(VOLUME)
    await target.detach(VOLUME)
    await target.delete(VOLUME)
    assert list(target.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["../etc/passwd", "vol-", "vol-XYZ", "vol-0123456789abcdef0/", ""])
async def test_name_that_is_not_a_volume_id_never_becomes_a_path(target: Target, name: str) -> None:
    """Volume IDs are file names."""
    with pytest.raises(TargetError, match="not a volume"):
        await target.create(name, size_bytes=SIZE_BYTES)
