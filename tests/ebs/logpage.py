"""Log page 0xD0, EBS's detailed performance statistics: its layout, and ways to spoil it.

Pure. Sources: amazonlinux/amazon-ec2-utils `ebsnvme` and linux-nvme/nvme-cli `plugins/amzn`, which read the
page.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.ebs.faults import LogPageFault
from tests.ebs.statistics import BIN_EDGES_US, LAST_UPPER_EDGE_US, Direction, Statistics

PAGE_ID = 0xD0
PAGE_BYTES = 4096
EBS_MAGIC = 0x3C23B510
INSTANCE_STORE_MAGIC = 0xEC2C0D7E

_HEAD = struct.Struct("<II11Q416x")
_HISTOGRAM_HEAD = struct.Struct("<II")
_BIN = struct.Struct("<QQII")
_MAX_BINS = 64
_HISTOGRAM_BYTES = _HISTOGRAM_HEAD.size + _MAX_BINS * _BIN.size


@dataclass(frozen=True)
class Exceeded:
    """For how long, in microseconds, each limit was exceeded."""

    volume_iops_us: int = 0
    volume_throughput_us: int = 0
    instance_iops_us: int = 0
    instance_throughput_us: int = 0


def pack_page(statistics: Statistics, exceeded: Exceeded, *, magic: int, fault: LogPageFault | None) -> bytes:
    """Return the 4096 bytes of the page, spoiled as ``fault`` says."""
    fault = fault or LogPageFault()
    read, write = statistics.read, statistics.write
    page = (
        _HEAD.pack(
            magic if fault.magic is None else fault.magic,
            0 if fault.version is None else fault.version,
            read.ops,
            write.ops,
            read.total_bytes,
            write.total_bytes,
            read.time_us,
            write.time_us,
            exceeded.volume_iops_us,
            exceeded.volume_throughput_us,
            exceeded.instance_iops_us,
            exceeded.instance_throughput_us,
            statistics.queue_length,
        )
        + _pack_histogram(read, fault.bin_count)
        + _pack_histogram(write, fault.bin_count)
    ).ljust(PAGE_BYTES, b"\0")
    if fault.kept_bytes is not None:
        page = page[: fault.kept_bytes].ljust(PAGE_BYTES, b"\0")
    return page


def _pack_histogram(direction: Direction, bin_count: int | None) -> bytes:
    uppers = (*BIN_EDGES_US[1:], LAST_UPPER_EDGE_US)
    bins = b"".join(
        _BIN.pack(lower, upper, min(count, 0xFFFFFFFF), 0)
        for lower, upper, count in zip(BIN_EDGES_US, uppers, direction.bins, strict=True)
    )
    count = len(direction.bins) if bin_count is None else bin_count
    return (_HISTOGRAM_HEAD.pack(count, 0) + bins).ljust(_HISTOGRAM_BYTES, b"\0")
