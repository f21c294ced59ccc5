"""What brokers retain of this node: remembered over restarts, and asked for, so that what is gone can go.

A broker keeps a retained message until somebody takes it away. A volume that went while the agent was down, a
node that was called otherwise before: without this they would look alive for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from msgspec import Struct

from agent.base.log import get_logger
from agent.core.errors import AgentError
from agent.core.model import NodeFacts, VolumeId, parse_volume_id
from agent.core.replace import replace
from agent.report.mqtt.outbox import Topics

if TYPE_CHECKING:
    import aiomqtt

MOST_PLACES = 8
"""Brokers and topics that are remembered; the oldest are forgotten first."""
MOST_VOLUMES = 1024
"""Of each, and of what a broker answers."""
SILENCE_S = 1.0
"""After which a broker has no more to tell: what it retains it sends at once."""
LISTEN_LIMIT_S = 10.0

_NO_NOTE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)

log = get_logger(__name__)


class Store(Protocol):
    """Where it is kept."""

    def read(self) -> bytes | None:
        """Return what was written last; None: nothing was. Raises OSError, ValueError."""

    async def write(self, content: bytes) -> None:
        """Put it where the next process finds it; raises OSError, AgentError."""


class Place(Struct, frozen=True):
    """The topics of one node at one broker, and the volumes whose states it retains there."""

    broker: str
    base: str
    instance_id: str | None = None
    """Of the node that wrote there: a disk may be another instance's copy."""
    volumes: frozenset[VolumeId] = frozenset()


class RetainedNote:
    """Remembers the places this node has written to, on disk where there is a store."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._places = _read(store)

    def find(self, broker: str, base: str) -> frozenset[VolumeId]:
        """Return the volumes retained at a place."""
        found = (one.volumes for one in self._places if (one.broker, one.base) == (broker, base))
        return next(found, frozenset())

    def list_old(self, broker: str, base: str, facts: NodeFacts, nameless: str) -> tuple[Place, ...]:
        """Return this very node's other places at a broker, ``base`` being where it is now.

        ``nameless``: where this host writes to while it does not know its name. What another instance wrote,
        from whose disk this one's was copied, is that one's own.
        """
        return tuple(
            one
            for one in self._places
            if (one.broker == broker and one.base != base)
            and (one.instance_id == facts.instance_id or one.base == nameless)
        )

    async def put(self, place: Place) -> None:
        """Remember what is retained at a place now."""
        place = replace(place, volumes=frozenset(sorted(place.volumes)[:MOST_VOLUMES]))
        others = [one for one in self._places if (one.broker, one.base) != (place.broker, place.base)]
        await self._keep([*others, place][-MOST_PLACES:])

    async def drop(self, place: Place) -> None:
        """Forget a place where nothing is retained any more."""
        await self._keep([one for one in self._places if one != place])

    async def _keep(self, places: list[Place]) -> None:
        if places == self._places:
            return
        self._places = places
        if self._store is None:
            return
        try:
            await self._store.write(_show(places))
        except (AgentError, OSError, ValueError) as error:
            log.warning("mqtt.unnoted", error=str(error))


def _read(store: Store | None) -> list[Place]:
    """Return what was remembered; what cannot be read is logged, and is as if it had never been."""
    try:
        content = None if store is None else store.read()
        return [] if content is None else _parse_note(content)
    except (AgentError, OSError, *_NO_NOTE) as error:
        log.warning("mqtt.note_unreadable", error=str(error))
        return []


def check_note(content: bytes) -> bytes:
    """Return a note that somebody else wrote, as this would have written it, or raise ValueError."""
    try:
        return _show(_parse_note(content))
    except (AgentError, *_NO_NOTE) as error:
        raise ValueError(f"it is no note of what brokers retain: {error}") from error


def _show(places: list[Place]) -> bytes:
    shown = [
        {
            "broker": one.broker,
            "base": one.base,
            "instance_id": one.instance_id,
            "volumes": sorted(one.volumes),
        }
        for one in places
    ]
    return json.dumps({"version": 1, "places": shown}).encode() + b"\n"


def _parse_note(content: bytes) -> list[Place]:
    return [_parse(fields) for fields in json.loads(content)["places"][-MOST_PLACES:]]


def _parse(fields: dict[str, Any]) -> Place:
    instance_id = fields["instance_id"]
    return Place(
        str(fields["broker"]),
        str(fields["base"]),
        None if instance_id is None else str(instance_id),
        frozenset(parse_volume_id(one) for one in fields["volumes"][:MOST_VOLUMES]),
    )


def list_topics(place: Place) -> Iterable[str]:
    """Return every topic under which something may be retained at a place."""
    topics = Topics(place.base)
    return (topics.status, *(topics.volume(volume) for volume in sorted(place.volumes)))


async def ask_retained(client: aiomqtt.Client, topics: Topics) -> frozenset[VolumeId]:
    """Return the volumes of which a broker retains a state below these topics.

    ``client`` is one of its own, connected. A broker that answers nothing has nothing, or does not tell.
    """
    prefix = topics.volume(VolumeId(""))
    found: set[VolumeId] = set()
    await client.subscribe(f"{prefix}+", qos=0, timeout=LISTEN_LIMIT_S)
    messages = aiter(client.messages)
    with anyio.move_on_after(LISTEN_LIMIT_S):
        while len(found) < MOST_VOLUMES:
            with anyio.move_on_after(SILENCE_S) as silence:
                message = await anext(messages)
            if silence.cancelled_caught:
                break
            topic = str(message.topic)
            if message.retain and message.payload and topic.startswith(prefix):
                found |= _find_id(topic.removeprefix(prefix))
    return frozenset(found)


def _find_id(text: str) -> frozenset[VolumeId]:
    """Return the volume a topic is about; none where it is about something else, which is not ours."""
    try:
        return frozenset({parse_volume_id(text)})
    except AgentError:
        return frozenset()
