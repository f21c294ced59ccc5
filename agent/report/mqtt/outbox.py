"""What is still to be published over MQTT: the newest state of each volume, and events in their order.

Bounded, whatever becomes of the broker: a state replaces the one before it, and of events the oldest are
dropped and counted.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import anyio
from msgspec import Struct

from agent.core.model import VolumeId
from agent.report.api import show_event, show_status
from agent.report.board.events import Event
from agent.report.board.volume_status import VolumeStatus

MAX_EVENTS = 1000
MAX_STATES = 1024
MAX_PAYLOAD_BYTES = 128 * 1024
"""AWS IoT Core takes no more in one message."""
QUIET_S = 60.0
"""How often a state is published in which nothing but numbers has changed."""


class Topics(Struct, frozen=True):
    """Where things are published: ``<topic>/<cluster>/<instance>/…``."""

    base: str

    @property
    def status(self) -> str:
        return f"{self.base}/status"

    @property
    def events(self) -> str:
        return f"{self.base}/events"

    def volume(self, volume_id: VolumeId) -> str:
        return f"{self.base}/volumes/{volume_id}"


class Message(Struct, frozen=True):
    """One message; an empty retained one takes a retained one away."""

    topic: str
    payload: bytes
    is_retained: bool


class Outbox:
    """Messages waiting for the broker. ``put_…`` never waits; ``take`` gives the next one."""

    def __init__(self) -> None:
        self.dropped = 0
        """Events that nobody will get, since the broker was away or slow for too long."""
        self._states: dict[VolumeId, VolumeStatus | None] = {}
        self._events: deque[Event] = deque()
        self._shown: dict[VolumeId, tuple[Any, float]] = {}
        self._later: dict[VolumeId, VolumeStatus] = {}
        self._news = anyio.Event()

    def put_event(self, event: Event) -> None:
        """Have an event published; of too many the oldest is dropped."""
        if len(self._events) >= MAX_EVENTS:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._news.set()

    def put_state(self, volume_id: VolumeId, status: VolumeStatus | None, now_s: float) -> None:
        """Have a volume's state published, or taken away (None); soon only if more than numbers changed."""
        self._later.pop(volume_id, None)
        if status is None:
            self._shown.pop(volume_id, None)
        else:
            said = _summarize(status)
            shown = self._shown.get(volume_id)
            if shown is not None and shown[0] == said and now_s - shown[1] < QUIET_S:
                self._later[volume_id] = status
                return
            self._shown[volume_id] = (said, now_s)
        if volume_id in self._states or len(self._states) < MAX_STATES:
            self._states[volume_id] = status
            self._news.set()

    def put_late_states(self, now_s: float) -> None:
        """Have those states published that were put off and are due."""
        due = [volume for volume in self._later if now_s - self._shown[volume][1] >= QUIET_S]
        for volume in due:
            self.put_state(volume, self._later[volume], now_s)

    async def take(self, topics: Topics) -> tuple[Message, VolumeId | Event]:
        """Return the next message, and what to give back to ``put_back`` if it cannot be sent.

        States come first: they say how things are, events only how they came to be so.
        """
        while not (self._states or self._events):
            self._news = anyio.Event()
            await self._news.wait()
        if self._states:
            volume_id, status = next(iter(self._states.items()))
            del self._states[volume_id]
            return show_state_message(topics, volume_id, status), volume_id
        event = self._events.popleft()
        return Message(topics.events, _encode(show_event(event)), is_retained=False), event

    def put_back(self, item: VolumeId | Event) -> None:
        """Take back an event that was not sent. States are all published anew on the next connection."""
        if isinstance(item, Event):
            self._events.appendleft(item)
            if len(self._events) > MAX_EVENTS:
                self._events.popleft()
                self.dropped += 1


def show_state_message(topics: Topics, volume_id: VolumeId, status: VolumeStatus | None) -> Message:
    """Return the retained message of a volume's state; an empty one of a volume that is gone."""
    payload = b"" if status is None else _encode(show_status(status))
    return Message(topics.volume(volume_id), payload, is_retained=True)


def _encode(values: dict[str, Any]) -> bytes:
    payload = json.dumps(values, default=str, separators=(",", ":")).encode()
    if len(payload) <= MAX_PAYLOAD_BYTES:
        return payload
    known = ("event", "at", "number", "volume_id", "name", "condition", "reason")
    kept = {key: str(values[key])[:200] for key in known if values.get(key) is not None}
    return json.dumps({**kept, "truncated": True}, separators=(",", ":")).encode()


def _summarize(status: VolumeStatus) -> tuple[Any, ...]:
    """Return what of a status is no mere number."""
    verdicts = () if status.health is None else tuple(v.reason for v in status.health.verdicts)
    return (
        *(status.name, status.condition, status.reason, status.device, status.path, status.size_bytes),
        *(status.last_step, status.plan, status.is_required, verdicts, status.drift),
    )
