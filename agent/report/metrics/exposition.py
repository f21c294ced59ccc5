"""The exposition Prometheus reads, made from the board at scrape time: no device, file or network is touched.

A volume's series exist exactly as long as the board knows the volume.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from typing_extensions import override

import agent
from agent.core.model import Attachments, EndCause, VolumeId
from agent.report.board.readiness import assess_node
from agent.report.board.shown import ShownBoard
from agent.report.board.volume_status import VolumeStatus
from agent.report.metrics.volume_metrics import FAMILIES, render_series

_END = b"# EOF\n"
"""The last line of OpenMetrics, and of it alone."""


class Counted(Protocol):
    """Whoever has the agent's own counters."""

    @property
    def registry(self) -> CollectorRegistry: ...


class Exposition:
    """Everything the agent exposes: its own counters, and the series of the volumes on the board."""

    def __init__(
        self, board: ShownBoard, counters: Counted, count_abandoned: Callable[[], int] = lambda: 0
    ) -> None:
        self._board = board
        self._registry = counters.registry
        self._registry.register(AgentCollector(board, count_abandoned))
        PlatformCollector(registry=self._registry)
        self._made: dict[VolumeId, tuple[VolumeStatus, tuple[str, ...]]] = {}

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition in the format ``accept`` (an HTTP header) asks for, and its type."""
        encode, content_type = choose_encoder(accept)
        own = encode(self._registry)
        is_openmetrics = own.endswith(_END)
        volumes = "".join(self._list_volumes(is_openmetrics=is_openmetrics)).encode()
        if is_openmetrics:
            return own[: -len(_END)] + volumes + _END, content_type
        return own + volumes, content_type

    def _list_volumes(self, *, is_openmetrics: bool) -> Iterator[str]:
        rendered = self._render_volumes()
        for place, family in enumerate(FAMILIES):
            yield family.head(is_openmetrics=is_openmetrics)
            yield from (series[place] for series in rendered)

    def _render_volumes(self) -> list[tuple[str, ...]]:
        """Return each volume's lines, making only those anew whose status has changed."""
        statuses = {s.volume_id: s for s in self._board.statuses() if s.volume_id is not None}
        made = self._made
        self._made = {
            volume_id: made[volume_id]
            if volume_id in made and made[volume_id][0] is status
            else (status, render_series(status))
            for volume_id, status in statuses.items()
        }
        return [series for _, series in self._made.values()]


class AgentCollector(Collector):
    """What is known of the node as a whole."""

    def __init__(self, board: ShownBoard, count_abandoned: Callable[[], int]) -> None:
        self._board = board
        self._count_abandoned = count_abandoned

    @override
    def collect(self) -> Iterator[Metric]:
        build = {"version": agent.__version__, "python": platform.python_version()}
        family = GaugeMetricFamily("ebs_agent_build_info", "Version of the agent.", labels=list(build))
        family.add_metric(list(build.values()), 1)
        yield family
        yield GaugeMetricFamily(
            "ebs_agent_ready",
            "1 if every volume this node requires can be used, as /healthz says.",
            value=float(assess_node(self._board).is_ready),
        )
        yield from _count_places(self._board.attachments)
        yield _name_volumes(self._board.persistent_volumes)
        ending = GaugeMetricFamily(
            "ebs_agent_instance_ending", "1 once this instance ends and volumes leave it.", labels=["cause"]
        )
        for cause in EndCause:
            is_ending = self._board.ending is not None and self._board.ending.cause is cause
            ending.add_metric([cause.value], float(is_ending))
        yield ending
        yield _list_node_conditions(self._board)
        yield CounterMetricFamily(
            "ebs_agent_abandoned_calls",
            "Calls to a device, filesystem or program given up because they did not answer in time.",
            value=self._count_abandoned(),
        )


def _list_node_conditions(board: ShownBoard) -> Metric:
    family = GaugeMetricFamily(
        "ebs_agent_node_condition",
        "1 for each thing that is wrong with the node as a whole, while it is.",
        labels=["reason", "about"],
    )
    for one in board.node_conditions:
        family.add_metric([one.reason.value, one.about], 1)
    return family


def _name_volumes(names: Mapping[VolumeId, str]) -> Metric:
    family = GaugeMetricFamily(
        "ebs_agent_persistentvolume_info",
        "1 for each volume of Kubernetes', with its PersistentVolume.",
        labels=["volume_id", "persistentvolume"],
    )
    for volume_id, name in sorted(names.items()):
        family.add_metric([volume_id, name], 1)
    return family


def _count_places(attachments: Attachments | None) -> Iterator[Metric]:
    """Yield how many volumes this instance has and takes, without a number where AWS has not told."""
    used = GaugeMetricFamily(
        "ebs_agent_instance_attachments_used",
        "EBS volumes attached to this instance, the root volume among them.",
        labels=["instance_type"],
    )
    limit = GaugeMetricFamily(
        "ebs_agent_instance_attachments_limit",
        "EBS volumes this instance takes; network interfaces may share it.",
        labels=["instance_type"],
    )
    if attachments is not None:
        used.add_metric([attachments.instance_type], float(attachments.used))
        limit.add_metric([attachments.instance_type], float(attachments.most))
    yield from (used, limit)
