"""What counts as written by an interrupted mkfs, and what does not."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from agent.node.content.interrupted_format import PAGE_BYTES, is_btrfs_block, is_xfs_page, resembles
from agent.node.content.superblocks import crc32c

UUID = uuid.UUID("0a1b2c3d-0a1b-4c3d-8e5f-0a1b2c3d4e5f").bytes
DENSE = bytes(range(1, 256)) * 17
REFERENCE = (bytes(1024) + DENSE)[:PAGE_BYTES]
SECTOR = b"XAGF" + bytes(60) + UUID + bytes(512 - 80)


@given(st.binary(min_size=5, max_size=512), st.integers(0, 511))
def test_little_that_others_wrote_where_mkfs_writes_nothing_is_seen(content: bytes, offset: int) -> None:
    """Five bytes that are not zero, where mkfs leaves zeros, are not mkfs's."""
    page = bytearray(REFERENCE)
    page[offset : offset + len(content)] = content
    is_little = sum(1 for byte in content if byte) <= 4
    assert resembles(bytes(page), REFERENCE) == is_little


@given(st.binary(min_size=1, max_size=200))
def test_other_pages_are_not_mkfss(content: bytes) -> None:
    """A page that somebody else wrote whole is known as such, even over a page of mkfs's."""
    page = (content * PAGE_BYTES)[:PAGE_BYTES]
    differing = sum(1 for mine, theirs in zip(page, REFERENCE, strict=True) if mine and mine != theirs)
    if differing > 64:
        assert not resembles(page, REFERENCE)
    assert not resembles(page, bytes(PAGE_BYTES))
    if any(page):
        assert not is_xfs_page(page.replace(UUID, b"").ljust(PAGE_BYTES, b"\1"), UUID)


@given(st.sets(st.integers(0, PAGE_BYTES - 1)))
def test_page_on_its_way_is_mkfss(zeros: set[int]) -> None:
    """What mkfs has not written yet of a page is zero."""
    page = bytes(0 if index in zeros else byte for index, byte in enumerate(REFERENCE))
    assert resembles(page, REFERENCE)


def test_xfs_sectors() -> None:
    """Every sector bears the UUID, is zero, or belongs to an empty log or the free list of its page."""
    log = b"\0\0\0\1" + bytes(508)
    free = b"\xff" * 512
    assert is_xfs_page(SECTOR * 2 + bytes(1024) + log * 2 + free * 2, UUID)
    assert is_xfs_page(log * 8, UUID)
    assert not is_xfs_page(free * 8, UUID)
    assert not is_xfs_page(SECTOR * 7 + b"someone's sector".ljust(512, b"."), UUID)
    assert not is_xfs_page(b"\0\0\0\1" + b"someone's records, numbered".ljust(508, b"."), UUID)


def test_btrfs_blocks() -> None:
    """A block has the UUID and the checksum of all behind it, or is not mkfs's."""
    body = UUID + bytes(16384 - 48)
    block = crc32c(body).to_bytes(4, "little") + bytes(28) + body
    assert is_btrfs_block(block, UUID)
    assert not is_btrfs_block(block[:-1] + b"\1", UUID)
    assert not is_btrfs_block(block, bytes(16))
