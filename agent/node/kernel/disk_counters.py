"""What the kernel counted of a block device. Asks the kernel alone, so it never blocks."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from agent.core.model import DeviceNumber
from agent.node.kernel.sysfs import SECTOR_BYTES, SYSFS, locate, read_attribute

_MIN_FIELDS = 11


class BlockCounters(Struct, frozen=True):
    """What the kernel counted of a block device since it appeared (Documentation/block/stat.rst)."""

    reads: int
    read_bytes: int
    read_ms: int
    writes: int
    write_bytes: int
    write_ms: int
    in_flight: int
    busy_ms: int
    others: int = 0
    """Discards and flushes that completed."""

    @property
    def completed(self) -> int:
        return self.reads + self.writes + self.others


def read_block_counters(number: DeviceNumber, sysfs: Path = SYSFS) -> BlockCounters | None:
    """Return the kernel's counters of a block device, or None. Asks the kernel alone, so it never blocks."""
    try:
        text = read_attribute(f"{locate(number, sysfs)}/stat")
    except OSError:
        return None
    return None if text is None else parse_block_counters(text)


def parse_block_counters(text: str) -> BlockCounters | None:
    """Return what a line of ``stat`` says: 11 numbers, with discards 15, with flushes 17."""
    try:
        numbers = [int(word) for word in text.split()]
    except ValueError:
        return None
    if len(numbers) < _MIN_FIELDS:
        return None
    reads, _, read_sectors, read_ms, writes, _, write_sectors, write_ms, in_flight, busy_ms, _ = numbers[:11]
    return BlockCounters(
        reads=reads,
        read_bytes=read_sectors * SECTOR_BYTES,
        read_ms=read_ms,
        writes=writes,
        write_bytes=write_sectors * SECTOR_BYTES,
        write_ms=write_ms,
        in_flight=in_flight,
        busy_ms=busy_ms,
        others=sum(numbers[11:12]) + sum(numbers[15:16]),
    )
