"""How a metric of volumes is declared, and written as lines of Prometheus' text formats. Pure.

Written out here rather than by prometheus_client, because a volume has some hundred series and most of what
is scraped has not changed since the last scrape: what is made of a status is kept for as long as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct
from prometheus_client.utils import floatToGoString

from agent.node.kernel.disk_counters import BlockCounters
from agent.node.sampling.ebs_statistics import EbsStatistics
from agent.node.sampling.values import MountSample, Sample
from agent.report.board.volume_status import VolumeStatus

PREFIX = "ebs_agent_"

P = TypeVar("P")

Kind: TypeAlias = Literal["gauge", "counter", "histogram"]
Number: TypeAlias = "float | int | bool | None"


class Family(Struct, frozen=True):
    """One metric of volumes: ``render`` gives its lines of one volume, none where nothing is known."""

    name: str
    """With the prefix, and ``_total`` for a counter."""
    text: str
    render: Callable[[VolumeStatus, str], str]
    kind: Kind = "gauge"

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


def define_numbers(
    find: Callable[[VolumeStatus], P | None], *numbers: tuple[str, str, Callable[[P], Number]]
) -> Iterator[Family]:
    """Yield metrics of one number a volume: (name, text, how it is read from what ``find`` finds).

    None for either says that it is not known. A name that ends with ``_total`` is a counter's.
    """
    for name, text, read in numbers:
        yield _define_number(f"{PREFIX}{name}", text, find, read)


def _define_number(
    full: str, text: str, find: Callable[[VolumeStatus], P | None], read: Callable[[P], Number]
) -> Family:
    def render(status: VolumeStatus, volume_id: str) -> str:
        part = find(status)
        number = None if part is None else read(part)
        return "" if number is None else f'{full}{{volume_id="{volume_id}"}} {show_number(number)}\n'

    return Family(full, text, render, "counter" if full.endswith("_total") else "gauge")


# -- What numbers are read from ------------------------------------------------------------------------------


def find_sample(status: VolumeStatus) -> Sample | None:
    """Return what sampling found last."""
    return None if status.health is None else status.health.sample


def find_mount(status: VolumeStatus) -> MountSample | None:
    """Return what it found of the mounted filesystem."""
    sample = find_sample(status)
    return None if sample is None else sample.mount


def find_counters(status: VolumeStatus) -> BlockCounters | None:
    """Return what the kernel counts of the device."""
    sample = find_sample(status)
    return None if sample is None else sample.counters


def find_statistics(status: VolumeStatus) -> EbsStatistics | None:
    """Return what EBS counts of the volume."""
    return None if status.health is None else status.health.statistics


def to_timestamp(at: datetime | None) -> int | None:
    """Return a time as Prometheus has it: seconds since 1970, UTC."""
    return None if at is None else int(at.timestamp())


def seconds(time_us: int) -> float:
    """Return microseconds in Prometheus' base unit."""
    return time_us / 1e6
