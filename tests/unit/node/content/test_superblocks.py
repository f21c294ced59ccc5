from __future__ import annotations

import hashlib
import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import FsType
from agent.node.content.superblocks import (
    LAYOUTS,
    SpreadError,
    Superblock,
    crc32c,
    parse_btrfs,
    parse_ext4,
    parse_settled,
    parse_xfs,
)

UUID = uuid.UUID("0a1b2c3d-0a1b-2c3d-4e5f-0a1b2c3d4e5f")


def make_ext4(
    *, state: int = 1, incompat: int = 0x2C2, ro_compat: int = 0x400, mounts: int = 0, mounted_at: int = 0
) -> bytearray:
    raw = bytearray(1024)
    struct.pack_into("<I", raw, 0x4, 1000)
    struct.pack_into("<I", raw, 0x18, 2)
    struct.pack_into("<I", raw, 0x2C, mounted_at)
    struct.pack_into("<HHHH", raw, 0x34, mounts, 0, 0xEF53, state)
    struct.pack_into("<II", raw, 0x60, incompat, ro_compat)
    raw[0x68:0x78] = UUID.bytes
    raw[0x78:0x88] = b"ckpt".ljust(16, b"\0")
    struct.pack_into("<I", raw, 0x150, 1)
    seal_ext4(raw)
    return raw


def seal_ext4(raw: bytearray) -> None:
    struct.pack_into("<I", raw, 0x3FC, crc32c(bytes(raw[:0x3FC])) ^ 0xFFFFFFFF)


def make_xfs(*, log_start: int = 64, realtime: int = 0, incompat: int = 0, in_progress: int = 0) -> bytearray:
    raw = bytearray(4096)
    struct.pack_into(">4sIQQ", raw, 0, b"XFSB", 4096, 5000, realtime)
    raw[32:48] = UUID.bytes
    struct.pack_into(">Q", raw, 48, log_start)
    struct.pack_into(">HH", raw, 100, 0xB4A5, 512)
    raw[108:120] = b"twelve chars"
    raw[126] = in_progress
    struct.pack_into(">I", raw, 216, incompat)
    struct.pack_into("<I", raw, 224, crc32c(bytes(raw[:512])))
    return raw


def make_btrfs(*, flags: int = 1, devices: int = 1, checksum_type: int = 0) -> bytearray:
    raw = bytearray(4096)
    raw[32:48] = UUID.bytes
    struct.pack_into("<Q8s", raw, 56, flags, b"_BHRfS_M")
    struct.pack_into("<Q", raw, 136, devices)
    struct.pack_into("<H", raw, 196, checksum_type)
    struct.pack_into("<Q", raw, 209, 1 << 30)
    content = bytes(raw[32:])
    checksums = {
        0: struct.pack("<I", crc32c(content)),
        2: hashlib.sha256(content).digest(),
        3: hashlib.blake2b(content, digest_size=32).digest(),
    }
    checksum = checksums.get(checksum_type, b"\x01" * 8)
    raw[: len(checksum)] = checksum
    return raw


def test_crc32c_check_value() -> None:
    """The checksum of the ASCII digits is the one every description of CRC-32C gives."""
    assert crc32c(b"123456789") == 0xE3069283


def test_ext4() -> None:
    """UUID, label and the 64-bit size are read; a filesystem fresh from mkfs is pristine."""
    size_bytes = (1000 + (1 << 32)) * 4096
    assert parse_ext4(bytes(make_ext4())) == Superblock(str(UUID), "ckpt", size_bytes, False, True)


def test_ext4_small() -> None:
    """Without the 64-bit feature the upper half of the size is no size."""
    assert parse_ext4(bytes(make_ext4(incompat=0x242))).size_bytes == 1000 * 4096


@pytest.mark.parametrize("field", [{"mounts": 1}, {"mounted_at": 1}, {"incompat": 0x2C6}])
def test_ext4_that_was_mounted_is_not_pristine(field: dict[str, int]) -> None:
    """A mount count, a time of mount or a journal to replay shows that it was mounted."""
    assert parse_ext4(bytes(make_ext4(**field))).is_pristine is False


def test_ext4_error_flag() -> None:
    """The error flag of the superblock is told."""
    assert parse_ext4(bytes(make_ext4(state=3))).has_errors


def test_ext4_journal_device_is_no_filesystem() -> None:
    """The external journal of another filesystem has the same magic number and is not one."""
    with pytest.raises(ValueError, match="journal"):
        parse_ext4(bytes(make_ext4(incompat=0x8)))


@pytest.mark.parametrize(("offset", "value"), [(0xE4, b"\x10\x08\0\0"), (0xD0, UUID.bytes), (0xE0, bytes(4))])
def test_ext4_with_its_journal_elsewhere_is_refused(offset: int, value: bytes) -> None:
    """A number or a UUID of another device, or a journal that is no file of this one."""
    raw = make_ext4()
    struct.pack_into("<I", raw, 0x5C, 0x4)
    struct.pack_into("<I", raw, 0xE0, 8)
    seal_ext4(raw)
    parse_ext4(bytes(raw))
    raw[offset : offset + len(value)] = value
    seal_ext4(raw)
    with pytest.raises(SpreadError, match="journal is on another device"):
        parse_ext4(bytes(raw))


