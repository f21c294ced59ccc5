from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.core.model import Foreign, Unknown
from agent.core.units import GIB, KIB, MIB, TIB
from agent.node.content.blankness import (
    ReadPlace,
    choose_places,
    is_zero,
    prove_blank,
    scan_places,
)

SECTOR = 512
SIZES = st.integers(1, 64 * TIB // SECTOR).map(lambda sectors: sectors * SECTOR)


def make_dice(seed: int = 1) -> random.Random:
    return random.Random(seed)  # noqa: S311 -- the same places in every run of the test


def covers(places: Sequence[ReadPlace], offset: int) -> bool:
    return any(place.offset <= offset < place.end for place in places)


@given(SIZES, st.integers())
@example(SECTOR, 0)
@example(GIB, 0)
@example(GIB + SECTOR, 0)
@example(64 * TIB, 0)
@example(64 * TIB - SECTOR, 0)
def test_places_are_readable(size_bytes: int, seed: int) -> None:
    """Of any size: ascending, apart, inside, aligned for direct reads, within a buffer, both ends there."""
    places = choose_places(size_bytes, make_dice(seed))
    end = 0
    for place in places:
        assert place.offset >= end
        assert place.offset % (4 * KIB) == 0
        assert place.length % SECTOR == 0
        assert 0 < place.length <= MIB
        end = place.end
    assert places[0].offset == 0
    assert end == size_bytes


@settings(max_examples=30)
@given(SIZES)
@example(64 * TIB)
@example(GIB)
@example(GIB + SECTOR)
def test_cost_is_bounded(size_bytes: int) -> None:
    """Beyond 1 GiB no size costs more than 300 MiB and 4400 reads; up to 1 GiB every byte is read."""
    places = choose_places(size_bytes, make_dice())
    total = sum(place.length for place in places)
    if size_bytes <= GIB:
        assert total == size_bytes
    else:
        assert total < 300 * MIB
        assert len(places) < 4400


@pytest.mark.parametrize("size_bytes", [2 * GIB, 100 * GIB, 3 * TIB, 64 * TIB])
def test_structures_are_always_read(size_bytes: int) -> None:
    """Where superblocks, their backups and partition tables are kept is read whatever the dice say."""
    places = choose_places(size_bytes, make_dice())
    block = 4 * KIB
    group = 8 * block * block
    offsets = [
        *(0, SECTOR, KIB, 4 * KIB, 64 * KIB, MIB, 8 * MIB, 16 * MIB - 1),
        *(size_bytes - back for back in (1, SECTOR, 8 * KIB, 64 * KIB, 128 * KIB, MIB, 16 * MIB)),
        *(group * number for number in (1, 3, 5, 7, 9) if group * number < size_bytes),
        *(8 * MIB * number + KIB for number in (1, 3, 5, 7, 9, 25, 27)),
        *(64 * MIB, 256 * GIB if size_bytes > 256 * GIB else 64 * MIB),
        *(size_bytes * part // 4 // block * block for part in (1, 2, 3)),
    ]
    for offset in offsets:
        assert covers(places, offset), offset


@settings(max_examples=30)
@given(st.integers(2, 64 * KIB).map(lambda gib: gib * GIB), st.integers(), st.floats(0, 1))
def test_long_run_of_data_cannot_hide(size_bytes: int, seed: int, where: float) -> None:
    """A run of two strata is hit by a sample wherever it lies: what the documentation promises."""
    places = choose_places(size_bytes, make_dice(seed))
    run = 2 * size_bytes // 4096
    start = int(where * (size_bytes - run))
    assert any(place.offset < start + run and place.end > start for place in places)


def test_places_cannot_be_foreseen() -> None:
    """Two proofs of the same volume look at different places, beyond the fixed ones."""
    first, second = (set(choose_places(TIB, random.SystemRandom())) for _ in range(2))
    assert len(first & second) < len(first) // 10


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 64 * MIB)
    yield fd
    os.close(fd)


PLACES = [ReadPlace(MIB * number, MIB) for number in range(64)]


def test_zeros_end_no_proof(image: int) -> None:
    """A file of zeros, holes or not, gives nothing to object to."""
    os.pwrite(image, bytes(MIB), 5 * MIB)
    assert scan_places(image, PLACES) is None


@pytest.mark.parametrize("offset", [0, 1, SECTOR, MIB - 1, MIB, 33 * MIB + 12345, 64 * MIB - 1])
def test_one_bit_ends_the_proof(image: int, offset: int) -> None:
    """A single bit in what is read is data, and its place is told."""
    os.pwrite(image, b"\x80", offset)
    assert scan_places(image, PLACES) == Foreign(f"data at byte {offset}", offset, is_signed=False)


@pytest.mark.parametrize("number", [0, 1, 17, 63])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENXIO, errno.ENODATA, errno.EINVAL])
def test_read_that_fails_ends_the_proof(image: int, number: int, failure: int) -> None:
    """One failed read anywhere means that nothing is known, never blank."""

    def read(fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        if offset == number * MIB:
            raise OSError(failure, "injected")
        return os.preadv(fd, buffers, offset)

    found = scan_places(image, PLACES, read)
    assert isinstance(found, Unknown)
    assert os.strerror(failure) in found.why


@pytest.mark.parametrize("length", [0, SECTOR, MIB - SECTOR])
def test_short_read_ends_the_proof(image: int, length: int) -> None:
    """A read that gives less than was asked proves nothing about the rest."""

    def read(fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        return length if offset == 40 * MIB else os.preadv(fd, buffers, offset)

    found = scan_places(image, PLACES, read)
    assert isinstance(found, Unknown)
    assert f"gave {length}" in found.why


def test_data_counts_more_than_a_failed_read(image: int) -> None:
    """Where one read fails and another finds data, data is what is reported."""
    os.pwrite(image, b"x", 3)

    def read(fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        if offset == MIB:
            raise OSError(errno.EIO, "injected")
        return os.preadv(fd, buffers, offset)

    for _ in range(20):
        # Which of two threads is first is chance; both outcomes are no proof.
        assert isinstance(scan_places(image, PLACES[:2], read), Foreign | Unknown)
    assert isinstance(scan_places(image, [PLACES[0]], read), Foreign)


def test_what_is_no_block_device_is_unknown(image: int) -> None:
    """Without the kernel's word on its size nothing is proven about a descriptor."""
    assert isinstance(prove_blank(image, 64 * MIB), Unknown)


def test_device_without_a_size_is_unknown(image: int) -> None:
    """A device of no bytes, as a failed controller shows, is not blank."""
    assert isinstance(prove_blank(image, 0), Unknown)


@given(st.integers(1, 3 * KIB), st.data())
def test_is_zero_sees_every_byte(length: int, data: st.DataObject) -> None:
    """The comparison sees each byte up to the length, and none beyond."""
    with mmap.mmap(-1, 4 * KIB) as buffer:
        buffer[length] = 1
        assert is_zero(buffer, length)
        buffer[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(1, 255))
        assert not is_zero(buffer, length)
