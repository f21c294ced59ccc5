"""Log page 0xD0: the layout readers expect, and numbers that are true."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ebs import LogPageFault, Rates, Status, Target
from tests.ebs.limits import Limit, Limiter
from tests.ebs.statistics import Direction
from tests.unit.ebs.conftest import OTHER, VOLUME
from tests.unit.ebs.initiator import Attached

AttachVolume = Callable[..., Awaitable[Attached]]
COUNTERS = (
    *("read_ops", "write_ops", "read_bytes", "write_bytes", "read_time_us", "write_time_us"),
    *("volume_iops_us", "volume_tp_us", "instance_iops_us", "instance_tp_us", "queue_length"),
)


@dataclass(frozen=True)
class Page:
    """The page as a reader sees it, unpacked by offsets alone."""

    raw: bytes

    @property
    def magic(self) -> int:
        return int(struct.unpack_from("<I", self.raw)[0])

    def __getitem__(self, counter: str) -> int:
        return int(struct.unpack_from("<Q", self.raw, 8 + 8 * COUNTERS.index(counter))[0])

    def histogram(self, offset: int) -> list[tuple[int, int, int]]:
        """Return (lower, upper, count) of every bin of the histogram at 512 (reads) or 2056 (writes)."""
        (count,) = struct.unpack_from("<Q", self.raw, offset)
        return [struct.unpack_from("<QQI", self.raw, offset + 8 + 24 * index) for index in range(count)]


async def read_page(volume: Attached) -> Page:
    answer = await volume.get_log_page(0xD0)
    assert answer.status == 0
    assert len(answer.data) == 4096
    return Page(answer.data)


async def read_together(
    target: Target, volumes: Mapping[str, Attached], count: int, size_bytes: int
) -> float:
    """Have ``count`` reads of each volume ask for their turn at once; return how many µs all took.

    They are held until all have arrived: by how long a busy machine takes to send them no limit is exceeded.
    """
    for name in volumes:
        target.volume(name).stall()
    commands = [
        (volume, volume.io.start(0x02, **Attached.blocks(0, size_bytes), receive=size_bytes))
        for _ in range(count)
        for volume in volumes.values()
    ]
    for volume in volumes.values():
        while (await read_page(volume))["queue_length"] < count:
            pass
    begin = asyncio.get_running_loop().time()
    for name in volumes:
        target.volume(name).resume()
    for volume, command in commands:
        assert (await volume.io.wait(command)).status == 0
    return (asyncio.get_running_loop().time() - begin) * 1_000_000


async def test_counters_are_those_of_the_served_io(attach_volume: AttachVolume) -> None:
    """Operations and bytes are exact, every operation is in one bin, and times are not zero."""
    volume = await attach_volume()
    for index in range(5):
        await volume.write(index * 8192, b"x" * 8192)
    for index in range(3):
        await volume.read(index * 4096, 4096)
    await volume.flush()
    page = await read_page(volume)
    assert page.magic == 0x3C23B510
    assert (page["read_ops"], page["write_ops"]) == (3, 5)
    assert (page["read_bytes"], page["write_bytes"]) == (3 * 4096, 5 * 8192)
    assert page["read_time_us"] > 0
    assert page["write_time_us"] > 0
    assert sum(count for _, _, count in page.histogram(512)) == 3
    assert sum(count for _, _, count in page.histogram(2056)) == 5
    assert page["queue_length"] == 0
    assert page["volume_iops_us"] == page["instance_tp_us"] == 0


async def test_bins_join_without_gap_and_bound_the_total_time(attach_volume: AttachVolume) -> None:
    """A reader can bound the mean from the bins alone."""
    volume = await attach_volume()
    for index in range(20):
        await volume.read(index * 512, 512)
    page = await read_page(volume)
    bins = page.histogram(512)
    assert bins[0][0] == 0
    assert all(one[1] == next_one[0] for one, next_one in pairwise(bins))
    assert len(bins) <= 64
    lower = sum(lower * count for lower, _, count in bins)
    upper = sum(upper * count for _, upper, count in bins)
    assert lower <= page["read_time_us"] <= upper


async def test_stalled_io_shows_in_the_queue_length_and_nowhere_else(
    attach_volume: AttachVolume, target: Target
) -> None:
    """Only completed operations count; a stall is a queue that does not move."""
    volume = await attach_volume()
    target.volume(VOLUME).stall()
    commands = [volume.io.start(0x02, **Attached.blocks(0, 512), receive=512) for _ in range(3)]
    volume.io.start(0x00)
    while (page := await read_page(volume))["queue_length"] < 3:
        pass
    assert (page["queue_length"], page["read_ops"]) == (3, 0)
    await asyncio.sleep(0.05)
    target.volume(VOLUME).resume()
    for command in commands:
        await volume.io.wait(command)
    page = await read_page(volume)
    assert (page["queue_length"], page["read_ops"]) == (0, 3)
    assert page["read_time_us"] >= 3 * 50_000
    assert sum(count for lower, _, count in page.histogram(512) if lower >= 32768) == 3


async def test_operations_that_failed_are_not_completed_ones(attach_volume: AttachVolume) -> None:
    """An error is no read."""
    volume = await attach_volume()
    assert (await volume.io.run(0x02, cdw10=0xFFFFFFFF, cdw11=1, receive=512)).status != 0
    page = await read_page(volume)
    assert (page["read_ops"], page["queue_length"]) == (0, 0)


async def test_counters_start_anew_with_an_attachment(attach_volume: AttachVolume, target: Target) -> None:
    """They count since attach."""
    volume = await attach_volume()
    await volume.read(0, 512)
    await target.detach(VOLUME)
    await target.attach(VOLUME)
    assert target.volume(VOLUME).statistics.read.ops == 0


async def test_limit_in_force_moves_its_own_counter_by_the_time_it_cost(
    attach_volume: AttachVolume, target: Target
) -> None:
    """Twenty reads at 100 a second have to wait, and the page says for how long and because of what."""
    volume = await attach_volume(rates=Rates(iops=100))
    took_us = await read_together(target, {VOLUME: volume}, count=20, size_bytes=512)
    page = await read_page(volume)
    assert 150_000 < page["volume_iops_us"] <= took_us
    assert page["volume_tp_us"] == page["instance_iops_us"] == page["instance_tp_us"] == 0


async def test_throughput_limit_counts_bytes(attach_volume: AttachVolume, target: Target) -> None:
    """A megabyte at 4 MiB a second takes a good part of a quarter of a second."""
    volume = await attach_volume(rates=Rates(throughput_bytes_s=4 << 20))
    await read_together(target, {VOLUME: volume}, count=4, size_bytes=256 << 10)
    page = await read_page(volume)
    assert page["volume_tp_us"] > 100_000
    assert page["volume_iops_us"] == 0


async def test_instances_limit_is_shared_and_counted_apart(
    attach_volume: AttachVolume, target: Target
) -> None:
    """Two volumes that are each below their own limit can exceed the instance's."""
    target.set_instance_rates(Rates(iops=100))
    volumes = {name: await attach_volume(name) for name in (VOLUME, OTHER)}
    await read_together(target, volumes, count=10, size_bytes=512)
    pages = [await read_page(volume) for volume in volumes.values()]
    assert all(page["instance_iops_us"] > 100_000 for page in pages)
    assert all(page["volume_iops_us"] == 0 for page in pages)


