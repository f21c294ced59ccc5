"""From a window of readings to what is wrong with a volume. Pure: no clock, no I/O, no memory.

Each rule looks for one thing. It is told whether it holds already, and then lets go later than it takes hold;
what it no longer finds is kept for a while all the same, so that verdicts do not flap.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.model import Condition, Reason
from agent.node.sample import MountSample, Sample
from agent.report.health import Reading, Verdict, sort_verdicts
from agent.report.sizes import show_duration, show_size
from agent.report.statistics import EbsStatistics

MAX_IO_TIMEOUT_S = (1 << 32) - 1
"""EBS's recommendation: after a shorter time a volume that merely stalls is given up."""

STALL_S = 5.0
FULL_AT, FULL_UNTIL = 0.95, 0.93
FILLING_AT, FILLING_UNTIL = 0.80, 0.75
"""From this much on, and no earlier, it counts when the space will be used up."""
FORECAST_S = 3600.0
FORECAST_FROM_S = 120.0
"""A rate measured over less than this is a burst."""
FILES_FULL_AT, FILES_FULL_UNTIL = 0.95, 0.93
THROTTLED_AT, THROTTLED_UNTIL = 0.20, 0.05
"""Of the time, over the readings of the last minute."""
THROTTLE_S = 60.0
HEADROOM = 1.5
GROW_SLACK_BYTES = 16 << 20
GROW_S = 60.0
"""The agent itself grows a volume within seconds."""


@dataclass(frozen=True)
class Subject:
    """What the readings are of, and what the policy wants of it."""

    label: str
    is_read_only: bool = False
    grows: bool = False


@dataclass(frozen=True)
class Window:
    """Readings of one volume, oldest first, at least one; ``subject`` is what they are of."""

    readings: Sequence[Reading]
    subject: Subject

    @property
    def newest(self) -> Reading:
        return self.readings[-1]

    @property
    def sample(self) -> Sample | None:
        return self.newest.sample

    @property
    def mount(self) -> MountSample | None:
        return self.newest.mount

    def backwards(self) -> Iterator[Reading]:
        """Yield the readings before the newest, the latest first."""
        return reversed(self.readings[:-1])

    def since(self, seconds: float) -> Sequence[Reading]:
        """Return the readings of the last ``seconds``, and the one before them."""
        first = self.newest.at - seconds
        start = next((n for n, reading in enumerate(self.readings) if reading.at > first), 0)
        return self.readings[max(0, start - 1) :]


Rule = Callable[[Window, bool], "Verdict | None"]


def judge(readings: Sequence[Reading], subject: Subject, last: Sequence[Verdict] = ()) -> tuple[Verdict, ...]:
    """Return what is wrong, worst first; ``last`` is what this function returned for the window before."""
    if not readings:
        return ()
    window = Window(tuple(readings), subject)
    now = window.newest.at
    held = {verdict.reason: verdict for verdict in last}
    found: list[Verdict] = []
    for reason, (find, hold_s) in RULES.items():
        old = held.get(reason)
        verdict = find(window, old is not None)
        if verdict is not None:
            found.append(replace(verdict, seen_at=now))
        elif old is not None and now - old.seen_at < hold_s:
            found.append(old)
    return sort_verdicts(found)


# -- The device ----------------------------------------------------------------------------------------------


