"""The exposition Prometheus reads, built from the board at scrape time: no device or file is touched.

A volume's series exist exactly as long as the board knows the volume.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

import agent
from agent.model import Condition
from agent.report.board import Board, Usage, VolumeStatus
from agent.report.counters import Counters
from agent.report.readiness import assess_node


class BoardCollector(Collector):
    """Turns the board's present state into metric families."""

    def __init__(self, board: Board) -> None:
        self._board = board

    @override
    def collect(self) -> Iterator[Metric]:
        volumes = tuple(status for status in self._board.statuses() if status.volume_id is not None)
        yield from _describe_agent(self._board)
        yield _describe_identity(volumes)
        yield _describe_condition(volumes)
        sizes = ((s.volume_id or "", s.size_bytes) for s in volumes if s.size_bytes is not None)
        yield _gauge("volume_size_bytes", "Size of the volume's device.", sizes)
        yield from _describe_usage(volumes)


def register_board(board: Board, counters: Counters) -> CollectorRegistry:
    """Return the registry of everything the agent exposes."""
    counters.registry.register(BoardCollector(board))
    return counters.registry


def _describe_agent(board: Board) -> Iterator[Metric]:
    build = {"version": agent.__version__, "python": platform.python_version()}
    family = GaugeMetricFamily("ebs_agent_build_info", "Version of the agent.", labels=list(build))
    family.add_metric(list(build.values()), 1)
    yield family
    readiness = assess_node(board)
    yield GaugeMetricFamily(
        "ebs_agent_ready",
        "1 if every volume this node requires can be used, as /healthz says.",
        value=float(readiness.is_ready),
    )


def _describe_identity(volumes: Iterable[VolumeStatus]) -> Metric:
    labels = ["volume_id", "name", "device", "mountpoint", "fstype"]
    family = GaugeMetricFamily(
        "ebs_agent_volume_info", "What the volume is and where it is used.", labels=labels
    )
    for status in volumes:
        values = (status.volume_id, status.name, status.device, status.path, status.fstype)
        family.add_metric([value or "" for value in values], 1)
    return family


def _describe_condition(volumes: Iterable[VolumeStatus]) -> Metric:
    family = GaugeMetricFamily(
        "ebs_agent_volume_condition",
        "1 for the condition the volume is in, 0 for the others.",
        labels=["volume_id", "condition"],
    )
    for status in volumes:
        for condition in Condition:
            family.add_metric([status.volume_id or "", condition.value], float(condition is status.condition))
    return family


def _describe_usage(volumes: Iterable[VolumeStatus]) -> Iterator[Metric]:
    sampled = [(status.volume_id or "", status.usage) for status in volumes if status.usage is not None]
    for name, text, read in USAGE_FAMILIES:
        yield _gauge(f"filesystem_{name}", text, ((volume_id, read(usage)) for volume_id, usage in sampled))


USAGE_FAMILIES: tuple[tuple[str, str, Callable[[Usage], float]], ...] = (
    ("size_bytes", "Size of the filesystem.", lambda usage: usage.size_bytes),
    ("avail_bytes", "Space unprivileged writers can still use.", lambda usage: usage.avail_bytes),
    ("files", "Files the filesystem can hold.", lambda usage: usage.files),
    ("files_free", "Files that can still be made.", lambda usage: usage.files_free),
    ("readonly", "1 if the filesystem cannot be written to now.", lambda usage: usage.is_read_only),
)


def _gauge(name: str, text: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Make a family with one series per volume ID."""
    family = GaugeMetricFamily(f"ebs_agent_{name}", text, labels=["volume_id"])
    for volume_id, value in values:
        family.add_metric([volume_id], float(value))
    return family
