"""How a metric of volumes is declared, and written as lines of Prometheus' text formats. Pure.

Written out here rather than by prometheus_client, because a volume has some hundred series and most of what
is scraped has not changed since the last scrape: what is made of a status is kept for as long as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from prometheus_client.utils import floatToGoString

from agent.core.model import SnapshotFacts
from agent.node.kernel.disk_counters import BlockCounters
from agent.node.sampling.ebs_statistics import EbsStatistics
from agent.node.sampling.mount_sample import MountSample
from agent.node.sampling.sample import Sample
from agent.report.board.readings import Health
from agent.report.board.volume_status import Usage, VolumeStatus

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


def quote(text: str | None) -> str:
    """Return a label's value in quotes."""
    escaped = (text or "").replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{escaped}"'


def show_number(number: float) -> str:
    """Return a number as both formats take it."""
    return str(int(number)) if isinstance(number, int) else floatToGoString(number)  # type: ignore[no-untyped-call]  # published without types


def define_number(name: str, kind: Kind, text: str, read: Callable[[VolumeStatus], Number]) -> Family:
    """Return a metric of one number a volume; ``read`` gives it, None where it is not known."""
    full = f"{PREFIX}{name}"

    def render(status: VolumeStatus, volume_id: str) -> str:
        number = read(status)
        return "" if number is None else f'{full}{{volume_id="{volume_id}"}} {show_number(number)}\n'

    return Family(full, kind, text, render)


# -- Where a number is read from -----------------------------------------------------------------------------


def of_sample(read: Callable[[Sample], Number]) -> Callable[[VolumeStatus], Number]:
    """Read a number of what sampling found last; so do those below, of a part of it."""

    def read_status(status: VolumeStatus) -> Number:
        sample = None if status.health is None else status.health.sample
        return None if sample is None else read(sample)

    return read_status


def of_mount(read: Callable[[MountSample], Number]) -> Callable[[VolumeStatus], Number]:
    """Read a number of the mounted filesystem."""
    return of_sample(lambda sample: None if sample.mount is None else read(sample.mount))


def of_health(read: Callable[[Health], Number]) -> Callable[[VolumeStatus], Number]:
    """Read a number of what was made of the samples."""
    return lambda status: None if status.health is None else read(status.health)


def of_usage(read: Callable[[Usage], Number]) -> Callable[[VolumeStatus], Number]:
    """Read a number of the filesystem's use."""
    return lambda status: None if status.usage is None else read(status.usage)


def of_snapshots(read: Callable[[SnapshotFacts], Number]) -> Callable[[VolumeStatus], Number]:
    """Read a number of the volume's scheduled snapshots."""
    return lambda status: None if status.snapshots is None else read(status.snapshots)


def of_counters(read: Callable[[BlockCounters], Number]) -> Callable[[VolumeStatus], Number]:
    """Read a number that the kernel counts of the device."""
    return of_sample(lambda sample: None if sample.counters is None else read(sample.counters))


def of_statistics(read: Callable[[EbsStatistics], Number]) -> Callable[[VolumeStatus], Number]:
    """Read a number that EBS counts of the volume."""

    def read_status(status: VolumeStatus) -> Number:
        statistics = None if status.health is None else status.health.statistics
        return None if statistics is None else read(statistics)

    return read_status


def to_timestamp(at: datetime | None) -> int | None:
    """Return a time as Prometheus has it: seconds since 1970, UTC."""
    return None if at is None else int(at.timestamp())


def seconds(time_us: int) -> float:
    """Return microseconds in Prometheus' base unit."""
    return time_us / 1e6
