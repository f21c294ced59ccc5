"""From readings to the points of the page's small charts: rates between one reading and the next. Pure.

Of each reading a mark is taken, which is all that is needed of it, small enough to be told another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from agent.report.board.readings import Reading

MOST_OPS = (1 << 64) - 1
"""As many as a device can tell of reads, or of writes."""


class Totals(NamedTuple):
    """Operations, bytes and time since some beginning, of reads and writes."""

    read_bytes: int
    write_bytes: int
    ops: int
    time_s: float


class Mark(NamedTuple):
    """What of one reading a chart is drawn from; what is not known is None."""

    at: float
    """By the clock of the readings."""
    answered: bool
    used: float | None
    """Of the filesystem, how much of it."""
    queue: int | None
    totals: Totals | None


def take_mark(reading: Reading) -> Mark:
    """Return what of a reading a chart is drawn from."""
    mount = reading.mount
    used = None if mount is None or not mount.size_bytes else 1 - mount.avail_bytes / mount.size_bytes
    return Mark(reading.at, reading.sample is not None, used, _count_queue(reading), _total(reading))


def list_points(marks: Sequence[Mark]) -> list[dict[str, Any]]:
    """Return one point for each mark but the first, oldest first; what is not known is null."""
    return [_make_point(before, after, marks[-1].at) for before, after in pairwise(marks)]


def _make_point(before: Mark, after: Mark, now: float) -> dict[str, Any]:
    point: dict[str, Any] = {
        "age_s": round(now - after.at, 1),
        "answered": after.answered,
        "used": after.used,
        "queue": after.queue,
        "read_bytes_s": None,
        "write_bytes_s": None,
        "latency_s": None,
        "ops_s": None,
    }
    first, last, took_s = before.totals, after.totals, after.at - before.at
    if first is None or last is None or took_s <= 0 or last.ops < first.ops:
        return point
    ops = last.ops - first.ops
    point["ops_s"] = ops / took_s
    point["read_bytes_s"] = max(0, last.read_bytes - first.read_bytes) / took_s
    point["write_bytes_s"] = max(0, last.write_bytes - first.write_bytes) / took_s
    point["latency_s"] = max(0.0, last.time_s - first.time_s) / ops if ops else None
    return point


def _count_queue(reading: Reading) -> int | None:
    if reading.statistics is not None:
        return reading.statistics.queue_length
    return None if reading.counters is None else reading.counters.in_flight


def _total(reading: Reading) -> Totals | None:
    """Return EBS's own totals where there are any, else the kernel's; the next reading has the same kind."""
    if reading.statistics is not None:
        read, write = reading.statistics.read, reading.statistics.write
        ops = min(MOST_OPS, read.ops + write.ops)
        return Totals(read.total_bytes, write.total_bytes, ops, (read.time_us + write.time_us) / 1e6)
    counters = reading.counters
    if counters is None or reading.sample is None:
        return None
    return Totals(
        counters.read_bytes,
        counters.write_bytes,
        counters.reads + counters.writes,
        (counters.read_ms + counters.write_ms) / 1e3,
    )
