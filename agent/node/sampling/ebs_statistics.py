"""Reads EBS's detailed performance statistics, log page 0xD0. Pure; the bytes may be anyone's.

Counters are since the volume was attached, times in microseconds. Sources: amazonlinux/amazon-ec2-utils
``ebsnvme`` and linux-nvme/nvme-cli ``plugins/amzn``, which read the same page.
"""

from __future__ import annotations

import struct

from msgspec import Struct

PAGE_BYTES = 4096
EBS_MAGIC = 0x3C23B510
INSTANCE_STORE_MAGIC = 0xEC2C0D7E
MAX_BINS = 64
MAX_QUEUE_LENGTH = 1 << 32
"""More commands than any controller can hold: 65535 queues of 65536."""

_HEAD = struct.Struct("<II11Q")
_BIN = struct.Struct("<QQI4x")
_BIN_COUNT = struct.Struct("<I4x")
_READ_HISTOGRAM = 512
_WRITE_HISTOGRAM = 2056
_OPEN_END_US = 1 << 62
"""From here on an upper edge means "and everything above"."""


class ForeignPageError(ValueError):
    """The bytes are no statistics of an EBS volume; the message is a clause."""


class Histogram(Struct, frozen=True):
    """How long completed operations took: ``counts[i]`` of them at most ``edges_us[i]``, ``above`` longer.

    Each is counted once, in the first bin that has room for it.
    """

    edges_us: tuple[int, ...]
    counts: tuple[int, ...]
    above: int = 0


class Direction(Struct, frozen=True):
    """Reads, or writes, that completed since the volume was attached."""

    ops: int
    total_bytes: int
    time_us: int
    histogram: Histogram | None = None
    """None where the page's bins make no sense."""


class EbsStatistics(Struct, frozen=True):
    """What the log page says. ``exceeded_…``: for how long each limit was asked for more than it gives."""

    read: Direction
    write: Direction
    exceeded_volume_iops_us: int
    exceeded_volume_throughput_us: int
    exceeded_instance_iops_us: int
    exceeded_instance_throughput_us: int
    queue_length: int


def parse_statistics(page: bytes) -> EbsStatistics:
    """Return what the 4096 bytes of log page 0xD0 say; ForeignPageError where they are not EBS's."""
    if len(page) != PAGE_BYTES:
        raise ForeignPageError(f"it has {len(page)} bytes, and {PAGE_BYTES} are due")
    magic, _version, *numbers = _HEAD.unpack_from(page)
    if magic == INSTANCE_STORE_MAGIC:
        raise ForeignPageError("it is an instance store drive's")
    if magic != EBS_MAGIC:
        raise ForeignPageError(f"it begins with {magic:#010x}, and EBS's with {EBS_MAGIC:#010x}")
    read_ops, write_ops, read_bytes, write_bytes, read_us, write_us = numbers[:6]
    volume_iops_us, volume_throughput_us, instance_iops_us, instance_throughput_us, queued = numbers[6:]
    return EbsStatistics(
        Direction(read_ops, read_bytes, read_us, parse_histogram(page, _READ_HISTOGRAM)),
        Direction(write_ops, write_bytes, write_us, parse_histogram(page, _WRITE_HISTOGRAM)),
        volume_iops_us,
        volume_throughput_us,
        instance_iops_us,
        instance_throughput_us,
        min(queued, MAX_QUEUE_LENGTH),
    )


def parse_histogram(page: bytes, offset: int) -> Histogram | None:
    """Return the histogram at ``offset``, or None where its bins overlap, go backwards or are none.

    The number of bins is clamped to the room there is for them.
    """
    (told,) = _BIN_COUNT.unpack_from(page, offset)
    count = min(told, MAX_BINS)
    bins = [_BIN.unpack_from(page, offset + _BIN_COUNT.size + n * _BIN.size) for n in range(count)]
    edges: list[int] = []
    counts: list[int] = []
    above = last = 0
    for lower, upper, filled in bins:
        if lower < last or upper <= lower or above:
            return None
        if upper >= _OPEN_END_US:
            # Prometheus has this one as +Inf. It must be the last, empty or not.
            above, last = filled, upper
            continue
        edges.append(upper)
        counts.append(filled)
        last = upper
    return Histogram(tuple(edges), tuple(counts), above) if edges else None
