"""The catalogue: every metric of a volume, in the order of the exposition. Pure, as ``series`` is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from agent.core.model import Condition, Reason
from agent.node.sampling.ebs_statistics import Direction, EbsStatistics, Histogram
from agent.report.board.volume_status import VolumeStatus
from agent.report.metrics.aws_metrics import AWS_FAMILIES
from agent.report.metrics.series import (
    PREFIX,
    Family,
    Number,
    define_number,
    of_counters,
    of_health,
    of_mount,
    of_sample,
    of_snapshots,
    of_statistics,
    of_usage,
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
    if status.reason is not None and status.reason not in reasons:
        reasons.append(status.reason)
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
        statistics = None if status.health is None else status.health.statistics
        direction = None if statistics is None else read(statistics)
        if direction is None or direction.histogram is None:
            return ""
        return "".join(_list_latency_lines(full, volume_id, direction, direction.histogram))

    text = f"How long completed {word}s took, as EBS measures it; the sum is EBS's own total."
    return Family(full, "histogram", text, render)


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


def _list_directions() -> Iterator[Family]:
    """Yield what is counted of reads and of writes alike: by EBS, and by the kernel."""
    for word, done in (("read", "read"), ("write", "written")):

        def of_ebs(read: Callable[[Direction], Number], word: str = word) -> Callable[[VolumeStatus], Number]:
            return of_statistics(lambda statistics: read(getattr(statistics, word)))

        def of_kernel(field: str, scale: float | None = None) -> Callable[[VolumeStatus], Number]:
            return of_counters(
                lambda counters: (
                    getattr(counters, field) if scale is None else getattr(counters, field) * scale
                )
            )

        yield define_number(
            f"volume_{word}_ops_total",
            "counter",
            f"Completed {word}s, counted by EBS since it was attached.",
            of_ebs(lambda d: d.ops),
        )
        yield define_number(
            f"volume_{word}_bytes_total",
            "counter",
            f"Bytes {done}, counted by EBS since it was attached.",
            of_ebs(lambda d: d.total_bytes),
        )
        yield define_number(
            f"volume_{word}_seconds_total",
            "counter",
            f"Time {word}s took, by EBS.",
            of_ebs(lambda d: seconds(d.time_us)),
        )
        yield define_number(
            f"block_{word}_ops_total",
            "counter",
            f"Completed {word}s, counted by the kernel since the device appeared.",
            of_kernel(f"{word}s"),
        )
        yield define_number(
            f"block_{word}_bytes_total",
            "counter",
            f"Bytes {done}, counted by the kernel.",
            of_kernel(f"{word}_bytes"),
        )
        yield define_number(
            f"block_{word}_seconds_total",
            "counter",
            f"Time {word}s took, by the kernel: with the wait in its queue.",
            of_kernel(f"{word}_ms", 1e-3),
        )
        yield _render_latency(word, lambda statistics, word=word: getattr(statistics, word))  # type: ignore[misc]  # a lambda's default


FAMILIES: tuple[Family, ...] = (
    Family(f"{PREFIX}volume_info", "gauge", "What the volume is and where it is used.", _render_info),
    Family(
        f"{PREFIX}volume_condition",
        "gauge",
        "1 for the condition the volume is in, 0 for the others.",
        _render_condition,
    ),
    Family(
        f"{PREFIX}volume_problem",
        "gauge",
        "1 for each reason the volume is not as it should be; no series where all is well.",
        _render_verdicts,
    ),
    Family(
        f"{PREFIX}volume_drift",
        "gauge",
        "1 for each kind of thing in which the volume is not as its claim says; no series where it is.",
        _render_drift,
    ),
    define_number(
        "volume_required", "gauge", "1 if this node is not ready without the volume.", lambda s: s.is_required
    ),
    define_number("volume_size_bytes", "gauge", "Size of the volume's device.", lambda s: s.size_bytes),
    define_number(
        "volume_stalled",
        "gauge",
        "1 if the volume does not answer, or completes nothing of what it was asked.",
        _is_stalled,
    ),
    define_number(
        "volume_probe_duration_seconds",
        "gauge",
        "How long one read past every cache took, or how long an answer was waited for in vain.",
        of_health(lambda h: h.probe_s),
    ),
    define_number(
        "volume_io_timeout_seconds",
        "gauge",
        "How long the kernel waits before it gives a command to the volume up.",
        of_sample(lambda sample: sample.io_timeout_s),
    ),
    define_number(
        "volume_snapshot_last_success_timestamp_seconds",
        "gauge",
        "When the newest completed snapshot of the volume's schedule began.",
        of_snapshots(lambda facts: to_timestamp(facts.last_completed_at)),
    ),
    define_number(
        "volume_snapshot_due_timestamp_seconds",
        "gauge",
        "When the first snapshot after that one is due by the schedule, or was.",
        of_snapshots(lambda facts: to_timestamp(facts.due_at)),
    ),
    define_number(
        "volume_snapshots_failed",
        "gauge",
        "Snapshots of the schedule that failed at AWS and are still there.",
        of_snapshots(lambda facts: len(facts.failed)),
    ),
    define_number(
        "filesystem_size_bytes", "gauge", "Size of the filesystem.", of_usage(lambda u: u.size_bytes)
    ),
    define_number(
        "filesystem_avail_bytes",
        "gauge",
        "Space unprivileged writers can still use.",
        of_usage(lambda u: u.avail_bytes),
    ),
    define_number("filesystem_files", "gauge", "Files the filesystem can hold.", of_usage(lambda u: u.files)),
    define_number(
        "filesystem_files_free",
        "gauge",
        "Files that can still be made.",
        of_usage(lambda u: u.files_free),
    ),
    define_number(
        "filesystem_readonly",
        "gauge",
        "1 if the filesystem cannot be written to now.",
        of_usage(lambda u: u.is_read_only),
    ),
    define_number(
        "filesystem_span_bytes",
        "gauge",
        "Bytes of its device the filesystem spans; less than the device has where it was not grown.",
        of_mount(lambda m: m.spans_bytes),
    ),
    define_number(
        "filesystem_errors_total",
        "counter",
        "Errors the filesystem has counted itself.",
        of_mount(lambda m: m.errors),
    ),
    *_list_directions(),
    define_number(
        "volume_exceeded_iops_seconds_total",
        "counter",
        "Time in which more IOPS were asked of the volume than it is given.",
        of_statistics(lambda s: seconds(s.exceeded_volume_iops_us)),
    ),
    define_number(
        "volume_exceeded_tp_seconds_total",
        "counter",
        "Time in which more throughput was asked of the volume than it is given.",
        of_statistics(lambda s: seconds(s.exceeded_volume_throughput_us)),
    ),
    define_number(
        "volume_ec2_exceeded_iops_seconds_total",
        "counter",
        "Time in which more IOPS were asked than the instance is given for EBS.",
        of_statistics(lambda s: seconds(s.exceeded_instance_iops_us)),
    ),
    define_number(
        "volume_ec2_exceeded_tp_seconds_total",
        "counter",
        "Time in which more throughput was asked than the instance is given for EBS.",
        of_statistics(lambda s: seconds(s.exceeded_instance_throughput_us)),
    ),
    define_number(
        "volume_queue_length",
        "gauge",
        "Reads and writes in flight, as EBS counts them.",
        of_statistics(lambda s: s.queue_length),
    ),
    define_number(
        "block_in_flight",
        "gauge",
        "Reads and writes in flight, as the kernel counts them.",
        of_counters(lambda c: c.in_flight),
    ),
    define_number(
        "block_busy_seconds_total",
        "counter",
        "Time in which at least one read or write was in flight, by the kernel.",
        of_counters(lambda c: c.busy_ms * 1e-3),
    ),
    *AWS_FAMILIES,
)
