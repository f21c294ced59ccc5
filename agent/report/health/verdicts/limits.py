"""Rules about limits: is the volume, or the instance for all its volumes, asked for more than it gives."""

from __future__ import annotations

import math

from msgspec import Struct

from agent.core.model import Condition, Provisioned, Reason
from agent.node.sampling.ebs_statistics import EbsStatistics
from agent.report.board.readings import Verdict
from agent.report.health.verdicts.sample_window import Window

THROTTLED_AT, THROTTLED_UNTIL = 0.20, 0.05
"""Of the time, over the readings of the last minute."""
THROTTLE_S = 60.0
HEADROOM = 1.5


def find_throttled_by_volume(window: Window, is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that is asked for more than it was given."""
    work = _measure_work(window)
    if work is None:
        return None
    iops_part, throughput_part = work.volume_iops_part, work.volume_throughput_part
    if max(iops_part, throughput_part) < (THROTTLED_UNTIL if is_held else THROTTLED_AT):
        return None
    given = window.subject.provisioned or Provisioned()
    if iops_part >= throughput_part:
        limit, now, option = "IOPS", f"{work.ops_s:.0f} operations/s", "--iops"
        more = _choose_more(work.ops_s, given.iops)
    else:
        mib_s = work.bytes_s / (1 << 20)
        limit, now, option = "throughput", f"{mib_s:.0f} MiB/s", "--throughput"
        more = _choose_more(mib_s, given.throughput_mib_s)
    label = window.subject.label
    return Verdict(
        Condition.DEGRADED,
        Reason.THROTTLED_BY_VOLUME,
        f"{label} was at its {limit} limit for {max(iops_part, throughput_part):.0%} of the last minute"
        f" (it does {now}).",
        f"Give the volume more {limit} than {more.now}: raise its class in the policy; where it has none, "
        f"ebs-agent modify {label} {option} {more.wanted}.",
    )


def find_throttled_by_instance(window: Window, is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one held back by what the instance gives all its volumes together."""
    work = _measure_work(window)
    if work is None:
        return None
    part = max(work.instance_iops_part, work.instance_throughput_part)
    if part < (THROTTLED_UNTIL if is_held else THROTTLED_AT):
        return None
    limit = "IOPS" if work.instance_iops_part >= work.instance_throughput_part else "throughput"
    return Verdict(
        Condition.DEGRADED,
        Reason.THROTTLED_BY_INSTANCE,
        f"{window.subject.label} was held back by the instance's EBS {limit} limit for {part:.0%} of the last"
        " minute.",
        "More for the volume would not help: spread the load over time or nodes, or choose an instance type"
        f" with a higher EBS {limit} limit.",
    )


class _Work(Struct, frozen=True):
    ops_s: float
    bytes_s: float
    volume_iops_part: float
    volume_throughput_part: float
    instance_iops_part: float
    instance_throughput_part: float


def _measure_work(window: Window) -> _Work | None:
    """Return the rates of the last minute, and in which part of it each limit was exceeded."""
    known = [reading for reading in window.since(THROTTLE_S) if reading.statistics is not None]
    if len(known) < 2 or window.newest.statistics is None:  # noqa: PLR2004 -- a rate needs two
        return None
    before, after = known[0].statistics, known[-1].statistics
    took_s = known[-1].at - known[0].at
    if before is None or after is None or took_s <= 0 or _count_ops(after) < _count_ops(before):
        return None  # it was attached anew in between

    def part(name: str) -> float:
        exceeded_us: int = getattr(after, name) - getattr(before, name)
        return min(1.0, max(0.0, exceeded_us / 1e6 / took_s))

    return _Work(
        ops_s=(_count_ops(after) - _count_ops(before)) / took_s,
        bytes_s=(_count_bytes(after) - _count_bytes(before)) / took_s,
        volume_iops_part=part("exceeded_volume_iops_us"),
        volume_throughput_part=part("exceeded_volume_throughput_us"),
        instance_iops_part=part("exceeded_instance_iops_us"),
        instance_throughput_part=part("exceeded_instance_throughput_us"),
    )


def _count_ops(statistics: EbsStatistics) -> int:
    return statistics.read.ops + statistics.write.ops


def _count_bytes(statistics: EbsStatistics) -> int:
    return statistics.read.total_bytes + statistics.write.total_bytes


class _More(Struct, frozen=True):
    now: str
    wanted: str


def _choose_more(rate: float, given: int | None) -> _More:
    """Return what to ask for: more than the volume has, whatever it did on average.

    It was at its limit for a part of the minute only, so the average tells nothing of the limit.
    """
    if given is None:
        return _More("it has now", "N")
    return _More(f"the {given} it has now", str(_round_up(max(rate, given))))


def _round_up(rate: float) -> int:
    """Return a rate with headroom, in round hundreds from a thousand on."""
    wanted = math.ceil(rate * HEADROOM)
    return -(-wanted // 100) * 100 if wanted >= 1000 else -(-wanted // 10) * 10  # noqa: PLR2004
