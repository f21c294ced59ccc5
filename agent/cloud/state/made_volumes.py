"""Remembers which volumes were made for this node's claims, over restarts, and which of them are lost.

A claim's volume is found by its tags, so losing this memory loses no volume. What it is for: that a volume
which was deleted is told, and that no claim has volumes made for it again and again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from agent.base.log import get_logger
from agent.cloud.aws.models import TAG_CLAIM, TAG_CLUSTER, TAG_NODE, TAG_ON_DELETE, CloudVolume, Tags
from agent.core.errors import AgentError
from agent.core.model import VolumeId, parse_volume_id
from agent.core.replace import replace

if TYPE_CHECKING:
    from agent.cloud.aws.making_calls import MakingCall

log = get_logger(__name__)

UNSEEN_LIMIT_S = 900.0
"""How long a volume made with other parameters may stay undescribed before it counts as deleted."""
ASK_AGAIN_S = 30.0
"""After this AWS is asked by the token what became of a volume it does not describe. EC2 takes seconds."""
MOST_LOST = 1
"""Volumes of a claim that may be lost before a person has to say that another is to be made."""
MOST_GENERATIONS = 20
"""Tokens of one claim that may be used up before it is given up."""


class Making(Struct, frozen=True):
    """What is remembered of the volume of one claim."""

    generation: int = 0
    """How many tokens of the claim are used up by volumes that were deleted."""
    volume_id: VolumeId | None = None
    """The volume AWS answered with, or described as the claim's."""
    is_seen: bool = False
    """It was described once."""
    lost: tuple[VolumeId, ...] = ()
    """Volumes that were deleted by others, since a person last loaded the policy."""
    has_vanished: bool = False
    """The last of them was never described."""
    on_delete: str = "retain"
    """What is to become of the volume when its claim is gone."""
    taking: VolumeId | None = None
    """The volume of its pool that this node is attaching, or has attached without its name on it."""
    is_doubted: bool = False
    """When AWS was asked last it was not, or not alone, what bears the claim's marks."""
    unseen_since_s: float | None = None
    """Monotonic, of this process: when AWS first said that the token has its volume, which none describes."""
    asked_at_s: float | None = None
    """Likewise: when AWS said so last."""

    @property
    def is_lost_too_often(self) -> bool:
        """Another volume is made only when a person says so."""
        return len(self.lost) > MOST_LOST


def find_key(tags: Tags) -> str:
    """Return the name of a claim's memory, by the tags of its volume."""
    marks = dict(tags)
    return make_key(marks[TAG_CLUSTER], marks[TAG_NODE], marks[TAG_CLAIM])


def make_key(cluster: str, node: str, claim: str) -> str:
    """Return the name of a claim's memory, by what its volume is marked with."""
    return f"{cluster}/{node}/{claim}"


# -- What follows from what AWS said -------------------------------------------------------------------------


def note_described(making: Making, volume: CloudVolume, described: Mapping[VolumeId, CloudVolume]) -> Making:
    """Return what to remember once ``volume`` is among the ``described``, as the claim's."""
    lost = making.lost[:-1] if making.has_vanished else making.lost  # what was never here is no loss
    lost = tuple(one for one in lost if one != volume.volume_id)
    last = making.volume_id
    if making.is_seen and last not in {None, volume.volume_id, *described}:
        lost += (VolumeId(str(last)),)
    rule = volume.tag(TAG_ON_DELETE) or "retain"
    return Making(making.generation, volume.volume_id, is_seen=True, lost=lost, on_delete=rule)


def note_made(call: MakingCall, making: Making, volume: CloudVolume, now_s: float) -> Making:
    """Return what to remember after AWS answered with ``volume``, just made or made before.

    A token is forgotten by AWS one day; then the answer is a new volume in place of a lost one.
    """
    if volume.is_gone:
        return note_burnt(call, replace(making, volume_id=volume.volume_id))
    is_same = making.volume_id in {None, volume.volume_id}
    if not is_same:
        making = _lose(making)
    return replace(
        making,
        generation=call.generation,
        volume_id=volume.volume_id,
        is_seen=making.is_seen and is_same,
        lost=tuple(one for one in making.lost if one != volume.volume_id),
        unseen_since_s=now_s if making.unseen_since_s is None else making.unseen_since_s,
        asked_at_s=now_s,
    )