async def test_flushes_are_not_limited(attach_volume: AttachVolume) -> None:
    """Limits are for reads and writes."""
    volume = await attach_volume(rates=Rates(iops=0.1))
    for _ in range(5):
        assert (await asyncio.wait_for(volume.flush(), 5)).status == 0


async def test_buffer_one_dword_short_gets_what_it_holds(attach_volume: AttachVolume) -> None:
    """Amazon's own tools ask for 1025 dwords into 4096 bytes, and EBS answers."""
    volume = await attach_volume()
    answer = await volume.admin.run(0x02, cdw10=0xD0 | 1024 << 16, receive=4096)
    assert answer.status == 0
    assert len(answer.data) == 4096
    assert Page(answer.data).magic == 0x3C23B510


async def test_part_of_the_page_can_be_read(attach_volume: AttachVolume) -> None:
    """Length and offset are the host's choice; the transfer is always as long as its buffer."""
    volume = await attach_volume()
    await volume.read(0, 512)
    whole = (await read_page(volume)).raw
    part = await volume.get_log_page(0xD0, 512, cdw12=512)
    assert part.data == whole[512:1024]
    padded = await volume.admin.run(0x02, cdw10=0xD0 | 1 << 16, receive=4096)
    assert padded.data == whole[:8].ljust(4096, b"\0")


