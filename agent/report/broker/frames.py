"""What the daemon and the process that publishes say to each other. What does not fit ends the process.

The daemon learns nothing from it but what it counts, what it asks for, and what brokers retain.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from agent.core.model import NodeFacts, VolumeId
from agent.policy.settings import MqttSettings
from agent.report.board.volume_status import VolumeStatus
from agent.report.mqtt.login import LoginFiles

MAX_NOTE_BYTES: Final = 1 << 20
MAX_SAID_BYTES = MAX_NOTE_BYTES + 1024
"""Of a frame of the process's."""

Count = Annotated[int, Meta(ge=0, le=1 << 32)]
Number = Annotated[int, Meta(ge=0, lt=1 << 53)]
Note = Annotated[bytes, Meta(max_length=MAX_NOTE_BYTES)]


class Setup(Struct, frozen=True):
    """The daemon's first frame."""

    version: str
    """The agent's: another one's frames may be others."""
    settings: MqttSettings
    facts: NodeFacts
    note: bytes | None
    """What brokers retain of this node, as it was noted last."""


class News(Struct, frozen=True):
    """What has changed since the news before; all there is in the first."""

    volumes: tuple[tuple[VolumeId, VolumeStatus | None], ...]
    """None: forgotten."""
    events: tuple[str, ...]
    """As the history has them, one JSON object each."""
    is_first_look_done: bool


class Reply(Struct, frozen=True):
    """What was asked for, or the sentence why it cannot be had."""

    login: LoginFiles | None = None
    """Where it was asked for, else it was a note that was to be kept."""
    problem: str | None = None
    hint: str | None = None


class Told(Struct, frozen=True):
    """Every further frame of the daemon's: one of them."""

    news: News | None = None
    reply: Reply | None = None


class Said(Struct, frozen=True):
    """A frame of the process's. The first, and those it only lives by, say nothing."""

    wants_news: bool = False
    """It has taken the news before."""
    wants_login: bool = False
    """It is about to connect. Of these one is answered after the other, and so is a note."""
    note: Note | None = None
    """What brokers retain now, to be kept."""
    is_connected: bool | None = None
    """None: as it was."""
    sent: Count = 0
    dropped: Count = 0
    event: Number = 0
    """The number of the newest that the broker has; 0: none that it had not before."""