def note_burnt(call: MakingCall, making: Making) -> Making:
    """Return what to remember after AWS said that the token's volume is deleted: the next token is due."""
    if making.volume_id is not None:
        making = _lose(making)
    return replace(making, generation=call.generation + 1)


def note_mismatch(call: MakingCall, making: Making, now_s: float) -> Making:
    """Return what to remember after AWS said that the token was used with other parameters before.

    Then the volume exists, made for an earlier wording of the class, and its tags will show it; or it was
    deleted, which AWS does not tell of such a token.
    """
    since_s = now_s if making.unseen_since_s is None else making.unseen_since_s
    if now_s - since_s > UNSEEN_LIMIT_S:
        return note_burnt(call, making)
    return replace(making, generation=call.generation, unseen_since_s=since_s, asked_at_s=now_s)


def _lose(making: Making) -> Making:
    lost = (*making.lost, VolumeId(str(making.volume_id)))
    return Making(making.generation, lost=lost, has_vanished=not making.is_seen)


# -- Over restarts -------------------------------------------------------------------------------------------


class Store(Protocol):
    """Where the memory is kept."""

    def read(self) -> bytes | None:
        """Return what was written last; None: nothing was."""

    async def write(self, content: bytes) -> None:
        """Put it where the next process finds it; raise OSError where that cannot be."""


class MemoryStore:
    """Keeps it for as long as the process lives."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def read(self) -> bytes | None:
        return self.content

    async def write(self, content: bytes) -> None:
        self.content = content


class Makings:
    """The memory of all claims of this node."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or MemoryStore()
        self._makings = dict(_read(self._store))

    def get(self, key: str) -> Making:
        return self._makings.get(key, Making())

    def list_volumes(self) -> frozenset[VolumeId]:
        """Return the volumes that are to be asked about by ID."""
        makings = self._makings.values()
        return frozenset(one for making in makings for one in (making.volume_id, making.taking) if one)

    @property
    def is_any_to_go(self) -> bool:
        """A volume of this node is to be deleted when its claim is gone, which nothing else may speak of."""
        return any(making.volume_id and making.on_delete != "retain" for making in self._makings.values())

    async def put(self, key: str, making: Making) -> None:
        """Remember, on disk where it is to outlast the process. What cannot be written is logged."""
        is_news = _show(self.get(key)) != _show(making)
        self._makings[key] = making
        if is_news:
            await self._save()

    async def drop(self, volume_id: VolumeId) -> None:
        """Forget a volume that the agent itself deleted."""
        kept = {key: making for key, making in self._makings.items() if making.volume_id != volume_id}
        if kept.keys() != self._makings.keys():
            self._makings = kept
            await self._save()

    async def forgive(self) -> None:
        """Let volumes be made again that were lost: a person has loaded the policy anew."""
        for key, making in tuple(self._makings.items()):
            if making.lost:
                await self.put(key, Making(making.generation))

    async def _save(self) -> None:
        shown = {key: _show(making) for key, making in self._makings.items()}
        try:
            await self._store.write(json.dumps({"version": 1, "claims": shown}, indent=1).encode() + b"\n")
        except (AgentError, OSError, ValueError) as error:
            log.warning("claims.unwritten", error=str(error))


_LASTING = ("generation", "volume_id", "is_seen", "lost", "has_vanished", "on_delete", "taking", "is_doubted")


def _show(making: Making) -> dict[str, Any]:
    return {name: getattr(making, name) for name in _LASTING}


def _read(store: Store) -> Iterator[tuple[str, Making]]:
    """Yield what is remembered; what cannot be read is logged, and is as if it had never been."""
    try:
        content = store.read()
        claims = {} if content is None else json.loads(content)["claims"]
        yield from [(str(key), _parse(fields)) for key, fields in claims.items()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, AgentError) as error:
        log.warning("claims.unreadable", error=f"{type(error).__name__}: {error}")


def _parse(fields: Mapping[str, Any]) -> Making:
    volume_id = fields["volume_id"]
    return Making(
        generation=min(max(int(fields["generation"]), 0), MOST_GENERATIONS),
        volume_id=None if volume_id is None else parse_volume_id(volume_id),
        is_seen=bool(fields["is_seen"]),
        lost=tuple(parse_volume_id(one) for one in fields["lost"]),
        has_vanished=bool(fields["has_vanished"]),
        on_delete=str(fields["on_delete"]),
        taking=None if fields["taking"] is None else parse_volume_id(fields["taking"]),
        is_doubted=bool(fields.get("is_doubted", False)),  # agents before did not write it
    )