def find_stall(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that holds commands and completes none, or does not answer at all."""
    newest = window.newest
    since = _find_standstill(window)
    if newest.sample is None:
        earlier = next(window.backwards(), None)
        is_twice = earlier is not None and earlier.sample is None
        if _has_progress(earlier, newest) or not (newest.is_stuck or is_twice):
            return None
        what = "does not answer"
    else:
        waiting = _count_waiting(newest)
        if not waiting or newest.at - since.at < STALL_S:
            return None
        what = f"has {waiting} operations in flight and completed none"
    lasting_s = newest.at - since.at
    lasting = f" for {show_duration(lasting_s)}" if lasting_s >= 1 else ""
    return Verdict(
        Condition.FAILED,
        Reason.STALLED,
        f"{window.subject.label} {what}{lasting}.",
        "Processes that use it hang until it answers. See the volume's status checks in the EC2 console and"
        " the kernel log; a reboot of the node is the way out if it does not come back.",
    )


def _has_progress(earlier: Reading | None, newest: Reading) -> bool:
    """Tell whether something completed though nobody answered: it is slow then, and not stalled."""
    if earlier is None or earlier.counters is None or newest.counters is None:
        return False
    return earlier.counters.completed != newest.counters.completed


def _find_standstill(window: Window) -> Reading:
    """Return the earliest reading since which nothing completed; the newest where something just did."""
    earliest = window.newest
    for reading in window.backwards():
        if _count_completed(reading) != _count_completed(window.newest):
            break
        if reading.sample is not None and not _count_waiting(reading):
            break
        earliest = reading
    return earliest


def _count_completed(reading: Reading) -> int | None:
    return None if reading.counters is None else reading.counters.completed


def _count_waiting(reading: Reading) -> int:
    in_flight = 0 if reading.counters is None else reading.counters.in_flight
    return max(in_flight, 0 if reading.statistics is None else reading.statistics.queue_length)


def find_io_errors(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one whose first block cannot be read."""
    if window.sample is None or window.sample.read_errno is None:
        return None
    return Verdict(
        Condition.FAILED,
        Reason.IO_ERRORS,
        f"{window.subject.label} answers a read with an error: {os.strerror(window.sample.read_errno)}.",
        "See the kernel log and the volume's status checks in the EC2 console; save what can still be read.",
    )


def find_wrong_timeout(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that the kernel would give up though it merely takes long."""
    timeout_s = None if window.sample is None else window.sample.io_timeout_s
    if timeout_s is None or timeout_s >= MAX_IO_TIMEOUT_S:
        return None
    return Verdict(
        Condition.DEGRADED,
        Reason.WRONG_TIMEOUT,
        f"The kernel gives {window.subject.label} up when it does not answer for {timeout_s} s.",
        f"Add nvme_core.io_timeout={MAX_IO_TIMEOUT_S} to the kernel's command line and reboot.",
    )


# -- The filesystem ------------------------------------------------------------------------------------------


def find_shut_down(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that answers nothing but errors, though statvfs calls it well."""
    mount, sample = window.mount, window.sample
    if mount is None or sample is None or mount.root_errno is None or sample.read_errno is not None:
        return None
    return Verdict(
        Condition.FAILED,
        Reason.SHUT_DOWN,
        f"The {mount.fs_type} filesystem at {mount.path} answers {os.strerror(mount.root_errno)!r}:"
        " it shut itself down.",
        f"What was not flushed is lost. See the kernel log, then: umount {mount.path}; it is checked and"
        " mounted again by itself.",
    )


def find_read_only(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that takes no writes and is to take them."""
    mount = window.mount
    if mount is None or window.subject.is_read_only or mount.root_errno is not None:
        return None
    is_refusing = mount.write_errno in {errno.EROFS, errno.EIO}
    if not (mount.is_read_only or mount.is_emergency or is_refusing):
        return None
    why = " after an error" if mount.is_emergency or is_refusing else ""
    return Verdict(
        Condition.FAILED,
        Reason.READ_ONLY,
        f"The {mount.fs_type} filesystem at {mount.path} is to be written to and takes no writes{why}.",
        f"See the kernel log; save the data, then: umount {mount.path}; it is checked and mounted again.",
    )


def find_filesystem_errors(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that has counted errors, or spans more than its device has."""
    mount, sample = window.mount, window.sample
    if mount is None or sample is None:
        return None
    if mount.spans_bytes is not None and mount.spans_bytes > sample.size_bytes:
        return Verdict(
            Condition.FAILED,
            Reason.FILESYSTEM_ERRORS,
            f"The filesystem at {mount.path} spans {show_size(mount.spans_bytes)} and its device has"
            f" {show_size(sample.size_bytes)}: the rest of its data is not there.",
            "Do not write to it. Restore the volume from a snapshot, or attach the one of full size.",
        )
    if not mount.errors:
        return None
    return Verdict(
        Condition.DEGRADED,
        Reason.FILESYSTEM_ERRORS,
        f"The {mount.fs_type} filesystem at {mount.path} has counted {mount.errors} errors.",
        f"Take a snapshot, then repair it while it is not mounted ({_name_repair(mount.fs_type)}).",
    )


def find_not_grown(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that is to fill its device, and for a minute has not."""
    mount = window.mount
    if not window.subject.grows or mount is None or mount.is_read_only:
        return None
    gaps = [_measure_gap(reading) for reading in window.since(GROW_S)]
    if len(gaps) < 2 or window.newest.at - window.since(GROW_S)[0].at < GROW_S:  # noqa: PLR2004
        return None
    if not all(gap is not None and gap >= GROW_SLACK_BYTES for gap in gaps):
        return None
    unused = show_size(gaps[-1] or 0)
    return Verdict(
        Condition.DEGRADED,
        Reason.NOT_GROWN,
        f"{window.subject.label} has {unused} that its filesystem at {mount.path} does not use.",
        "ebs-agent events shows why growing it failed; ebs-agent reconcile tries again now.",
    )


def _measure_gap(reading: Reading) -> int | None:
    if reading.sample is None or reading.mount is None or reading.mount.spans_bytes is None:
        return None
    return reading.sample.size_bytes - reading.mount.spans_bytes


def _name_repair(fs_type: str) -> str:
    return {"ext4": "e2fsck -f", "xfs": "xfs_repair", "btrfs": "btrfs check"}.get(fs_type, "fsck")


# -- Room ----------------------------------------------------------------------------------------------------


def find_nearly_full(window: Window, is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one with little space left, or where what is left will not last an hour."""
    mount = window.mount
    if mount is None or not mount.size_bytes:
        return None
    used = 1 - mount.avail_bytes / mount.size_bytes
    left_s = forecast_full_s(window.readings)
    is_filling = left_s is not None and left_s < FORECAST_S * (2 if is_held else 1)
    is_full = used >= (FULL_UNTIL if is_held else FULL_AT)
    if not is_full and not (is_filling and used >= (FILLING_UNTIL if is_held else FILLING_AT)):
        return None
    when = "" if left_s is None else f", and will be full in {show_duration(left_s)} at this rate"
    return Verdict(
        Condition.DEGRADED,
        Reason.NEARLY_FULL,
        f"{mount.path} is {used:.0%} full: {show_size(mount.avail_bytes)} left{when}.",
        f"Make room, or expand the volume: ebs-agent expand {window.subject.label} SIZE",
    )


def find_files_full(window: Window, is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that can hold few more files, however much space is left."""
    mount = window.mount
    # btrfs has no such limit and says 0.
    if mount is None or not mount.files:
        return None
    used = 1 - mount.files_free / mount.files
    if used < (FILES_FULL_UNTIL if is_held else FILES_FULL_AT):
        return None
    return Verdict(
        Condition.DEGRADED,
        Reason.FILES_FULL,
        f"{mount.path} has {mount.files_free} files left of {mount.files}.",
        "Remove files, or expand the volume: a larger filesystem holds more of them.",
    )


def forecast_full_s(readings: Sequence[Reading]) -> float | None:
    """Return in how many seconds the space is used up if it goes on as in these readings; None if never."""
    known = [(reading.at, reading.mount) for reading in readings if reading.mount is not None]
    if len(known) < 2:  # noqa: PLR2004 -- a rate needs two
        return None
    (began, before), (ended, after) = known[0], known[-1]
    # One that was grown meanwhile has another story.
    if ended - began < FORECAST_FROM_S or before.size_bytes != after.size_bytes:
        return None
    taken = before.avail_bytes - after.avail_bytes
    return after.avail_bytes * (ended - began) / taken if taken > 0 else None


# -- Limits --------------------------------------------------------------------------------------------------


def find_throttled_by_volume(window: Window, is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that is asked for more than it was given."""
    work = _measure_work(window)
    if work is None:
        return None
    iops_part, throughput_part = work.volume_iops_part, work.volume_throughput_part
    if max(iops_part, throughput_part) < (THROTTLED_UNTIL if is_held else THROTTLED_AT):
        return None
    if iops_part >= throughput_part:
        limit, now, more = "IOPS", f"{work.ops_s:.0f} operations/s", f"--iops {_round_up(work.ops_s)}"
    else:
        mib_s = work.bytes_s / (1 << 20)
        limit, now, more = "throughput", f"{mib_s:.0f} MiB/s", f"--throughput {_round_up(mib_s)}"
    label = window.subject.label
    return Verdict(
        Condition.DEGRADED,
        Reason.THROTTLED_BY_VOLUME,
        f"{label} was at its {limit} limit for {max(iops_part, throughput_part):.0%} of the last minute"
        f" (it does {now}).",
        f"Give the volume more: ebs-agent modify {label} {more}, or raise its class in the policy.",
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


@dataclass(frozen=True)
class _Work:
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


def _round_up(rate: float) -> int:
    """Return a rate with headroom, in round hundreds from a thousand on."""
    wanted = math.ceil(rate * HEADROOM)
    return -(-wanted // 100) * 100 if wanted >= 1000 else -(-wanted // 10) * 10  # noqa: PLR2004


RULES: dict[Reason, tuple[Rule, float]] = {
    Reason.STALLED: (find_stall, 60.0),
    Reason.IO_ERRORS: (find_io_errors, 120.0),
    Reason.SHUT_DOWN: (find_shut_down, 0.0),
    Reason.READ_ONLY: (find_read_only, 0.0),
    Reason.FILESYSTEM_ERRORS: (find_filesystem_errors, 0.0),
    Reason.FILES_FULL: (find_files_full, 0.0),
    Reason.NEARLY_FULL: (find_nearly_full, 60.0),
    Reason.NOT_GROWN: (find_not_grown, 0.0),
    Reason.THROTTLED_BY_VOLUME: (find_throttled_by_volume, 120.0),
    Reason.THROTTLED_BY_INSTANCE: (find_throttled_by_instance, 120.0),
    Reason.WRONG_TIMEOUT: (find_wrong_timeout, 0.0),
}
"""By reason: what finds it, and for how many seconds it is held after it was last found."""
