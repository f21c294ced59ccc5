"""What the superblocks of ext4, XFS and btrfs say. Pure functions on bytes that anyone may have written.

Layouts: Linux's ``fs/ext4/ext4.h``, ``fs/xfs/libxfs/xfs_format.h``, ``include/uapi/linux/btrfs_tree.h``. A
superblock that contradicts its own checksum, or belongs to a filesystem spread over several devices, is none
the agent can use: ValueError says why, the latter as SpreadError.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import uuid
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct

from agent.core.model import FsType

_EXT_MAGIC = 0xEF53
_EXT_SUPERBLOCK_BYTES = 1024
_EXT_MAX_LOG_BLOCK_SIZE = 6
_EXT_ERRORS_PANIC = 3
_XFS_VERSION_WITH_CRC = 5
_XFS_SECTOR_SIZES = frozenset({512, 1024, 2048, 4096, 8192, 16384, 32768})


class TornError(ValueError):
    """It contradicts its own checksum: it is damaged, or was read while it was written."""


class SpreadError(ValueError):
    """Part of the filesystem is on another device, which whoever checks or mounts it writes to as well."""


class Superblock(Struct, frozen=True):
    """The facts of a filesystem that the agent acts on."""

    uuid: str
    label: str | None
    size_bytes: int
    has_errors: bool
    is_pristine: bool | None = None
    """Never mounted since mkfs began; None where the superblock cannot tell."""
    is_panicking: bool = False
    """The kernel is to panic at an error of this filesystem, where the mount does not say otherwise."""


class Layout(Struct, frozen=True):
    """Where a filesystem keeps its superblock, and how it is read. ``parse`` raises ValueError."""

    offset_bytes: int
    length_bytes: int
    parse: Callable[[bytes], Superblock]


def parse_ext4_size(raw: bytes) -> tuple[int, int]:
    """Return how many blocks an ext4 superblock counts, and the bytes of each; ValueError for none."""
    if len(raw) < _EXT_SUPERBLOCK_BYTES or _u16(raw, 0x38) != _EXT_MAGIC:
        raise ValueError("an ext4 superblock without its magic number")
    log_block_size = _u32(raw, 0x18)
    if log_block_size > _EXT_MAX_LOG_BLOCK_SIZE:
        raise ValueError("an ext4 superblock with an impossible block size")
    is_64bit = bool(_u32(raw, 0x60) & 0x80)
    return _u32(raw, 0x4) | (_u32(raw, 0x150) << 32 if is_64bit else 0), 1024 << log_block_size


def parse_ext4(raw: bytes) -> Superblock:
    """Return what an ext4 superblock (1024 bytes, found at 1024) says."""
    blocks, block_bytes = parse_ext4_size(raw)
    incompat, ro_compat = _u32(raw, 0x60), _u32(raw, 0x64)
    if incompat & 0x8:
        raise SpreadError("the journal of another ext4 filesystem")
    if ro_compat & 0x400 and crc32c(raw[:0x3FC], finish=False) != _u32(raw, 0x3FC):
        raise TornError("an ext4 filesystem whose superblock is damaged (checksum)")
    if _has_external_journal(raw):
        raise SpreadError("an ext4 filesystem whose journal is on another device")
    return Superblock(
        uuid=str(uuid.UUID(bytes=raw[0x68:0x78])),
        label=_read_label(raw[0x78:0x88]),
        size_bytes=blocks * block_bytes,
        has_errors=bool(_u16(raw, 0x3A) & 0x2),
        # Mount count, time of the last mount, and a journal to replay: each mount for writing leaves one of
        # them.
        is_pristine=_u16(raw, 0x34) == 0 and _u32(raw, 0x2C) == 0 and not incompat & 0x4,
        is_panicking=_u16(raw, 0x3C) == _EXT_ERRORS_PANIC,
    )


def _has_external_journal(raw: bytes) -> bool:
    """Tell whether an ext4 superblock names a journal elsewhere, by number or by UUID.

    The kernel heeds the number, e2fsck looks for the UUID on every device, and heeds both also where the
    feature is not set (e2fsprogs, ``e2fsck/journal.c``, e2fsck_check_ext3_journal).
    """
    has_journal, inode = _u32(raw, 0x5C) & 0x4, _u32(raw, 0xE0)
    return bool(_u32(raw, 0xE4) or any(raw[0xD0:0xE0]) or (has_journal and inode == 0))


def parse_xfs(raw: bytes) -> Superblock:
    """Return what an XFS superblock (found at 0; ``raw`` holds at least 4096 bytes) says."""
    if raw[:4] != b"XFSB":
        raise ValueError("an XFS superblock without its magic number")
    block_size, blocks, realtime_blocks = struct.unpack_from(">IQQ", raw, 4)
    (log_start,) = struct.unpack_from(">Q", raw, 48)
    version, sector_size = struct.unpack_from(">HH", raw, 100)
    has_crc = version & 0xF == _XFS_VERSION_WITH_CRC
    if sector_size not in _XFS_SECTOR_SIZES or sector_size > len(raw):
        raise ValueError("an XFS superblock with an impossible sector size")
    if has_crc:
        content = raw[:224] + bytes(4) + raw[228:sector_size]
        if crc32c(content) != struct.unpack_from("<I", raw, 224)[0]:
            raise TornError("an XFS filesystem whose superblock is damaged (checksum)")
    if log_start == 0:
        raise SpreadError("an XFS filesystem whose log is on another device")
    if realtime_blocks:
        raise SpreadError("an XFS filesystem with a realtime device")
    needs_repair = has_crc and struct.unpack_from(">I", raw, 216)[0] & 0x10
    return Superblock(
        uuid=str(uuid.UUID(bytes=raw[32:48])),
        label=_read_label(raw[108:120]),
        size_bytes=block_size * blocks,
        has_errors=bool(needs_repair or raw[126]),
        # mkfs.xfs takes this mark away last, and the kernel mounts nothing that has it.
        is_pristine=True if raw[126] else None,
    )


def parse_btrfs(raw: bytes) -> Superblock:
    """Return what a btrfs superblock (4096 bytes, found at 64 KiB) says."""
    if raw[64:72] != b"_BHRfS_M":
        raise ValueError("a btrfs superblock without its magic number")
    (flags,) = struct.unpack_from("<Q", raw, 56)
    (devices,) = struct.unpack_from("<Q", raw, 136)
    (checksum_type,) = struct.unpack_from("<H", raw, 196)
    (size_bytes,) = struct.unpack_from("<Q", raw, 201 + 8)
    checksum = _BTRFS_CHECKSUMS.get(checksum_type)
    if checksum is not None:
        expected = checksum(raw[32:4096])
        if raw[: len(expected)] != expected:
            raise TornError("a btrfs filesystem whose superblock is damaged (checksum)")
    if devices != 1:
        raise SpreadError(f"one of the {devices} devices of a btrfs filesystem")
    if flags & (1 << 32 | 1 << 33 | 1 << 34):
        raise SpreadError("a btrfs seed device or metadata image")
    return Superblock(
        uuid=str(uuid.UUID(bytes=raw[32:48])),
        label=_read_label(raw[299 : 299 + 256]),
        size_bytes=size_bytes,
        has_errors=bool(flags & (1 << 2)),
    )


_SETTLING_READS = 16


def parse_settled(layout: Layout, read: Callable[[], bytes]) -> Superblock:
    """Return what the superblock of a mounted filesystem says, which changes while it is read.

    On a busy ext4 one read in some hundred does not match its own checksum. Such a one says nothing, so what
    ``read`` returns is taken once it is whole. Raises ValueError where it stays as it is.
    """
    for _ in range(_SETTLING_READS - 1):
        with contextlib.suppress(TornError):
            return layout.parse(read())
    return layout.parse(read())


LAYOUTS: dict[FsType, Layout] = {
    FsType.EXT4: Layout(1024, _EXT_SUPERBLOCK_BYTES, parse_ext4),
    FsType.XFS: Layout(0, 4096, parse_xfs),
    FsType.BTRFS: Layout(65536, 4096, parse_btrfs),
}
FS_TYPES = {fs_type.value: fs_type for fs_type in LAYOUTS}
"""By the name that the kernel and libblkid have for each."""


def _u16(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 2], "little")


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _read_label(raw: bytes) -> str | None:
    return raw.split(b"\0")[0].decode("utf-8", "replace") or None


def _make_crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC32C = _make_crc32c_table()


def crc32c(content: bytes, *, finish: bool = True) -> int:
    """Return the CRC-32C of at most some KiB; ext4 stores it without the final inversion."""
    crc = _divide(content)
    return crc ^ 0xFFFFFFFF if finish else crc


@lru_cache(maxsize=256)  # a superblock at rest is read again and again as it was
def _divide(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc


# By ``csum_type``. xxhash (1) is in no standard library; the kernel checks it at mount.
_BTRFS_CHECKSUMS: dict[int, Callable[[bytes], bytes]] = {
    0: lambda content: crc32c(content).to_bytes(4, "little"),
    2: lambda content: hashlib.sha256(content).digest(),
    3: lambda content: hashlib.blake2b(content, digest_size=32).digest(),
}
