"""Proves that a device is blank, by reading it: past the page cache, in places nobody can foresee.

Never trusts a claim about what is there: holes, discarded ranges and missing signatures are no proof, nor is
who made the volume, and when: what was done with it since stands nowhere. One
byte that is not zero, one read that fails or falls short, a size that changes: each ends the proof.

What is read
    A volume of up to 1 GiB is read whole. Of a larger one

    * the first and last 16 MiB: partition tables and their backups, LVM, LUKS, md, ZFS labels, swap, the
      superblock of nearly every filesystem and what mkfs writes behind it, the head and tail of any file;
    * the places of backup superblocks: ext2/3/4 for every block size, XFS allocation groups for the numbers
    of
      groups mkfs chooses, btrfs mirrors, OCFS2 backups, and every power of two;
    * 4096 samples of 64 KiB, one at a random place in each of 4096 equal strata.

    That is under 300 MiB in some 4400 reads whatever the size: 2.4 s at 125 MiB/s, a gp3 volume's baseline,
    and 1.5 s at its 3000 reads a second. A volume of 1 GiB takes 8 s.

What it can miss
    Let V be the volume's size, S = V / 4096 a stratum, and let the data lie outside the fixed places. Starts
    of neighbouring samples are less than 2 S apart, so an unbroken run of e >= 2 S bytes is always found. A
    shorter one is missed with a probability of at most (1 - e / 2S)², and k of them in strata of their own,
    which are drawn independently, are all missed with at most that to the power of k. Of data in a random
    fraction p of all 4 KiB pages, 65536 pages are seen, and all miss with (1 - p) ** 65536.

    =========  ========  ============================  =======================================
    volume     S         a run that is always found    random pages found with 99.9 %, p from
    =========  ========  ============================  =======================================
    100 GiB    25 MiB    50 MiB                        0.0105 %  (11 MiB)
    1 TiB      256 MiB   512 MiB                       0.0105 %  (110 MiB)
    16 TiB     4 GiB     8 GiB                         0.0105 %  (1.7 GiB)
    64 TiB     16 GiB    32 GiB                        0.0105 %  (6.9 GiB)
    =========  ========  ============================  =======================================

    A single sector in the middle of a large volume is found with a probability of 64 KiB / S only: 0.25 % on
    100 GiB. So blankness by sampling protects volumes somebody uses, which hold a filesystem, a database or a
    file at all; it is no proof about one planted byte, and the volumes for which that matters are ``format:
    never``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, takewhile
from typing import NamedTuple, Protocol

from agent.core.errors import VanishedError
from agent.core.exhaustion import is_shortage
from agent.core.model import Blank, Foreign, Unknown
from agent.core.units import GIB, KIB, MIB, TIB
from agent.node.device import open_device

_PAGE = 4 * KIB
"""Places and lengths are multiples of it: any logical sector EBS has divides it, as direct reads need."""
_CHUNK = 1 * MIB
_THREADS = 4
"""Reads in flight. One at a time is bound by the latency of a network disk, not by its throughput."""


_WHOLE_BYTES = 1 * GIB
_EDGE_BYTES = 16 * MIB
_SAMPLES = 4096
_SAMPLE_BYTES = 64 * KIB


class ReadPlace(NamedTuple):
    """A stretch of the device to read."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


def prove_blank(fd: int, size_bytes: int, rng: random.Random | None = None) -> Blank | Foreign | Unknown:
    """Read the device open at ``fd`` and return Blank only where everything read was there and zero.

    ``rng`` chooses the places; by default the kernel's random numbers, which nobody can foresee.
    """
    if size_bytes <= 0:
        return Unknown("the device has no size")
    places = choose_places(size_bytes, rng or random.SystemRandom())
    try:
        direct = open_device.reopen(fd, os.O_RDONLY | os.O_DIRECT)
    except (OSError, VanishedError) as error:
        if is_shortage(error):
            raise
        return Unknown(f"the device could not be opened for direct reads ({error})")
    try:
        found = scan_places(direct, places)
        if found is None and open_device.read_size(direct) != size_bytes:
            found = Unknown("its size changed while it was read")
    except OSError as error:
        if is_shortage(error):
            raise
        return Unknown(f"it could not be read ({os.strerror(error.errno or 0)})")
    finally:
        direct.close()
    if found is not None:
        return found
    sampled_bytes = sum(place.length for place in places)
    return Blank(sampled_bytes=sampled_bytes, is_whole=sampled_bytes == size_bytes)


def holds_data(fd: int, offset_bytes: int, size_bytes: int) -> bool:
    """Tell whether a page that held data still does, by one direct read; whatever fails, raises nothing.

    False proves nothing: what is there by now, or kept it from being read, is for a proof to say.
    """
    start = offset_bytes // _PAGE * _PAGE
    length = min(_PAGE, size_bytes - start)
    if length <= 0:
        return False
    try:
        direct = open_device.reopen(fd, os.O_RDONLY | os.O_DIRECT)
    except (OSError, VanishedError):
        return False
    try:
        return isinstance(scan_places(direct, [ReadPlace(start, length)]), Foreign)
    finally:
        direct.close()


# -- Where to read -------------------------------------------------------------------------------------------


