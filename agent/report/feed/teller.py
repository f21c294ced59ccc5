"""The daemon's side of a feed: what one face has been told, and so what is news to it.

Nothing is kept but what was told last, so whoever asks seldom is told the newest of each volume and no more,
and who does not ask costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from agent.core.model import VolumeId
from agent.core.replace import replace
from agent.report.api import show_event
from agent.report.board.board import Board
from agent.report.board.readings import Reading
from agent.report.board.timelines import make_key
from agent.report.board.volume_status import VolumeStatus
from agent.report.feed.frames import Family, News, NodeState, VolumeNews, encode
from agent.report.health.trends import Mark, take_mark

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

EVENTS = 100
"""The newest, of those not told yet: more than the page shows."""


class Source(Struct, frozen=True):
    """What the daemon has to tell."""

    board: Board
    registry: CollectorRegistry
    get_readings: Callable[[VolumeId], Sequence[Reading]]
    count_abandoned: Callable[[], int]


class Teller:
    """What one face is told. One for each connection."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._told: dict[str, tuple[VolumeStatus, float | None]] = {}
        """Of each volume its status, and when the newest reading was taken whose mark was told."""
        self._event = 0

    def tell(self) -> bytes:
        """Return the content of a frame with all that is news."""
        statuses = {make_key(status): status for status in self._source.board.statuses()}
        self._told = {key: told for key, told in self._told.items() if key in statuses}
        volumes = tuple(self._list_volumes(statuses))
        history = self._source.board.history
        events = [event for event in history.latest(EVENTS) if event.number > self._event]
        self._event = history.next_number - 1
        return encode(
            News(
                tuple(statuses),
                volumes,
                self._describe_node(),
                tuple(self._list_families()),
                tuple(json.dumps(show_event(event), default=str) for event in events),
            )
        )

    def _list_volumes(self, statuses: dict[str, VolumeStatus]) -> Iterator[VolumeNews]:
        for key, status in statuses.items():
            before, marked_at = self._told.get(key, (None, None))
            readings = () if status.volume_id is None else self._source.get_readings(status.volume_id)
            marks = list_new_marks(readings, marked_at)
            is_news = status is not before and status != before
            kept = len(readings) - len(marks)
            self._told[key] = (status, readings[-1].at if readings else None)
            if is_news or marks or (marked_at is not None and not readings):
                yield VolumeNews(key, strip_status(status) if is_news else None, kept, marks)

    def _describe_node(self) -> NodeState:
        board = self._source.board
        return NodeState(
            board.is_first_look_done,
            board.attachments,
            board.ending,
            board.remarks,
            tuple(board.node_conditions),
            dict(board.persistent_volumes),
            self._source.count_abandoned(),
            board.place,
            dict(board.provisioned),
            board.next_calls,
        )

    def _list_families(self) -> Iterator[Family]:
        for metric in self._source.registry.collect():
            samples = tuple((one.name, dict(one.labels), float(one.value)) for one in metric.samples)
            yield Family(metric.name, metric.documentation, metric.type, samples)


def list_new_marks(readings: Sequence[Reading], after: float | None) -> tuple[Mark, ...]:
    """Return the marks of the readings since one that was taken at ``after``, oldest first."""
    new: list[Mark] = []
    for reading in reversed(readings):
        if after is not None and reading.at <= after:
            break
        new.append(take_mark(reading))
    return tuple(reversed(new))


def strip_status(status: VolumeStatus) -> VolumeStatus:
    """Return a status without what no face that anybody can reach shows."""
    health = status.health
    if health is not None and health.sample is not None and health.sample.log_page is not None:
        health = replace(health, sample=replace(health.sample, log_page=None))
    return replace(status, facts=(), health=health)
