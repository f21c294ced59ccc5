"""The face's side of a feed: a board that shows what another process's board was told to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from agent.core.model import Attachments, Ending, NextCall, NodePlace, Provisioned, VolumeId
from agent.report.board.events import EventHistory
from agent.report.board.node_conditions import NodeCondition
from agent.report.board.volume_status import VolumeStatus
from agent.report.feed.frames import Family, FeedError, News, NodeState
from agent.report.health.trends import Mark
from agent.report.history import parse_event

MOST_MARKS = 1000
"""Of one volume: far more than the daemon keeps readings."""
MOST_VOLUMES = 4096

_NOTHING = NodeState(
    is_first_look_done=False,
    attachments=None,
    ending=None,
    remarks=(),
    conditions=(),
    persistent_volumes={},
    abandoned=0,
    place=NodePlace(),
    provisioned={},
    next_calls=(),
)


class Mirror:
    """A ``ShownBoard``, the marks that charts are drawn from, and the daemon's own numbers."""

    def __init__(self) -> None:
        self.history = EventHistory()
        self._statuses: dict[str, VolumeStatus] = {}
        self._marks: dict[str, tuple[Mark, ...]] = {}
        self._node = _NOTHING
        self.families: tuple[Family, ...] = ()

    def heed(self, news: News) -> None:
        """Show what is told from now on. Raises FeedError, and shows what it did, where that cannot be."""
        if len(news.keys) > MOST_VOLUMES:
            raise FeedError(f"{len(news.keys)} volumes were told of, and {MOST_VOLUMES} are the most.")
        statuses, marks = dict(self._statuses), dict(self._marks)
        for one in news.volumes:
            if one.status is not None:
                statuses[one.key] = one.status
            before = marks.get(one.key, ())
            kept = before[max(0, len(before) - one.kept) :] if one.kept > 0 else ()
            marks[one.key] = (*kept, *one.marks)[-MOST_MARKS:]
        unknown = [key for key in news.keys if key not in statuses]
        if unknown:
            raise FeedError(f"A volume was told of, and not how it is: {unknown[0]}.")
        self._statuses = {key: statuses[key] for key in news.keys}
        self._marks = {key: marks[key] for key in news.keys if key in marks}
        self._node, self.families = news.node, news.families
        for line in news.events:
            event = parse_event(line.encode())
            if event is not None and event.number >= self.history.next_number:
                self.history.append(event)

    @property
    def is_first_look_done(self) -> bool:
        return self._node.is_first_look_done

    @property
    def place(self) -> NodePlace:
        return self._node.place

    @property
    def provisioned(self) -> Mapping[VolumeId, Provisioned]:
        return self._node.provisioned

    @property
    def next_calls(self) -> tuple[NextCall, ...]:
        return self._node.next_calls

    @property
    def attachments(self) -> Attachments | None:
        return self._node.attachments

    @property
    def ending(self) -> Ending | None:
        return self._node.ending

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._node.remarks

    @property
    def node_conditions(self) -> tuple[NodeCondition, ...]:
        return self._node.conditions

    @property
    def persistent_volumes(self) -> Mapping[VolumeId, str]:
        return self._node.persistent_volumes

    def statuses(self) -> tuple[VolumeStatus, ...]:
        """Return every volume known, as the daemon's board orders them."""
        return tuple(self._statuses.values())

    def get_marks(self, volume_id: VolumeId) -> Sequence[Mark]:
        """Return the marks of a volume, oldest first."""
        return self._marks.get(volume_id, ())

    def count_abandoned(self) -> int:
        return self._node.abandoned


class MirroredCounters(Collector):
    """The daemon's own numbers, and beside them what this face has counted itself."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._counted: Counter[tuple[str, str]] = Counter()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def count_connection(self, face: str, outcome: str) -> None:
        """Count one at this face, as ``Counters`` does."""
        self._counted[face, outcome] += 1

    @override
    def collect(self) -> Iterator[Metric]:
        for family in self._mirror.families:
            metric = Metric(family.name, family.text, family.type)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            if family.name == "ebs_agent_connections":
                for (face, outcome), count in self._counted.items():
                    metric.add_sample(f"{family.name}_total", {"face": face, "outcome": outcome}, count)
            yield metric
