"""What is known of a fleet: nodes and volumes, bounded however much somebody else says. Pure.

Whoever may write to a broker or be scraped can say anything, so what is no state of ours is a row that says
so, and never hides a volume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Struct, field, to_builtins

from agent.core.model import Condition
from agent.core.reasons import Reason
from agent.core.replace import replace
from agent.core.suggestions import find_meant

MOST_NODES = 10_000
MOST_VOLUMES = 200_000
MOST_TEXT = 300
"""Characters that are kept of a text."""
MOST_REASONS = 8
"""Of one volume."""
MOST_BYTES = 2**63 - 1
"""Of a volume; whoever says more says nothing."""

OFFLINE, UNREADABLE = "Offline", "Unreadable"
_WORST_FIRST = (
    UNREADABLE,
    Condition.LOST.value,
    Condition.FAILED.value,
    OFFLINE,
    Condition.REFUSED.value,
    Condition.DEGRADED.value,
    Condition.PREPARING.value,
    Condition.PENDING.value,
    Condition.READY.value,
    Condition.UNMANAGED.value,
)
_RANKS = {condition: rank for rank, condition in enumerate(_WORST_FIRST)}


class Row(Struct, frozen=True):
    """One volume of one node; without a volume, a node of which nothing is heard."""

    cluster: str
    node: str
    volume_id: str | None
    condition: str
    name: str | None = None
    reasons: tuple[str, ...] = ()
    message: str | None = None
    path: str | None = None
    used: float | None = None
    """How full its filesystem is, from 0 to 1."""
    size_bytes: int | None = None
    is_online: bool = True

    @property
    def label(self) -> str:
        """What it is called: its name in the policy, else its ID."""
        return self.name or self.volume_id or "-"

    @property
    def rank(self) -> tuple[int, bool, float]:
        """The lower the worse; what this program does not know is worst, and among equals what is fullest."""
        return _RANKS.get(self.condition, -1), self.is_online, -(self.used or 0.0)


class View(Struct, frozen=True):
    """A fleet at one moment: ``rows`` are those that were asked for, the worst first."""

    rows: tuple[Row, ...]
    nodes: int
    offline: int
    conditions: dict[str, int]
    """How many volumes are in each, the worst first, of all that were chosen."""
    left_out: int = 0
    """Nodes and volumes beyond the most that are kept."""
    more: int = 0
    """Rows that were chosen and are not shown."""
    remark: str | None = None
    """That a node or cluster which was asked for is not there, and which was probably meant."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, sizes in bytes."""
        return dict(to_builtins(self))