@pytest.mark.parametrize(
    ("fault", "is_spoiled"),
    [
        (LogPageFault(magic=0xDEAD), lambda page: page.magic == 0xDEAD),
        (LogPageFault(version=7), lambda page: page.raw[4:8] == b"\7\0\0\0"),
        (LogPageFault(bin_count=0xFFFFFFFF), lambda page: page.raw[512:516] == b"\xff" * 4),
        (LogPageFault(kept_bytes=96), lambda page: page.raw[:4] != bytes(4) and page.raw[96:] == bytes(4000)),
    ],
)
async def test_page_is_spoiled_as_asked_and_healed(
    attach_volume: AttachVolume, target: Target, fault: LogPageFault, is_spoiled: Callable[[Page], bool]
) -> None:
    """One lie at a time, and the truth again afterwards."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.log_page = fault
    assert is_spoiled(await read_page(volume))
    target.volume(VOLUME).heal()
    assert not is_spoiled(await read_page(volume))


async def test_page_can_be_missing(attach_volume: AttachVolume, target: Target) -> None:
    """Volumes on instances without statistics answer with an error status."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.log_page = LogPageFault(status=Status.INVALID_LOG_PAGE)
    assert (await volume.get_log_page(0xD0)).code == Status.INVALID_LOG_PAGE


@pytest.mark.parametrize(
    ("duration_us", "index"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11), (1 << 40, 27)]
)
def test_duration_falls_into_the_bin_that_begins_at_or_below_it(duration_us: int, index: int) -> None:
    """Lower edges belong to their bin."""
    direction = Direction()
    direction.count(512, duration_us)
    assert direction.bins.index(1) == index


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 50_000), st.integers(1, 8)), max_size=50),
    rate=st.sampled_from([10, 100, 5000]),
)
def test_exceeded_time_is_never_more_than_the_time_that_passed(
    arrivals: list[tuple[int, int]], rate: int
) -> None:
    """Overlapping waits count once, waits to come count nothing, and the counter never goes back."""
    limit = Limit(rate)
    now = last = 0
    for gap, units in arrivals:
        now += gap
        ready = limit.reserve(units, now)
        assert ready >= now
        exceeded = limit.exceeded_us(now)
        assert last <= exceeded <= now
        last = exceeded
    assert limit.exceeded_us(now + (1 << 40)) >= last


def test_limit_lets_its_rate_through_in_the_long_run() -> None:
    """A thousand operations at 100 a second take ten seconds, less one burst."""
    limit = Limit(100)
    ready = [limit.reserve(1, 0) for _ in range(1000)]
    assert ready == sorted(ready)
    assert 9_900_000 < ready[-1] <= 10_000_000


def test_changed_limit_keeps_what_was_counted() -> None:
    """ModifyVolume does not turn counters back."""
    limiter = Limiter(Rates(iops=10))
    for _ in range(10):
        limiter.reserve(512, 0)
    before = limiter.exceeded_us(2_000_000)
    limiter.change(Rates(iops=1000), 2_000_000)
    assert before[0] > 0
    assert limiter.exceeded_us(2_000_000) == before


def test_large_operation_counts_as_several() -> None:
    """EBS counts an I/O per 256 KiB."""
    small, large = Limiter(Rates(iops=10)), Limiter(Rates(iops=10))
    for _ in range(2):
        small.reserve(256 << 10, 0)
        large.reserve(1 << 20, 0)
    assert large.reserve(512, 0) > small.reserve(512, 0)
