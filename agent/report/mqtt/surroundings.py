"""What the publisher needs of where it runs, be that the daemon's board or what a process is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Protocol

from agent.policy.settings import MqttSettings
from agent.report.board.changes import Subscription
from agent.report.board.events import Event, EventHistory
from agent.report.board.volume_status import VolumeStatus
from agent.report.mqtt.login import Login

ReadLogin = Callable[[MqttSettings], Awaitable[Login]]
"""Returns what a connection begins with, as it is now; raises AgentError."""

HearSent = Callable[[Event], None]
"""Is told of each event that the broker has."""


class FollowedBoard(Protocol):
    """How volumes are, and what happens."""

    @property
    def history(self) -> EventHistory: ...
    @property
    def is_first_look_done(self) -> bool: ...

    def statuses(self) -> tuple[VolumeStatus, ...]:
        """Return every volume known."""

    def subscribe(self) -> AbstractContextManager[Subscription]:
        """Give an endless iterator of changes from now on."""


class Counting(Protocol):
    """Where it is counted what became of messages."""

    def count_mqtt(self, outcome: str, count: int = 1) -> None:
        """Count messages. ``outcome``: ``sent`` or ``dropped``."""

    def note_mqtt_connection(self, *, is_connected: bool) -> None: ...