def choose_places(size_bytes: int, rng: random.Random) -> list[ReadPlace]:
    """Return what to read of a device of ``size_bytes``: ascending, not overlapping, at most 1 MiB each."""
    if size_bytes <= _WHOLE_BYTES:
        return list(_split([ReadPlace(0, size_bytes)]))
    wanted = [
        ReadPlace(0, _EDGE_BYTES),
        ReadPlace(size_bytes - _EDGE_BYTES, _EDGE_BYTES),
        *(ReadPlace(offset, 16 * KIB) for offset in _list_ext_backups(size_bytes)),
        *(ReadPlace(max(0, offset - 16 * KIB), 64 * KIB) for offset in _list_xfs_groups(size_bytes)),
        *(ReadPlace(offset, 16 * KIB) for offset in _list_powers(size_bytes)),
        *_choose_samples(size_bytes, rng),
    ]
    return list(_split(_merge(wanted, size_bytes)))


def _list_ext_backups(size_bytes: int) -> Iterator[int]:
    """Yield where ext2/3/4 keep superblock copies: group 1 and the powers of 3, 5 and 7 (sparse_super)."""
    for block in (1 * KIB, 2 * KIB, 4 * KIB, 64 * KIB):
        # A group has as many blocks as one block has bits; with 1 KiB blocks the boot block comes before
        # them.
        group, first = 8 * block * block, block if block == KIB else 0
        for base in (3, 5, 7):
            yield from takewhile(
                lambda offset: offset < size_bytes,
                (base**power * group + first for power in count()),
            )


def _list_xfs_groups(size_bytes: int) -> Iterator[int]:
    """Yield where mkfs.xfs puts allocation groups: in 4, 8, 16 or 32 parts, or every 1 TiB less a block."""
    for groups in (4, 8, 16, 32):
        yield from (size_bytes * number // groups for number in range(1, groups))
    most = TIB - _PAGE
    yield from range(most, size_bytes, most)


def _list_powers(size_bytes: int) -> Iterator[int]:
    """Yield every power of two from 16 MiB on: btrfs mirrors, OCFS2 backups, where partitions start."""
    return takewhile(lambda offset: offset < size_bytes, (16 * MIB << power for power in count()))


def _choose_samples(size_bytes: int, rng: random.Random) -> Iterator[ReadPlace]:
    """Yield one random sample from each of ``_SAMPLES`` equal strata."""
    pages = (size_bytes - _SAMPLE_BYTES) // _PAGE
    # All randomness at once: the kernel is asked for it by a system call each time.
    draws = memoryview(rng.getrandbits(64 * _SAMPLES).to_bytes(8 * _SAMPLES, "little")).cast("Q")
    for number, draw in enumerate(draws):
        low, high = pages * number // _SAMPLES, pages * (number + 1) // _SAMPLES
        yield ReadPlace((low + (draw * (high - low) >> 64)) * _PAGE, _SAMPLE_BYTES)


def _merge(places: Sequence[ReadPlace], size_bytes: int) -> Iterator[ReadPlace]:
    """Yield ``places`` aligned, cut to the device, ascending, and with overlaps made one."""
    start = end = 0
    for place in sorted(places):
        low = place.offset // _PAGE * _PAGE
        high = min(-(-place.end // _PAGE) * _PAGE, size_bytes)
        if low > end:
            yield ReadPlace(start, end - start)
            start = low
        end = max(end, high)
    yield ReadPlace(start, end - start)


def _split(places: Sequence[ReadPlace] | Iterator[ReadPlace]) -> Iterator[ReadPlace]:
    for place in places:
        for offset in range(place.offset, place.end, _CHUNK):
            yield ReadPlace(offset, min(_CHUNK, place.end - offset))


# -- Reading -------------------------------------------------------------------------------------------------


class Read(Protocol):
    """``os.preadv``: fill the buffers from ``offset`` on, return how many bytes there were."""

    def __call__(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int: ...


def scan_places(fd: int, places: Sequence[ReadPlace], read: Read = os.preadv) -> Foreign | Unknown | None:
    """Read all places; return what ends the proof, None where everything is there and zero."""
    stop = threading.Event()
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda first: _scan_some(fd, places[first::_THREADS], read, stop), range(_THREADS))
        ends = [end for end in found if end is not None]
    # A failed read says less than a byte that was found.
    return next((end for end in ends if isinstance(end, Foreign)), ends[0] if ends else None)


def _scan_some(
    fd: int, places: Sequence[ReadPlace], read: Read, stop: threading.Event
) -> Foreign | Unknown | None:
    with mmap.mmap(-1, _CHUNK) as buffer:
        for place in places:
            if stop.is_set():
                return None
            end = _read_place(fd, place, buffer, read)
            if end is not None:
                stop.set()
                return end
    return None


def _read_place(fd: int, place: ReadPlace, buffer: mmap.mmap, read: Read) -> Foreign | Unknown | None:
    try:
        with memoryview(buffer) as whole, whole[: place.length] as view:
            read_bytes = read(fd, [view], place.offset)
    except OSError as error:
        if is_shortage(error):
            raise
        words = os.strerror(error.errno or errno.EIO)
        return Unknown(f"reading {place.length} bytes at {place.offset} failed ({words})")
    if read_bytes != place.length:
        return Unknown(f"reading {place.length} bytes at {place.offset} gave {read_bytes}")
    if is_zero(buffer, place.length):
        return None
    content = buffer[: place.length]
    offset_bytes = place.offset + place.length - len(content.lstrip(b"\0"))
    return Foreign(f"data at byte {offset_bytes}", offset_bytes, is_signed=False)


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def is_zero(buffer: mmap.mmap, length: int) -> bool:
    """Whether the first ``length`` bytes are zero: the first one is, and each equals the one before it."""
    view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    address = ctypes.addressof(view)
    same = length <= 1 or _memcmp(address, address + 1, length - 1) == 0
    del view
    return same and buffer[0] == 0
