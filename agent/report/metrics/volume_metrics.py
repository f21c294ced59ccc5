"""The catalogue: every metric of a volume, in the order of the exposition. Pure, as ``series`` is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from agent.core.model import Condition, Initialization, Reason
from agent.node.sampling.ebs_statistics import Direction, EbsStatistics, Histogram
from agent.report.board.volume_status import VolumeStatus
from agent.report.metrics.series import (
    PREFIX,
    Family,
    define_numbers,
    find_counters,
    find_mount,
    find_sample,
    find_statistics,
    quote,
    seconds,
    show_number,
    to_timestamp,
)


def render_series(status: VolumeStatus) -> tuple[str, ...]:
    """Return the lines of one volume for each of ``FAMILIES``, in that order."""
    volume_id = str(status.volume_id)
    return tuple(family.render(status, volume_id) for family in FAMILIES)


def _render_info(status: VolumeStatus, volume_id: str) -> str:
    labels = (
        f'volume_id="{volume_id}",name={quote(status.name)},device={quote(status.device)},'
        f"mountpoint={quote(status.path)},fstype={quote(status.fstype)}"
    )
    return f"{PREFIX}volume_info{{{labels}}} 1\n"


def _render_condition(status: VolumeStatus, volume_id: str) -> str:
    return "".join(
        f'{PREFIX}volume_condition{{volume_id="{volume_id}",condition="{condition.value}"}}'
        f" {int(condition is status.condition)}\n"
        for condition in Condition
    )


def _render_verdicts(status: VolumeStatus, volume_id: str) -> str:
    reasons = [] if status.health is None else [verdict.reason for verdict in status.health.verdicts]
    # Why a volume is left alone is no problem of it.
    reason = None if status.condition is Condition.UNMANAGED else status.reason
    if reason is not None and reason not in reasons:
        reasons.append(reason)
    return "".join(
        f'{PREFIX}volume_problem{{volume_id="{volume_id}",reason="{reason.value}"}} 1\n' for reason in reasons
    )


def _render_drift(status: VolumeStatus, volume_id: str) -> str:
    kinds = dict.fromkeys(one.what for one in status.drift)
    return "".join(f'{PREFIX}volume_drift{{volume_id="{volume_id}",what="{kind}"}} 1\n' for kind in kinds)


def _is_stalled(status: VolumeStatus) -> bool | None:
    """Tell whether it is stalled, whoever found out first: sampling, or the engine that looked at it."""
    if status.reason is Reason.STALLED:
        return True
    return None if status.health is None else status.health.is_stalled


def _render_latency(word: str, read: Callable[[EbsStatistics], Direction]) -> Family:
    full = f"{PREFIX}volume_{word}_io_latency_seconds"

    def render(status: VolumeStatus, volume_id: str) -> str:
        statistics = find_statistics(status)
        direction = None if statistics is None else read(statistics)
        if direction is None or direction.histogram is None:
            return ""
        return "".join(_list_latency_lines(full, volume_id, direction, direction.histogram))

    text = f"How long completed {word}s took, as EBS measures it; the sum is EBS's own total."
    return Family(full, text, render, "histogram")


def _list_latency_lines(
    full: str, volume_id: str, direction: Direction, histogram: Histogram
) -> Iterator[str]:
    start = f'{full}_bucket{{volume_id="{volume_id}",le='
    total = 0
    for edge, count in zip(_show_edges(histogram.edges_us), histogram.counts, strict=True):
        total += count
        yield f"{start}{edge} {total}\n"
    total += histogram.above
    yield f'{start}"+Inf"}} {total}\n'
    yield f'{full}_sum{{volume_id="{volume_id}"}} {show_number(seconds(direction.time_us))}\n'
    yield f'{full}_count{{volume_id="{volume_id}"}} {total}\n'


@lru_cache(maxsize=16)
def _show_edges(edges_us: tuple[int, ...]) -> tuple[str, ...]:
    """Return the ends of the bucket labels; all volumes of a node have the same edges."""
    return tuple(f'"{show_number(seconds(edge))}"}}' for edge in edges_us)


def _count_left_s(coming: Initialization) -> float | None:
    return 0 if coming.is_done else coming.left_s


def _define_direction(word: str, done: str) -> Iterator[Family]:
    """Yield what is counted of reads or of writes: by EBS, and by the kernel."""

    def of_ebs(statistics: EbsStatistics) -> Direction:
        direction: Direction = getattr(statistics, word)
        return direction

    yield from define_numbers(
        find_statistics,
        (
            f"volume_{word}_ops_total",
            f"Completed {word}s, counted by EBS since it was attached.",
            lambda s: of_ebs(s).ops,
        ),
        (
            f"volume_{word}_bytes_total",
            f"Bytes {done}, counted by EBS since it was attached.",
            lambda s: of_ebs(s).total_bytes,
        ),
        (f"volume_{word}_seconds_total", f"Time {word}s took, by EBS.", lambda s: seconds(of_ebs(s).time_us)),
    )
    yield from define_numbers(
        find_counters,
        (
            f"block_{word}_ops_total",
            f"Completed {word}s, counted by the kernel since the device appeared.",
            lambda c: getattr(c, f"{word}s"),
        ),
        (
            f"block_{word}_bytes_total",
            f"Bytes {done}, counted by the kernel.",
            lambda c: getattr(c, f"{word}_bytes"),
        ),
        (
            f"block_{word}_seconds_total",
            f"Time {word}s took, by the kernel: with the wait in its queue.",
            lambda c: getattr(c, f"{word}_ms") * 1e-3,
        ),
    )
    yield _render_latency(word, of_ebs)


FAMILIES: tuple[Family, ...] = (
    Family(f"{PREFIX}volume_info", "What the volume is and where it is used.", _render_info),
    Family(
        f"{PREFIX}volume_condition",
        "1 for the condition the volume is in, 0 for the others.",
        _render_condition,
    ),
    Family(
        f"{PREFIX}volume_problem",
        "1 for each reason the volume is not as it should be; no series where all is well.",
        _render_verdicts,
    ),
    Family(
        f"{PREFIX}volume_drift",
        "1 for each kind of thing in which the volume is not as its claim says; no series where it is.",
        _render_drift,
    ),
    *define_numbers(
        lambda status: status,
        ("volume_required", "1 if this node is not ready without the volume.", lambda s: s.is_required),
        ("volume_size_bytes", "Size of the volume's device.", lambda s: s.size_bytes),
        (
            "volume_stalled",
            "1 if the volume does not answer, or completes nothing of what it was asked.",
            _is_stalled,
        ),
    ),
    *define_numbers(
        lambda status: status.health,
        (
            "volume_probe_duration_seconds",
            "How long one read past every cache took, or how long an answer was waited for in vain.",
            lambda health: health.probe_s,
        ),
    ),
    *define_numbers(
        find_sample,
        (
            "volume_io_timeout_seconds",
            "How long the kernel waits before it gives a command to the volume up.",
            lambda sample: sample.io_timeout_s,
        ),
    ),
    *define_numbers(
        lambda status: status.snapshots,
        (
            "volume_snapshot_last_success_timestamp_seconds",
            "When the newest completed snapshot of the volume's schedule began.",
            lambda facts: to_timestamp(facts.last_completed_at),
        ),
        (
            "volume_snapshot_due_timestamp_seconds",
            "When the first snapshot after that one is due by the schedule, or was.",
            lambda facts: to_timestamp(facts.due_at),
        ),
        (
            "volume_snapshots_failed",
            "Snapshots of the schedule that failed at AWS and are still there.",
            lambda facts: len(facts.failed),
        ),
    ),
    *define_numbers(
        lambda status: status.usage,
        ("filesystem_size_bytes", "Size of the filesystem.", lambda u: u.size_bytes),
        ("filesystem_avail_bytes", "Space unprivileged writers can still use.", lambda u: u.avail_bytes),
        ("filesystem_files", "Files the filesystem can hold.", lambda u: u.files),
        ("filesystem_files_free", "Files that can still be made.", lambda u: u.files_free),
        ("filesystem_readonly", "1 if the filesystem cannot be written to now.", lambda u: u.is_read_only),
    ),
    *define_numbers(
        find_mount,
        (
            "filesystem_span_bytes",
            "Bytes of its device the filesystem spans; less than the device has where it was not grown.",
            lambda mount: mount.spans_bytes,
        ),
        ("filesystem_errors_total", "Errors the filesystem has counted itself.", lambda mount: mount.errors),
    ),
    *_define_direction("read", "read"),
    *_define_direction("write", "written"),
    *define_numbers(
        find_statistics,
        (
            "volume_exceeded_iops_seconds_total",
            "Time in which more IOPS were asked of the volume than it is given.",
            lambda s: seconds(s.exceeded_volume_iops_us),
        ),
        (
            "volume_exceeded_tp_seconds_total",
            "Time in which more throughput was asked of the volume than it is given.",
            lambda s: seconds(s.exceeded_volume_throughput_us),
        ),
        (
            "volume_ec2_exceeded_iops_seconds_total",
            "Time in which more IOPS were asked than the instance is given for EBS.",
            lambda s: seconds(s.exceeded_instance_iops_us),
        ),
        (
            "volume_ec2_exceeded_tp_seconds_total",
            "Time in which more throughput was asked than the instance is given for EBS.",
            lambda s: seconds(s.exceeded_instance_throughput_us),
        ),
        ("volume_queue_length", "Reads and writes in flight, as EBS counts them.", lambda s: s.queue_length),
    ),
    *define_numbers(
        find_counters,
        ("block_in_flight", "Reads and writes in flight, as the kernel counts them.", lambda c: c.in_flight),
        (
            "block_busy_seconds_total",
            "Time in which at least one read or write was in flight, by the kernel.",
            lambda c: c.busy_ms * 1e-3,
        ),
    ),
    *define_numbers(
        lambda status: status.checks,
        ("volume_impaired", "1 if one of AWS's status checks of the volume fails.", lambda c: c.is_impaired),
        ("volume_io_enabled", "0 if AWS has switched off I/O to the volume.", lambda c: c.is_io_enabled),
    ),
    *define_numbers(
        lambda status: None if status.checks is None else status.checks.initialization,
        (
            "volume_initialization_ratio",
            "How much of its content has come from the snapshot or volume it was made from.",
            lambda coming: coming.percent / 100,
        ),
        (
            "volume_initialization_remaining_seconds",
            "AWS's estimate of how long it takes until all of that has come.",
            _count_left_s,
        ),
    ),
)
