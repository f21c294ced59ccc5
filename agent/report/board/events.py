"""What happened: named events, and the bounded history of the latest ones.

One ``Event`` object is the log line, the MQTT message, the entry on the page and the answer of
``ebs-agent events``, so a name found in one of them can be searched for in the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from enum import Enum
from typing import Any

import anyio
from msgspec import Struct, field
from typing_extensions import override

from agent.core.model import VolumeId

MAX_EVENTS = 1000


class EventName(str, Enum):
    """Constant, dotted, past tense. Extend freely; a name once given keeps its meaning."""

    AGENT_STARTED = "agent.started"
    AGENT_STOPPED = "agent.stopped"
    POLICY_RELOADED = "policy.reloaded"
    POLICY_REJECTED = "policy.rejected"
    VOLUME_ATTACHED = "volume.attached"
    VOLUME_DETACHED = "volume.detached"
    VOLUME_FORMATTED = "volume.formatted"
    VOLUME_CHECKED = "volume.checked"
    VOLUME_GROWN = "volume.grown"
    VOLUME_MOUNTED = "volume.mounted"
    VOLUME_REMOUNTED = "volume.remounted"
    VOLUME_MOVED = "volume.moved"
    VOLUME_UNMOUNTED = "volume.unmounted"
    VOLUME_LINKED = "volume.linked"
    VOLUME_TUNED = "volume.tuned"
    VOLUME_PUBLISHED = "volume.published"
    VOLUME_UNPUBLISHED = "volume.unpublished"
    VOLUME_READY = "volume.ready"
    VOLUME_DEGRADED = "volume.degraded"
    VOLUME_FAILED = "volume.failed"
    VOLUME_REFUSED = "volume.refused"
    VOLUME_LOST = "volume.lost"
    VOLUME_CREATED = "volume.created"
    VOLUME_ATTACHED_BY = "volume.attached_by"
    """AWS was asked to attach it, and agreed; that its device came is ``volume.attached``."""
    VOLUME_DETACHED_BY = "volume.detached_by"
    VOLUME_MODIFIED = "volume.modified"
    VOLUME_DELETED = "volume.deleted"
    VOLUME_GONE = "volume.gone"
    """A claim's volume was deleted, not by the agent."""
    SNAPSHOT_TAKEN = "snapshot.taken"
    SNAPSHOT_FAILED = "snapshot.failed"
    SNAPSHOT_DELETED = "snapshot.deleted"
    SNAPSHOT_LOCKED = "snapshot.locked"
    SNAPSHOT_FAST_RESTORE_ENABLED = "snapshot.fast_restore_enabled"
    SNAPSHOT_FAST_RESTORE_DISABLED = "snapshot.fast_restore_disabled"
    VOLUME_NOT_LET_GO = "volume.not_let_go"
    """It was to leave an instance that ends, and somebody uses it, or it could not be flushed."""
    VOLUME_NOT_DETACHED = "volume.not_detached"
    """Likewise; it was let go, and AWS has not detached it."""
    INSTANCE_INTERRUPTED = "instance.interrupted"
    INSTANCE_POWERED_OFF = "instance.powered_off"
    INSTANCE_LEFT = "instance.left"
    KUBELET_REGISTERED = "kubelet.registered"
    KUBELET_REFUSED = "kubelet.refused"
    KUBELET_FORGOT = "kubelet.forgot"
    """A volume that it has staged, and takes back no more."""
    STEP_FAILED = "step.failed"
    HOOK_FAILED = "hook.failed"
    UEVENTS_OVERFLOWED = "uevents.overflowed"

    @property
    def level(self) -> str:
        """Name of the structlog method, hence the severity, this event is logged with."""
        if self in {
            EventName.VOLUME_LOST,
            EventName.VOLUME_GONE,
            EventName.VOLUME_FAILED,
            EventName.STEP_FAILED,
        }:
            return "error"
        if self in {
            EventName.POLICY_REJECTED,
            EventName.VOLUME_DEGRADED,
            EventName.VOLUME_REFUSED,
            EventName.SNAPSHOT_FAILED,
            EventName.VOLUME_NOT_LET_GO,
            EventName.VOLUME_NOT_DETACHED,
            EventName.INSTANCE_INTERRUPTED,
            EventName.INSTANCE_POWERED_OFF,
            EventName.INSTANCE_LEFT,
            EventName.KUBELET_FORGOT,
            EventName.HOOK_FAILED,
            EventName.UEVENTS_OVERFLOWED,
        }:
            return "warning"
        return "info"

    @override
    def __str__(self) -> str:
        return self.value


HAPPENS_ONCE = frozenset(
    {
        EventName.VOLUME_CREATED,
        EventName.VOLUME_DELETED,
        EventName.SNAPSHOT_TAKEN,
        EventName.SNAPSHOT_FAILED,
        EventName.SNAPSHOT_DELETED,
    }
)
"""What happens to a volume, or to a snapshot, but once."""


class Event(Struct, frozen=True):
    """One thing that happened. ``fields`` holds JSON values only, under the keys of the log line."""

    name: EventName
    at: datetime
    volume_id: VolumeId | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    """Counts up from 1 within one history; 0 until it is recorded."""


class EventHistory:
    """The latest events in order, and a way to follow new ones.

    Memory is bounded by ``capacity``: a reader too slow for the flow misses the oldest events, which it can
    tell from the gap in ``number``, and holds nobody up.
    """

    def __init__(self, capacity: int = MAX_EVENTS) -> None:
        self._events: deque[Event] = deque(maxlen=capacity)
        self._number = 0
        self._news = anyio.Event()

    def append(self, event: Event) -> None:
        """Keep ``event``, which must carry the next number, and wake those who follow."""
        self._number = event.number
        self._events.append(event)
        self._news.set()
        self._news = anyio.Event()

    @property
    def next_number(self) -> int:
        return self._number + 1

    def latest(self, limit: int | None = None) -> tuple[Event, ...]:
        """Return up to ``limit`` newest events, oldest first."""
        events = tuple(self._events)
        return events if limit is None else events[max(0, len(events) - limit) :]

    def after(self, number: int) -> tuple[Event, ...]:
        """Return the events kept whose number is greater than ``number``, oldest first."""
        return tuple(event for event in self._events if event.number > number)

    def has_once(self, name: EventName, volume_id: VolumeId | None, snapshot_id: str | None) -> bool:
        """Tell whether an event of a kind that happens once, about the same, is among those kept."""
        return name in HAPPENS_ONCE and any(
            (event.name, event.volume_id, event.fields.get("snapshot_id")) == (name, volume_id, snapshot_id)
            for event in self._events
        )

    async def follow(self, after: int) -> AsyncIterator[Event]:
        """Yield every event numbered above ``after``, those already kept first; never ends by itself."""
        while True:
            news = self._news
            for event in self.after(after):
                after = event.number
                yield event
            await news.wait()
