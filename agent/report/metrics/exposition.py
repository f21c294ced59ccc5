"""The exposition Prometheus reads, made from the board at scrape time: no device, file or network is touched.

A volume's series exist exactly as long as the board knows the volume.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from typing_extensions import override

import agent
from agent.base.log import get_logger
from agent.core.model import Attachments, EndCause, VolumeId
from agent.report.board.readiness import assess_node
from agent.report.board.shown import ShownBoard
from agent.report.board.volume_status import VolumeStatus
from agent.report.metrics.volume_metrics import FAMILIES, render_series

Render = Callable[[VolumeStatus], "tuple[str, ...]"]

log = get_logger(__name__)

_END = b"# EOF\n"
"""The last line of OpenMetrics, and of it alone."""


class Counted(Protocol):
    """Whoever has the agent's own counters."""

    @property
    def registry(self) -> CollectorRegistry: ...


class ScrapeErrors(Collector):
    """What could not be told at a scrape: counted, said once for each cause, and left out of the answer."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter(volumes=0)
        self._said: set[tuple[str, str]] = set()

    def count(self, collector: str, error: Exception) -> None:
        """Count one failure of a ``collector``."""
        self._counts[collector] += 1
        cause = (collector, type(error).__name__)
        if cause not in self._said:
            self._said.add(cause)
            log.error("metrics.incomplete", collector=collector, error=repr(error), exc_info=error)

    def gather(self, collector: str, collect: Callable[[], Iterable[Metric]]) -> list[Metric]:
        """Return what a collector has to tell; nothing where it fails."""
        self._counts[collector] += 0
        try:
            return list(collect())
        except Exception as error:  # noqa: BLE001 -- the barrier of one collector: the others are told
            self.count(collector, error)
            return []

    @override
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "ebs_agent_scrape_errors",
            "Times a part of the metrics could not be told, by part; the rest was.",
            labels=["collector"],
        )
        for collector, count in sorted(self._counts.items()):
            family.add_metric([collector], count)
        yield family


class Exposition:
    """Everything the agent exposes: its own counters, and the series of the volumes on the board.

    A volume or a part of which something cannot be told is left out, and counted; the rest is told.
    """

    def __init__(
        self,
        board: ShownBoard,
        counters: Counted,
        count_abandoned: Callable[[], int] = lambda: 0,
        render: Render = render_series,
    ) -> None:
        self._board = board
        self._render_series = render
        self._registry = counters.registry
        self._errors = ScrapeErrors()
        self._registry.register(AgentCollector(board, count_abandoned, self._errors))
        self._registry.register(self._errors)  # behind those that it counts
        PlatformCollector(registry=self._registry)
        self._made: dict[VolumeId, tuple[VolumeStatus, tuple[str, ...]]] = {}

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition in the format ``accept`` (an HTTP header) asks for, and its type."""
        encode, content_type = choose_encoder(accept)
        rendered = self._render_volumes()  # first, since what fails is counted among the agent's own
        own = encode(self._registry)
        is_openmetrics = own.endswith(_END)
        lines = "".join(_list_lines(rendered, is_openmetrics=is_openmetrics))
        volumes = lines.encode(errors="backslashreplace")  # names may hold what no text can
        if is_openmetrics:
            return own[: -len(_END)] + volumes + _END, content_type
        return own + volumes, content_type

    def _render_volumes(self) -> list[tuple[str, ...]]:
        """Return each volume's lines, making only those anew whose status has changed."""
        statuses = {s.volume_id: s for s in self._board.statuses() if s.volume_id is not None}
        made, self._made = self._made, {}
        for volume_id, status in statuses.items():
            known = made.get(volume_id)
            if known is not None and known[0] is status:
                self._made[volume_id] = known
                continue
            try:
                self._made[volume_id] = status, self._render_series(status)
            except Exception as error:  # noqa: BLE001 -- the barrier of one volume: the others are told
                self._errors.count("volumes", error)
        return [series for _, series in self._made.values()]


def _list_lines(rendered: list[tuple[str, ...]], *, is_openmetrics: bool) -> Iterator[str]:
    for place, family in enumerate(FAMILIES):
        yield family.head(is_openmetrics=is_openmetrics)
        yield from (series[place] for series in rendered)


class AgentCollector(Collector):
    """What is known of the node as a whole, each part told whether or not the others can be."""

    def __init__(self, board: ShownBoard, count_abandoned: Callable[[], int], errors: ScrapeErrors) -> None:
        self._board = board
        self._count_abandoned = count_abandoned
        self._errors = errors

    @override
    def collect(self) -> Iterator[Metric]:
        board = self._board
        parts: dict[str, Callable[[], Iterable[Metric]]] = {
            "build": _tell_build,
            "readiness": lambda: _tell_readiness(board),
            "attachments": lambda: _count_places(board.attachments),
            "persistent_volumes": lambda: _name_volumes(board.persistent_volumes),
            "ending": lambda: _tell_ending(board),
            "node_conditions": lambda: _list_node_conditions(board),
            "abandoned_calls": lambda: _tell_abandoned(self._count_abandoned),
        }
        for collector, collect in parts.items():
            yield from self._errors.gather(collector, collect)


def _tell_build() -> Iterator[Metric]:
    build = {"version": agent.__version__, "python": platform.python_version()}
    family = GaugeMetricFamily("ebs_agent_build_info", "Version of the agent.", labels=list(build))
    family.add_metric(list(build.values()), 1)
    yield family


def _tell_readiness(board: ShownBoard) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "ebs_agent_ready",
        "1 if every volume this node requires can be used, as /healthz says.",
        value=float(assess_node(board).is_ready),
    )


def _tell_ending(board: ShownBoard) -> Iterator[Metric]:
    ending = GaugeMetricFamily(
        "ebs_agent_instance_ending", "1 once this instance ends and volumes leave it.", labels=["cause"]
    )
    for cause in EndCause:
        is_ending = board.ending is not None and board.ending.cause is cause
        ending.add_metric([cause.value], float(is_ending))
    yield ending


def _tell_abandoned(count: Callable[[], int]) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "ebs_agent_abandoned_calls",
        "Calls to a device, filesystem or program given up because they did not answer in time.",
        value=count(),
    )


def _list_node_conditions(board: ShownBoard) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "ebs_agent_node_condition",
        "1 for each thing that is wrong with the node as a whole, while it is.",
        labels=["reason", "about"],
    )
    for one in board.node_conditions:
        family.add_metric([one.reason.value, one.about], 1)
    yield family


def _name_volumes(names: Mapping[VolumeId, str]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "ebs_agent_persistentvolume_info",
        "1 for each volume of Kubernetes', with its PersistentVolume.",
        labels=["volume_id", "persistentvolume"],
    )
    for volume_id, name in sorted(names.items()):
        family.add_metric([volume_id, name], 1)
    yield family


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
