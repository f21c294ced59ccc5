"""What goes over a feed: frames of MessagePack behind their length, and what those hold for the web face.

The classes below are the schema. What does not fit them ends the connection: a face shows what it was told
whole, or nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agent.core.errors import AgentError
from agent.core.model import Attachments, Ending, NextCall, NodePlace, Provisioned, VolumeId
from agent.report.board.node_conditions import NodeCondition
from agent.report.board.volume_status import VolumeStatus
from agent.report.health.trends import Mark

MAX_BYTES = 64 << 20
"""Of one frame: some thirty times what a whole node with 128 volumes takes."""
HEAD = struct.Struct(">I")
ASK = b"?"
"""All that a face sends: that it wants to be told. Nobody looks at what was sent."""

T = TypeVar("T")


@dataclass(frozen=True)
class Setup:
    """The first frame, which brings the listening socket with it."""

    version: str
    """The agent's: another one's frames may be others."""
    tls: tuple[bytes, bytes, bytes | None] | None = field(default=None, repr=False)
    """What the certificate, its key and the clients' authorities hold, in PEM."""


class Family(Struct, frozen=True):
    """One metric of the agent itself."""

    name: str
    text: str
    type: str
    samples: tuple[tuple[str, dict[str, str], float], ...]
    """The name, the labels and the number of each."""


class VolumeNews(Struct, frozen=True):
    """A volume that is not as it was told last, or was measured since."""

    key: str
    status: VolumeStatus | None
    """None: as it was told."""
    kept: int = 0
    """How many of the newest marks told before still count."""
    marks: tuple[Mark, ...] = ()
    """Those since."""


class NodeState(Struct, frozen=True):
    """What is known of the node as a whole."""

    is_first_look_done: bool
    attachments: Attachments | None
    ending: Ending | None
    remarks: tuple[str, ...]
    conditions: tuple[NodeCondition, ...]
    persistent_volumes: dict[VolumeId, str]
    abandoned: int
    place: NodePlace
    provisioned: dict[VolumeId, Provisioned]
    next_calls: tuple[NextCall, ...]


class News(Struct, frozen=True):
    """Every further frame: what has changed since the one before, and all of it in the first."""

    keys: tuple[str, ...]
    """Of all volumes there are, in their order."""
    volumes: tuple[VolumeNews, ...]
    node: NodeState
    families: tuple[Family, ...]
    events: tuple[str, ...]
    """As the history has them, one JSON object each."""


class FeedError(AgentError):
    """The other side of a feed said what cannot be."""


def frame(content: bytes) -> bytes:
    """Return the content of a frame with its length before it."""
    return HEAD.pack(len(content)) + content


def read_head(head: bytes, most_bytes: int = MAX_BYTES) -> int:
    """Return how many bytes follow, or raise FeedError where those are too many."""
    (length,) = HEAD.unpack(head)
    if length > most_bytes:
        raise FeedError(f"A frame of {length} bytes was announced, and {most_bytes} are the most.")
    return int(length)


def encode(value: object) -> bytes:
    """Return a value as the content of a frame. Text that no encoding has is written with backslashes."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, builtin_types=(bytes, datetime))
        return _ENCODER.encode(_spell_out(plain))


def decode(content: bytes, kind: type[T]) -> T:
    """Return what a frame holds, or raise FeedError where it does not fit the schema."""
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise FeedError(f"A frame is no {kind.__name__}: {error}.") from error


def _spell_out(value: Any) -> Any:
    """Return plain values with every half of a surrogate pair, as in a path, spelt out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_spell_out(key): _spell_out(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spell_out(part) for part in value]
    return value


_ENCODER = msgspec.msgpack.Encoder()
