"""Shows from the bytes on a device whether an interrupted mkfs left them. Reads only; runs in a worker.

A note that a format was begun does not say who wrote what is there: someone may have used the volume since.
So each page that is not zero must be explained by mkfs, at every place where a proof of blankness reads:

* XFS: each sector bears the UUID the note has, or belongs to an empty log or free list;
* btrfs: each page lies in a block that bears the UUID and matches its own checksum;
* ext4, whose tables bear neither: the page differs in at most 64 bytes (times, counts, checksums) from the
  same page of a filesystem made anew with the same UUID and options in memory, and all that mkfs is about to
  write over is read.

One page that is not explained, and the volume is foreign. What this cannot see: bytes beyond the sampled
places, as with blankness; and fewer than 64 bytes, or less than a sector, written into the very pages that
mkfs wrote.
"""

from __future__ import annotations

import errno
import os
import random
import uuid
from collections.abc import Callable, Iterable, Iterator

from agent.core.exhaustion import is_shortage
from agent.core.model import Device, Foreign, FormatRecord, FsType, Unknown
from agent.core.units import MIB, TIB
from agent.node.content.blankness import ReadPlace, choose_places
from agent.node.content.superblocks import crc32c
from agent.node.isolate.messages import Fd
from agent.node.kernel.sysfs import SECTOR_BYTES

PAGE_BYTES = 4096
_DIFFERENCE_BYTES = 64
"""Measured: 37 in a page of inodes, 23 in a superblock, between two runs of mkfs.ext4 1.47."""
_DIFFERENCE_WHERE_ZERO_BYTES = 4
_LOG_BYTES = 16
"""What an empty XFS log has behind its cycle number: the header and body of one unmount record."""
_XFS_MAGICS = (
    *(b"XFSB", b"XAGF", b"XAGI", b"XAFL", b"IN", b"\xfe\xed\xba\xbe"),
    *(b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"RMB3", b"R3FC"),
)
"""What superblock, group headers, inodes, log records and btree blocks begin with (xfs_format.h)."""
_BTRFS_BLOCKS = (16384, 4096, 8192, 32768, 65536)

REFERENCE_LIMIT_BYTES = 16 * TIB
"""Of a larger ext4 the reference's group descriptors alone would take more memory than a node should give."""

Judge = Callable[[int, int, bytes], bool]
"""Of the device's descriptor, a page's offset and its content: whether the interrupted mkfs wrote it."""


def explain_remains(
    fd: int, device: Device, record: FormatRecord, reference: Fd | None, rng: random.Random | None = None
) -> Foreign | Unknown:
    """Return Foreign, with ``is_own_remains`` where the format that was noted explains all that was read.

    ``reference`` is a file with the same filesystem made anew; for ext4 nothing is explained without it.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    judge = _choose_judge(record, reference)
    places = choose_places(device.size_bytes, rng or random.SystemRandom())
    if reference is not None:
        places = [*places, *_list_written(reference)]
    try:
        for offset, page in _read_pages(fd, places, device.size_bytes):
            if not judge(fd, offset, page):
                what = f"data at byte {offset} that the interrupted format did not write"
                return Foreign(what, offset, is_signed=False)
    except OSError as error:
        if is_shortage(error):
            raise
        return Unknown(f"it could not be read ({os.strerror(error.errno or 0)})")
    return Foreign("what an interrupted format left", is_signed=False, is_own_remains=True)


def _read_pages(fd: int, places: Iterable[ReadPlace], size_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield every page that is not zero."""
    for place in places:
        for start in range(place.offset, place.end, MIB):
            length = min(MIB, place.end - start, size_bytes - start)
            chunk = os.pread(fd, length, start)
            if len(chunk) != length:
                raise OSError(errno.EIO, "a read fell short")
            if chunk.strip(b"\0"):
                for offset in range(0, length, PAGE_BYTES):
                    page = chunk[offset : offset + PAGE_BYTES]
                    if page.strip(b"\0"):
                        yield start + offset, page


def _list_written(reference: int) -> Iterator[ReadPlace]:
    """Yield what mkfs has written of its file, in whole pages."""
    end = 0
    while True:
        try:
            start = os.lseek(reference, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(reference, start, os.SEEK_HOLE)
        start = start // PAGE_BYTES * PAGE_BYTES
        yield ReadPlace(start, -(-(end - start) // PAGE_BYTES) * PAGE_BYTES)


# -- What explains a page ------------------------------------------------------------------------------------


def _choose_judge(record: FormatRecord, reference: int | None) -> Judge:
    raw_uuid = uuid.UUID(record.uuid).bytes
    if record.type is FsType.XFS:
        return lambda _fd, _offset, page: is_xfs_page(page, raw_uuid)
    if record.type is FsType.BTRFS:
        return lambda fd, offset, _page: _is_in_btrfs_block(fd, offset, raw_uuid)
    if reference is None:
        return lambda _fd, _offset, _page: False
    return lambda _fd, offset, page: resembles(page, os.pread(reference, PAGE_BYTES, offset))


def is_xfs_page(page: bytes, raw_uuid: bytes) -> bool:
    """Whether mkfs.xfs wrote the page for the filesystem of this UUID."""
    has_uuid = raw_uuid in page
    for start in range(0, len(page), SECTOR_BYTES):
        sector = page[start : start + SECTOR_BYTES]
        is_free_list = has_uuid and not sector.strip(b"\xff")
        is_zero = not sector.strip(b"\0")
        is_structure = raw_uuid in sector and sector.startswith(_XFS_MAGICS)
        if not (is_zero or is_structure or is_free_list or _is_empty_log(sector)):
            return False
    return True


def _is_empty_log(sector: bytes) -> bool:
    # The log is written in cycles, and each of its sectors begins with the number of its own.
    return sector[:4] == b"\0\0\0\1" and len(sector) - 4 - sector[4:].count(0) <= _LOG_BYTES


def _is_in_btrfs_block(fd: int, offset: int, raw_uuid: bytes) -> bool:
    for size_bytes in _BTRFS_BLOCKS:
        block = os.pread(fd, size_bytes, offset // size_bytes * size_bytes)
        if is_btrfs_block(block, raw_uuid):
            return True
    return False


def is_btrfs_block(block: bytes, raw_uuid: bytes) -> bool:
    """Whether a block, or a superblock, is whole and of the filesystem of this UUID."""
    return block[32:48] == raw_uuid and block[:32] == crc32c(block[32:]).to_bytes(4, "little") + bytes(28)


def resembles(page: bytes, reference: bytes) -> bool:
    """Whether a page is one of mkfs's own, as it is in the end or was on the way there.

    Where the reference is zero the page must be, but for a few bytes: a checksum's that happen to be zero
    there.
    """
    if not reference.strip(b"\0"):
        return False
    differing = [theirs for mine, theirs in zip(page, reference, strict=False) if mine not in {0, theirs}]
    return len(differing) <= _DIFFERENCE_BYTES and differing.count(0) <= _DIFFERENCE_WHERE_ZERO_BYTES