@pytest.mark.parametrize(("behaviour", "is_panicking"), [(1, False), (2, False), (3, True)])
def test_ext4_that_panics(behaviour: int, *, is_panicking: bool) -> None:
    """What its errors are to do to the node is told."""
    raw = make_ext4()
    struct.pack_into("<H", raw, 0x3C, behaviour)
    seal_ext4(raw)
    assert parse_ext4(bytes(raw)).is_panicking is is_panicking


def test_superblock_that_changes_while_it_is_read_is_read_again() -> None:
    """What does not match its own checksum says nothing; what was said before it holds after it as well."""
    raw = make_ext4()
    struct.pack_into("<H", raw, 0x3C, 3)
    seal_ext4(raw)
    torn = bytearray(raw)
    torn[0x100] ^= 1
    reads = iter([bytes(torn), bytes(torn), bytes(raw)])
    assert parse_settled(LAYOUTS[FsType.EXT4], lambda: next(reads)).is_panicking
    with pytest.raises(ValueError, match="damaged"):
        parse_settled(LAYOUTS[FsType.EXT4], lambda: bytes(torn))


def test_xfs() -> None:
    """UUID, a label of full length and the size are read; of mounts XFS tells nothing."""
    assert parse_xfs(bytes(make_xfs())) == Superblock(str(UUID), "twelve chars", 5000 * 4096, False, None)


@pytest.mark.parametrize(("field", "words"), [({"log_start": 0}, "log"), ({"realtime": 9}, "realtime")])
def test_xfs_of_several_devices_is_refused(field: dict[str, int], words: str) -> None:
    """An XFS filesystem that needs another device cannot be mounted from this one."""
    with pytest.raises(ValueError, match=words):
        parse_xfs(bytes(make_xfs(**field)))


def test_xfs_that_wants_repair() -> None:
    """The mark xfs_repair leaves when it was interrupted is an error of the filesystem."""
    assert parse_xfs(bytes(make_xfs(incompat=0x10))).has_errors


def test_xfs_half_made() -> None:
    """While mkfs.xfs is at work the superblock says so, and nobody can have mounted it."""
    assert parse_xfs(bytes(make_xfs(in_progress=1))).is_pristine is True


@pytest.mark.parametrize("checksum_type", [0, 1, 2, 3])
def test_btrfs(checksum_type: int) -> None:
    """UUID and size are read, whichever checksum the filesystem uses."""
    superblock = parse_btrfs(bytes(make_btrfs(checksum_type=checksum_type)))
    assert superblock == Superblock(str(UUID), None, 1 << 30, False, None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"devices": 2}, "2 devices"), ({"flags": 1 << 32}, "seed"), ({"flags": 1 << 33}, "seed")],
)
def test_btrfs_of_several_devices_is_refused(fields: dict[str, int], words: str) -> None:
    """One of several devices, a seed and a metadata image are not a filesystem to use."""
    with pytest.raises(ValueError, match=words):
        parse_btrfs(bytes(make_btrfs(**fields)))


@pytest.mark.parametrize(
    ("kind", "raw", "checked_bytes"),
    [
        (FsType.EXT4, make_ext4(), range(0x3FC)),
        (FsType.XFS, make_xfs(), range(512)),
        (FsType.BTRFS, make_btrfs(), range(32, 4096)),
        (FsType.BTRFS, make_btrfs(checksum_type=2), range(32, 4096)),
    ],
)
@given(data=st.data())
def test_damage_is_noticed(kind: FsType, raw: bytearray, checked_bytes: range, data: st.DataObject) -> None:
    """One changed bit under the checksum is never a filesystem, unless it says that it has no checksum."""
    damaged = bytearray(raw)
    offset = data.draw(st.sampled_from(checked_bytes))
    damaged[offset] ^= 1 << data.draw(st.integers(0, 7))
    unchecked = {
        FsType.EXT4: (0x65,),
        FsType.XFS: (100, 101, 102, 103, 224, 225, 226, 227),
        FsType.BTRFS: (196, 197),
    }
    if offset not in unchecked[kind]:
        with pytest.raises(ValueError, match=kind.value):
            parse_insensitive(kind, bytes(damaged))


def parse_insensitive(kind: FsType, raw: bytes) -> None:
    """Parse, and raise with the message in lower case."""
    try:
        LAYOUTS[kind].parse(raw)
    except ValueError as error:
        raise ValueError(str(error).lower()) from error


PATCHES = st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=16)), max_size=8)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (FsType.EXT4, make_ext4(ro_compat=0)),
        (FsType.XFS, make_xfs()),
        (FsType.BTRFS, make_btrfs(checksum_type=1)),
    ],
)
@given(patches=PATCHES)
def test_any_bytes_are_read_or_refused(
    kind: FsType, raw: bytearray, patches: list[tuple[int, bytes]]
) -> None:
    """Whatever is in a superblock, parsing ends with facts or with ValueError."""
    patched = bytearray(raw)
    for offset, content in patches:
        patched[offset : offset + len(content)] = content
    if kind is FsType.XFS:
        patched[100:102] = b"\xb4\xa4"
    try:
        superblock = LAYOUTS[kind].parse(bytes(patched))
    except ValueError:
        return
    assert superblock.size_bytes >= 0
    assert str(uuid.UUID(superblock.uuid)) == superblock.uuid
