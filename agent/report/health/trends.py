"""From readings to the points of the page's small charts: rates between one reading and the next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from agent.report.board.readings import Reading


class _Totals(NamedTuple):
    """Operations, bytes and time since some beginning, of reads and writes."""

    read_bytes: int
    write_bytes: int
    ops: int
    time_s: float


def list_points(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Return one point for each reading but the first, oldest first; what is not known is null."""
    return [_make_point(before, after, readings[-1].at) for before, after in pairwise(readings)]


def _make_point(before: Reading, after: Reading, now: float) -> dict[str, Any]:
    mount = after.mount
    point: dict[str, Any] = {
        "age_s": round(now - after.at, 1),
        "answered": after.sample is not None,
        "used": None if mount is None or not mount.size_bytes else 1 - mount.avail_bytes / mount.size_bytes,
        "queue": _count_queue(after),
        "read_bytes_s": None,
        "write_bytes_s": None,
        "latency_s": None,
    }
    first, last, took_s = _total(before), _total(after), after.at - before.at
    if first is None or last is None or took_s <= 0 or last.ops < first.ops:
        return point
    ops = last.ops - first.ops
    point["read_bytes_s"] = max(0, last.read_bytes - first.read_bytes) / took_s
    point["write_bytes_s"] = max(0, last.write_bytes - first.write_bytes) / took_s
    point["latency_s"] = max(0.0, last.time_s - first.time_s) / ops if ops else None
    return point


def _count_queue(reading: Reading) -> int | None:
    if reading.statistics is not None:
        return reading.statistics.queue_length
    return None if reading.counters is None else reading.counters.in_flight


def _total(reading: Reading) -> _Totals | None:
    """Return EBS's own totals where there are any, else the kernel's; the next reading has the same kind."""
    if reading.statistics is not None:
        read, write = reading.statistics.read, reading.statistics.write
        return _Totals(
            read.total_bytes, write.total_bytes, read.ops + write.ops, (read.time_us + write.time_us) / 1e6
        )
    counters = reading.counters
    if counters is None or reading.sample is None:
        return None
    return _Totals(
        counters.read_bytes,
        counters.write_bytes,
        counters.reads + counters.writes,
        (counters.read_ms + counters.write_ms) / 1e3,
    )
