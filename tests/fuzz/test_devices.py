"""What devices say: who they are, how they fare, and what lies on them."""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.model import FsType
from agent.node.content.superblocks import LAYOUTS, crc32c
from agent.node.device.partition_table import parse_table
from agent.node.kernel import nvme
from agent.node.kernel.mountinfo import parse_mountinfo
from agent.node.sampling.ebs_statistics import PAGE_BYTES, ForeignPageError, parse_statistics
from tests.fuzz.conftest import Fuzz, check_error
from tests.fuzz.mutation import mutate_bytes, mutate_json
from tests.fuzz.samples import MOUNTINFO, SFDISK
from tests.unit.node.content.test_superblocks import make_btrfs, make_ext4, make_xfs
from tests.unit.node.kernel.test_nvme import make_controller, make_namespace
from tests.unit.node.sampling.test_ebs_statistics import make_page

_IDENTITY = make_controller() + make_namespace()


def _check_identity(content: bytes) -> None:
    identity = nvme.parse_identity(content[:PAGE_BYTES], content[PAGE_BYTES:])
    assert identity.volume_id.removeprefix("vol-") == identity.serial.removeprefix("vol")
    assert identity.attach_name is None or identity.attach_name.isprintable()


def _overwrite(page: bytes, pieces: list[tuple[int, bytes]]) -> bytes:
    written = bytearray(page)
    for offset, piece in pieces:
        at = offset % len(written)
        written[at : at + len(piece)] = piece
    return bytes(written[: len(page)])


def _overwrite_anywhere(page: bytes, *where: int) -> st.SearchStrategy[bytes]:
    """Return the page with some bytes others, mostly near the offsets that are read."""
    offsets = st.one_of(st.integers(0, len(page) - 1), st.sampled_from(where))
    pieces = st.tuples(
        offsets, st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([b"\xff" * 8, bytes(8)]))
    )
    return st.builds(_overwrite, st.just(page), st.lists(pieces, min_size=1, max_size=6))


def test_identify(fuzz: Fuzz) -> None:
    """A device is a volume, or refused with what it said, printable."""
    pages = _overwrite_anywhere(_IDENTITY, 0, 4, 7, 24, 30, 1792, 3072, 3080, PAGE_BYTES + 30)
    fuzz(_check_identity, st.one_of(pages, mutate_bytes([_IDENTITY]), st.binary(max_size=PAGE_BYTES)))


def _check_page(content: bytes) -> None:
    try:
        statistics = parse_statistics(content)
    except ForeignPageError as error:
        check_error(AgentError(str(error)))
        return
    for direction in (statistics.read, statistics.write):
        if direction.histogram is not None:
            edges = direction.histogram.edges_us
            assert list(edges) == sorted(set(edges))
            assert len(edges) == len(direction.histogram.counts)


def test_log_page(fuzz: Fuzz) -> None:
    """The page of statistics is EBS's, with bins that go up, or is foreign."""
    pages = _overwrite_anywhere(make_page(), 0, 4, 88, 512, 516, 524, 532, 2048, 2052)
    fuzz(_check_page, st.one_of(pages, mutate_bytes([make_page()])))


def _check_mountinfo(content: bytes) -> None:
    for mount in parse_mountinfo(content):
        assert mount.mount_id >= 0
        assert isinstance(mount.path, str)


def test_mountinfo(fuzz: Fuzz) -> None:
    """A line is a mount or is left out; no bytes in a name lose the others."""
    fuzz(_check_mountinfo, st.one_of(mutate_bytes(MOUNTINFO), st.binary(max_size=400)))


def _check_table(content: bytes) -> None:
    table = parse_table(content.decode("utf-8", "replace"), "/proc/self/fd/7")
    for entry in table.entries:
        assert isinstance(entry.start_bytes, int)
        assert isinstance(entry.size_bytes, int)
        assert entry.start_bytes >= 0
        assert entry.size_bytes > 0


def test_sfdisk(fuzz: Fuzz) -> None:
    """What sfdisk writes is a table of whole numbers, or is not understood."""
    documents = mutate_json([SFDISK]).map(lambda document: json.dumps(document).encode())
    fuzz(_check_table, st.one_of(documents, mutate_bytes([json.dumps(SFDISK).encode()])))


def _sign_ext4(raw: bytearray) -> None:
    struct.pack_into("<I", raw, 0x3FC, crc32c(bytes(raw[:0x3FC])) ^ 0xFFFFFFFF)


def _sign_xfs(raw: bytearray) -> None:
    (sector_size,) = struct.unpack_from(">H", raw, 102)
    raw[224:228] = bytes(4)
    struct.pack_into("<I", raw, 224, crc32c(bytes(raw[:sector_size])))


def _sign_btrfs(raw: bytearray) -> None:
    content = bytes(raw[32:])
    (kind,) = struct.unpack_from("<H", raw, 196)
    signs = {0: struct.pack("<I", crc32c(content)), 2: hashlib.sha256(content).digest()}
    sign = signs.get(kind, b"")
    raw[: len(sign)] = sign


_SUPERBLOCKS: dict[FsType, tuple[bytearray, Callable[[bytearray], None], tuple[int, ...]]] = {
    FsType.EXT4: (
        make_ext4(),
        _sign_ext4,
        (0x4, 0x18, 0x2C, 0x34, 0x3A, 0x60, 0x64, 0x78, 0xD0, 0xE0, 0x150),
    ),
    FsType.XFS: (make_xfs(), _sign_xfs, (4, 8, 16, 48, 100, 102, 108, 126, 216)),
    FsType.BTRFS: (make_btrfs(), _sign_btrfs, (56, 136, 196, 209, 299)),
}


@pytest.mark.parametrize("fs_type", FsType, ids=lambda fs_type: fs_type.value)
def test_superblocks(fuzz: Fuzz, fs_type: FsType) -> None:
    """A superblock, correctly signed or not, is a filesystem's facts, or ValueError says why not."""
    right, sign, where = _SUPERBLOCKS[fs_type]

    def check(content: bytes) -> None:
        for is_signed in (False, True):
            raw = bytearray(content[: len(right)].ljust(len(right), b"\0"))
            if is_signed:
                sign(raw)
            try:
                found = LAYOUTS[fs_type].parse(bytes(raw))
            except ValueError as error:
                check_error(AgentError(str(error)))
            else:
                assert found.size_bytes >= 0
                assert str(uuid.UUID(found.uuid)) == found.uuid
                assert found.label is None or found.label.encode("utf-8")

    fuzz(check, _overwrite_anywhere(bytes(right), *where))