class Choice(Struct, frozen=True):
    """Which rows are wanted; None: any."""

    cluster: str | None = None
    node: str | None = None
    reason: str | None = None
    worst: int = 0
    """How many at most; 0: all."""

    def take(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if self.cluster is not None and row.cluster != self.cluster:
                continue
            if self.node is not None and row.node != self.node:
                continue
            if self.reason is None or self.reason in (*row.reasons, row.condition):
                yield row


def list_words() -> tuple[str, ...]:
    """Return every reason and every condition, as they are written."""
    return (*(one.value for one in Reason), *_WORST_FIRST)


def find_reason(text: str) -> str | None:
    """Return a reason or a condition as it is written, whatever the case; None where there is none."""
    return next((one for one in list_words() if one.lower() == text.lower()), None)


def make_view(rows: Iterable[Row], choice: Choice, left_out: int = 0) -> View:
    """Return what is wanted of a fleet."""
    rows = tuple(rows)
    chosen = sorted(choice.take(rows), key=lambda row: (*row.rank, row.cluster, row.node, row.label))
    counted = Counter(row.condition for row in chosen if row.volume_id is not None)
    shown = chosen[: choice.worst] if choice.worst else chosen
    nodes = {(row.cluster, row.node): row.is_online for row in chosen}
    return View(
        tuple(shown),
        len(nodes),
        sum(not is_online for is_online in nodes.values()),
        dict(sorted(counted.items(), key=lambda item: _RANKS.get(item[0], -1))),
        left_out,
        len(chosen) - len(shown),
        _find_remark(rows, choice),
    )


def _find_remark(rows: Iterable[Row], choice: Choice) -> str | None:
    clusters = {row.cluster for row in rows}
    if choice.cluster is not None and choice.cluster not in clusters:
        return _tell_unknown("cluster", choice.cluster, clusters)
    nodes = {row.node for row in rows if choice.cluster in {None, row.cluster}}
    if choice.node is not None and choice.node not in nodes:
        return _tell_unknown("node", choice.node, nodes)
    return None


def _tell_unknown(what: str, name: str, known: Iterable[str]) -> str:
    meant = find_meant(name, sorted(known))
    return f"No {what} here is called {name}." + ("" if meant is None else f" Did you mean {meant}?")


# -- What a broker retains -----------------------------------------------------------------------------------


_Size = Annotated[int, msgspec.Meta(ge=0, le=MOST_BYTES)]


class _Usage(msgspec.Struct):
    size_bytes: _Size
    avail_bytes: _Size


class _Verdict(msgspec.Struct):
    reason: str


class _State(msgspec.Struct):
    """Of a volume's state what is shown here; of the JSON of ``agent.report.api`` a part."""

    condition: str
    name: str | None = None
    reason: str | None = None
    message: str | None = None
    path: str | None = None
    size_bytes: _Size | None = None
    filesystem: _Usage | None = None
    verdicts: tuple[_Verdict, ...] = ()


_DECODER = msgspec.json.Decoder(_State)


class _Node(Struct):
    is_online: bool | None = None
    volumes: dict[str, Row] = field(default_factory=dict)


class RetainedFleet:
    """The newest that a broker said of each node."""

    def __init__(self, topic: str) -> None:
        self._prefix = f"{topic}/"
        self._nodes: dict[tuple[str, str], _Node] = {}
        self._volumes = 0
        self.left_out = 0
        self.heard = 0

    def hear(self, topic: str, payload: bytes) -> None:
        """Keep a message; an empty one takes away what the topic had."""
        self.heard += 1
        if any(len(part) > MOST_TEXT for part in topic.split("/")):
            self.left_out += 1
            return
        parts = topic.removeprefix(self._prefix).split("/") if topic.startswith(self._prefix) else []
        match parts:
            case [cluster, node, "status"]:
                self._put_status((cluster, node), payload)
            case [cluster, node, "volumes", volume_id]:
                self._put_volume((cluster, node), volume_id, payload)
            case _:
                pass

    def list_rows(self) -> Iterator[Row]:
        """Yield every volume, and every node that said goodbye or vanished."""
        for (cluster, name), node in self._nodes.items():
            is_online = node.is_online is True
            if not is_online:
                yield Row(cluster, name, None, OFFLINE, is_online=False)
            for row in node.volumes.values():
                yield row if is_online else replace(row, is_online=False)

    def _put_status(self, key: tuple[str, str], payload: bytes) -> None:
        node = self._find_node(key, is_new=bool(payload))
        if node is None:
            return
        node.is_online = payload == b"online" if payload else None
        if not payload and not node.volumes:
            del self._nodes[key]

    def _put_volume(self, key: tuple[str, str], volume_id: str, payload: bytes) -> None:
        node = self._find_node(key, is_new=bool(payload))
        if node is None:
            return
        if not payload:
            self._volumes -= node.volumes.pop(volume_id, None) is not None
            if not node.volumes and node.is_online is None:
                del self._nodes[key]
            return
        if volume_id not in node.volumes:
            if self._volumes >= MOST_VOLUMES:
                self.left_out += 1
                return
            self._volumes += 1
        node.volumes[volume_id] = _read_state(key, volume_id, payload)

    def _find_node(self, key: tuple[str, str], *, is_new: bool) -> _Node | None:
        node = self._nodes.get(key)
        if node is None and is_new:
            if len(self._nodes) >= MOST_NODES:
                self.left_out += 1
                return None
            node = self._nodes[key] = _Node()
        return node


def _read_state(key: tuple[str, str], volume_id: str, payload: bytes) -> Row:
    cluster, node = key
    try:
        state = _DECODER.decode(payload)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return Row(cluster, node, volume_id, UNREADABLE, message="What the broker retains is no state.")
    reasons = dict.fromkeys((*([state.reason] if state.reason else ()), *(v.reason for v in state.verdicts)))
    usage = state.filesystem
    return Row(
        cluster,
        node,
        volume_id,
        cut(state.condition),
        state.name and cut(state.name),
        tuple(cut(reason) for reason in list(reasons)[:MOST_REASONS]),
        state.message and cut(state.message),
        state.path and cut(state.path),
        None if not usage or not usage.size_bytes else fit_share(1 - usage.avail_bytes / usage.size_bytes),
        state.size_bytes,
    )


def fit_share(share: float) -> float:
    """Return how full something can be that is said to be so full."""
    return min(max(share, 0.0), 1.0)


def cut(text: str) -> str:
    """Return the beginning of a text, which somebody else wrote."""
    return text[:MOST_TEXT]
