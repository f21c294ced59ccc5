"""The series of one volume, as lines of Prometheus' text formats. Pure: the same status gives the same lines.

Written out here rather than by prometheus_client, because a volume has some hundred series and most of what
is scraped has not changed since the last scrape: what is made of a status is kept for as long as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from prometheus_client.utils import floatToGoString

from agent.model import Condition
from agent.node.sample import BlockCounters, MountSample, Sample
from agent.report.health import Health
from agent.report.statistics import Direction, EbsStatistics, Histogram
from agent.report.volume_status import Usage, VolumeStatus

PREFIX = "ebs_agent_"

Kind: TypeAlias = Literal["gauge", "counter", "histogram"]
Number: TypeAlias = "float | int | bool | None"


@dataclass(frozen=True)
class Family:
    """One metric of volumes: ``render`` gives its lines of one volume, none where nothing is known."""

    name: str
    """With the prefix, and ``_total`` for a counter."""
    kind: Kind
    text: str
    render: Callable[[VolumeStatus, str], str]

    def head(self, *, is_openmetrics: bool) -> str:
        """Return the lines above the series. OpenMetrics knows a counter by its name without _total."""
        name = self.name.removesuffix("_total") if is_openmetrics and self.kind == "counter" else self.name
        return f"# HELP {name} {self.text}\n# TYPE {name} {self.kind}\n"


def render_series(status: VolumeStatus) -> tuple[str, ...]:
    """Return the lines of one volume for each of ``FAMILIES``, in that order."""
    volume_id = str(status.volume_id)
    return tuple(family.render(status, volume_id) for family in FAMILIES)


def quote(text: str | None) -> str:
    """Return a label's value in quotes."""
    escaped = (text or "").replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{escaped}"'


def show_number(number: float) -> str:
    """Return a number as both formats take it."""
    return str(int(number)) if isinstance(number, int) else floatToGoString(number)  # type: ignore[no-untyped-call]  # published without types


# -- Families of one number a volume -------------------------------------------------------------------------


def _number(name: str, kind: Kind, text: str, read: Callable[[VolumeStatus], Number]) -> Family:
    full = f"{PREFIX}{name}"

    def render(status: VolumeStatus, volume_id: str) -> str:
        number = read(status)
        return "" if number is None else f'{full}{{volume_id="{volume_id}"}} {show_number(number)}\n'

    return Family(full, kind, text, render)


def _of_sample(read: Callable[[Sample], Number]) -> Callable[[VolumeStatus], Number]:
    def read_status(status: VolumeStatus) -> Number:
        sample = None if status.health is None else status.health.sample
        return None if sample is None else read(sample)

    return read_status


def _of_mount(read: Callable[[MountSample], Number]) -> Callable[[VolumeStatus], Number]:
    return _of_sample(lambda sample: None if sample.mount is None else read(sample.mount))


def _of_health(read: Callable[[Health], Number]) -> Callable[[VolumeStatus], Number]:
    return lambda status: None if status.health is None else read(status.health)


def _of_usage(read: Callable[[Usage], Number]) -> Callable[[VolumeStatus], Number]:
    return lambda status: None if status.usage is None else read(status.usage)


def _of_counters(read: Callable[[BlockCounters], Number]) -> Callable[[VolumeStatus], Number]:
    return _of_sample(lambda sample: None if sample.counters is None else read(sample.counters))


def _of_statistics(read: Callable[[EbsStatistics], Number]) -> Callable[[VolumeStatus], Number]:
    def read_status(status: VolumeStatus) -> Number:
        statistics = None if status.health is None else status.health.statistics
        return None if statistics is None else read(statistics)

    return read_status


def _seconds(time_us: int) -> float:
    return time_us / 1e6


# -- Families with labels of their own -----------------------------------------------------------------------


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
    yield f'{full}_sum{{volume_id="{volume_id}"}} {show_number(_seconds(direction.time_us))}\n'
    yield f'{full}_count{{volume_id="{volume_id}"}} {total}\n'


@lru_cache(maxsize=16)
def _show_edges(edges_us: tuple[int, ...]) -> tuple[str, ...]:
    """Return the ends of the bucket labels; all volumes of a node have the same edges."""
    return tuple(f'"{show_number(_seconds(edge))}"}}' for edge in edges_us)


