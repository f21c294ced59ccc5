from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.node.sampling.ebs_statistics import (
    MAX_BINS,
    MAX_QUEUE_LENGTH,
    EbsStatistics,
    ForeignPageError,
    parse_statistics,
)
from tests.ebs.faults import LogPageFault
from tests.ebs.logpage import EBS_MAGIC, INSTANCE_STORE_MAGIC, Exceeded, pack_page
from tests.ebs.statistics import Direction, Statistics

PAGE_BYTES = 4096
READ_HISTOGRAM = 512
MAGIC = struct.pack("<I", EBS_MAGIC)


def make_page(fault: LogPageFault | None = None) -> bytes:
    """Return the page of a volume with three reads and one write, as the emulated volumes pack it."""
    statistics = Statistics(Direction(), Direction(), queue_length=7)
    for duration_us in (100, 100, 5000):
        statistics.read.count(4096, duration_us)
    statistics.write.count(65536, 250)
    exceeded = Exceeded(10, 20, 30, 40)
    return pack_page(statistics, exceeded, magic=EBS_MAGIC, fault=fault)


def test_every_field_is_read() -> None:
    """Each number of the page is where it belongs, and each operation in the bin of its duration."""
    statistics = parse_statistics(make_page())
    assert (statistics.read.ops, statistics.read.total_bytes, statistics.read.time_us) == (3, 12288, 5200)
    assert (statistics.write.ops, statistics.write.total_bytes, statistics.write.time_us) == (1, 65536, 250)
    assert statistics.exceeded_volume_iops_us == 10
    assert statistics.exceeded_volume_throughput_us == 20
    assert statistics.exceeded_instance_iops_us == 30
    assert statistics.exceeded_instance_throughput_us == 40
    assert statistics.queue_length == 7
    histogram = statistics.read.histogram
    assert histogram is not None
    filled = {edge: n for edge, n in zip(histogram.edges_us, histogram.counts, strict=True) if n}
    assert filled == {128: 2, 8192: 1}
    assert histogram.above == 0


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (bytes(PAGE_BYTES), "begins with 0x00000000"),
        (make_page()[:-1], "4095 bytes"),
        (struct.pack("<I", INSTANCE_STORE_MAGIC) + make_page()[4:], "instance store"),
        (b"", "0 bytes"),
    ],
)
def test_foreign_page(page: bytes, why: str) -> None:
    """A page that is not EBS's is told apart with a reason, and gives no numbers at all."""
    with pytest.raises(ForeignPageError, match=why):
        parse_statistics(page)


@pytest.mark.parametrize("bin_count", [65, 1 << 31, (1 << 32) - 1])
def test_bin_count_is_clamped(bin_count: int) -> None:
    """A page that claims more bins than it has room for is read no further than its room."""
    statistics = parse_statistics(make_page(LogPageFault(bin_count=bin_count)))
    # Behind the bins that were filled there are zeros, and a bin from 0 to 0 is none.
    assert statistics.read.histogram is None
    assert statistics.read.ops == 3


def test_no_bins_is_no_histogram() -> None:
    """A histogram without bins is absent, not one of zeros."""
    assert parse_statistics(make_page(LogPageFault(bin_count=0))).read.histogram is None


@pytest.mark.parametrize("bins", [[(0, 8, 1), (4, 16, 1)], [(8, 8, 1)], [(0, 1 << 63, 5), (1 << 63, 9, 1)]])
def test_bins_that_make_no_sense(bins: list[tuple[int, int, int]]) -> None:
    """Bins that overlap, are empty or go backwards give no histogram, and the totals all the same."""
    raw = struct.pack("<I4x", len(bins)) + b"".join(struct.pack("<QQI4x", *each) for each in bins)
    page = make_page()
    page = page[:READ_HISTOGRAM] + raw + page[READ_HISTOGRAM + len(raw) :]
    statistics = parse_statistics(page)
    assert statistics.read.histogram is None
    assert statistics.write.histogram is not None


def check(statistics: EbsStatistics) -> None:
    assert 0 <= statistics.queue_length <= MAX_QUEUE_LENGTH
    for direction in (statistics.read, statistics.write):
        if direction.histogram is not None:
            edges = direction.histogram.edges_us
            assert 0 < len(edges) <= MAX_BINS
            assert list(edges) == sorted(set(edges))
            assert len(direction.histogram.counts) == len(edges)
            assert min(direction.histogram.counts, default=0) >= 0


@given(st.binary(min_size=PAGE_BYTES - 4, max_size=PAGE_BYTES - 4))
def test_any_bytes(noise: bytes) -> None:
    """Whatever a page holds behind its magic number, the parser gives sound values and does not fail."""
    check(parse_statistics(MAGIC + noise))


@given(st.lists(st.tuples(st.integers(0, 4091), st.binary(min_size=1, max_size=4)), max_size=30))
def test_spoiled_page(spoilt: list[tuple[int, bytes]]) -> None:
    """A sound page with some bytes changed is read without failing, or refused as foreign."""
    page = bytearray(make_page())
    for offset, noise in spoilt:
        page[offset : offset + len(noise)] = noise
    try:
        check(parse_statistics(bytes(page)))
    except ForeignPageError:
        assert page[:4] != MAGIC