def _list_directions() -> Iterator[Family]:
    """Yield what is counted of reads and of writes alike: by EBS, and by the kernel."""
    for word, done in (("read", "read"), ("write", "written")):

        def of_ebs(read: Callable[[Direction], Number], word: str = word) -> Callable[[VolumeStatus], Number]:
            return _of_statistics(lambda statistics: read(getattr(statistics, word)))

        def of_kernel(field: str, scale: float | None = None) -> Callable[[VolumeStatus], Number]:
            return _of_counters(
                lambda counters: (
                    getattr(counters, field) if scale is None else getattr(counters, field) * scale
                )
            )

        yield _number(
            f"volume_{word}_ops_total",
            "counter",
            f"Completed {word}s, counted by EBS since it was attached.",
            of_ebs(lambda d: d.ops),
        )
        yield _number(
            f"volume_{word}_bytes_total",
            "counter",
            f"Bytes {done}, counted by EBS since it was attached.",
            of_ebs(lambda d: d.total_bytes),
        )
        yield _number(
            f"volume_{word}_seconds_total",
            "counter",
            f"Time {word}s took, by EBS.",
            of_ebs(lambda d: _seconds(d.time_us)),
        )
        yield _number(
            f"block_{word}_ops_total",
            "counter",
            f"Completed {word}s, counted by the kernel since the device appeared.",
            of_kernel(f"{word}s"),
        )
        yield _number(
            f"block_{word}_bytes_total",
            "counter",
            f"Bytes {done}, counted by the kernel.",
            of_kernel(f"{word}_bytes"),
        )
        yield _number(
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
    _number(
        "volume_required", "gauge", "1 if this node is not ready without the volume.", lambda s: s.is_required
    ),
    _number("volume_size_bytes", "gauge", "Size of the volume's device.", lambda s: s.size_bytes),
    _number(
        "volume_stalled",
        "gauge",
        "1 if the volume does not answer, or completes nothing of what it was asked.",
        _of_health(lambda h: h.is_stalled),
    ),
    _number(
        "volume_probe_duration_seconds",
        "gauge",
        "How long one read past every cache took, or how long an answer was waited for in vain.",
        _of_health(lambda h: h.probe_s),
    ),
    _number(
        "volume_io_timeout_seconds",
        "gauge",
        "How long the kernel waits before it gives a command to the volume up.",
        _of_sample(lambda sample: sample.io_timeout_s),
    ),
    _number("filesystem_size_bytes", "gauge", "Size of the filesystem.", _of_usage(lambda u: u.size_bytes)),
    _number(
        "filesystem_avail_bytes",
        "gauge",
        "Space unprivileged writers can still use.",
        _of_usage(lambda u: u.avail_bytes),
    ),
    _number("filesystem_files", "gauge", "Files the filesystem can hold.", _of_usage(lambda u: u.files)),
    _number(
        "filesystem_files_free",
        "gauge",
        "Files that can still be made.",
        _of_usage(lambda u: u.files_free),
    ),
    _number(
        "filesystem_readonly",
        "gauge",
        "1 if the filesystem cannot be written to now.",
        _of_usage(lambda u: u.is_read_only),
    ),
    _number(
        "filesystem_span_bytes",
        "gauge",
        "Bytes of its device the filesystem spans; less than the device has where it was not grown.",
        _of_mount(lambda m: m.spans_bytes),
    ),
    _number(
        "filesystem_errors_total",
        "counter",
        "Errors the filesystem has counted itself.",
        _of_mount(lambda m: m.errors),
    ),
    *_list_directions(),
    _number(
        "volume_exceeded_iops_seconds_total",
        "counter",
        "Time in which more IOPS were asked of the volume than it is given.",
        _of_statistics(lambda s: _seconds(s.exceeded_volume_iops_us)),
    ),
    _number(
        "volume_exceeded_tp_seconds_total",
        "counter",
        "Time in which more throughput was asked of the volume than it is given.",
        _of_statistics(lambda s: _seconds(s.exceeded_volume_throughput_us)),
    ),
    _number(
        "volume_ec2_exceeded_iops_seconds_total",
        "counter",
        "Time in which more IOPS were asked than the instance is given for EBS.",
        _of_statistics(lambda s: _seconds(s.exceeded_instance_iops_us)),
    ),
    _number(
        "volume_ec2_exceeded_tp_seconds_total",
        "counter",
        "Time in which more throughput was asked than the instance is given for EBS.",
        _of_statistics(lambda s: _seconds(s.exceeded_instance_throughput_us)),
    ),
    _number(
        "volume_queue_length",
        "gauge",
        "Reads and writes in flight, as EBS counts them.",
        _of_statistics(lambda s: s.queue_length),
    ),
    _number(
        "block_in_flight",
        "gauge",
        "Reads and writes in flight, as the kernel counts them.",
        _of_counters(lambda c: c.in_flight),
    ),
    _number(
        "block_busy_seconds_total",
        "counter",
        "Time in which at least one read or write was in flight, by the kernel.",
        _of_counters(lambda c: c.busy_ms * 1e-3),
    ),
)
