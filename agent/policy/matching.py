"""Whether one policy entry matches one volume, and why: each thing asked, with a sentence. Pure.

What is not known yet matches nothing yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from agent.core.model import (
    NodeFacts,
    Origin,
    VolumeId,
)
from agent.core.quoting import quote
from agent.core.suggestions import find_meant
from agent.core.units import SizeRange, format_size
from agent.policy.entries import Match, VolumeEntry


class Candidate(Struct, frozen=True):
    """What matching can ask about a volume; None is what is not known."""

    volume_id: VolumeId
    attach_name: str | None = None
    size_bytes: int | None = None
    origin: Origin | None = None
    is_present: bool = True
    """It is attached to this node; an absent volume has only an entry that names it, or that it holds."""


class MatchContext(Struct, frozen=True):
    """What matching knows beside the volumes."""

    node: NodeFacts = field(default_factory=NodeFacts)
    held: Mapping[str, VolumeId] = field(default_factory=dict)
    """Entries, by name, that a volume was given before and still uses."""
    claimed: Mapping[str, VolumeId] = field(default_factory=dict)
    """Entries with a claim, by name, whose volume is made and known."""
    allowed_roots: tuple[str, ...] = ()


class Criterion(Struct, frozen=True):
    """One thing an entry asks of a volume. ``holds``: None where the fact it needs is not known."""

    key: str
    holds: bool | None
    sentence: str


class MatchExplanation(Struct, frozen=True):
    """Why an entry matches a volume, or not."""

    name: str
    criteria: tuple[Criterion, ...]

    @property
    def is_match(self) -> bool:
        return bool(self.criteria) and all(criterion.holds is True for criterion in self.criteria)

    @property
    def is_exact(self) -> bool:
        """The entry names this very volume."""
        return self.is_match and self.names_it

    @property
    def names_it(self) -> bool:
        """The volume is named by its ID; whether the rest is so may not be known."""
        return any(c.holds is True and c.key in {"volume_id", "claim"} for c in self.criteria)

    @property
    def may_keep(self) -> bool:
        """A volume that has the entry keeps it: nothing but its size, which grows, says otherwise."""
        return not any(c.holds is False and c.key != "size" for c in self.criteria)

    @property
    def waits_for_node(self) -> bool:
        """It may match once more is known of this node, and no sooner."""
        return self.may_keep and any(c.holds is None and c.key == "instance_group" for c in self.criteria)

    @property
    def sentence(self) -> str:
        failed = [c.sentence for c in self.criteria if c.holds is not True]
        if failed:
            return f"{self.name} does not match: {', and '.join(failed)}."
        return f"{self.name} matches: {', and '.join(c.sentence for c in self.criteria)}."


# -- One entry and one volume --------------------------------------------------------------------------------


def explain_match(entry: VolumeEntry, volume: Candidate, around: MatchContext) -> MatchExplanation:
    """Return what ``entry`` asks of a volume and whether it is so."""
    criteria = list(_judge_match(entry.match, volume, around.node)) if entry.match is not None else []
    if entry.claim is not None:
        criteria.append(_judge_claim(entry, volume, around))
    return MatchExplanation(entry.name, tuple(criteria))


def _judge_claim(entry: VolumeEntry, volume: Candidate, around: MatchContext) -> Criterion:
    claimed = around.claimed.get(entry.name)
    if claimed is None:
        return Criterion("claim", holds=None, sentence="the volume it claims is not known yet")
    holds = claimed == volume.volume_id
    return Criterion("claim", holds, f"the volume made for it is {'this one' if holds else claimed}")


def _judge_match(match: Match, volume: Candidate, node: NodeFacts) -> Iterator[Criterion]:
    if match.volume_id is not None:
        holds = match.volume_id == volume.volume_id
        yield Criterion("volume_id", holds, f"it is for {match.volume_id}")
    if match.device_name is not None:
        yield _compare("device_name", match.device_name, volume.attach_name, "its device name")
    if match.size is not None:
        yield _judge_size(match.size, volume.size_bytes)
    if match.instance_group is not None:
        yield _compare("instance_group", match.instance_group, node.instance_group, "this node's group")
    yield from _judge_origin(match, volume.origin)


def _judge_size(wanted: SizeRange, size_bytes: int | None) -> Criterion:
    if size_bytes is None:
        return Criterion("size", None, f"it wants {wanted.describe()} and the volume's size is not known")
    sentence = f"it wants {wanted.describe()} and the volume has {format_size(size_bytes)}"
    return Criterion("size", size_bytes in wanted, sentence)


def _judge_origin(match: Match, origin: Origin | None) -> Iterator[Criterion]:
    if match.type is not None:
        yield _compare("type", match.type, None if origin is None else origin.type, "its volume type")
    tags = None if origin is None else dict(origin.tags)
    for key, value in (match.tags or {}).items():
        if tags is None:
            yield Criterion(f"tags.{key}", None, f"it wants the tag {key}={value} and its tags are not known")
        elif key not in tags:
            meant = find_meant(key, tags)
            like = "" if meant is None else f", but one called {quote(meant, 80)}"
            sentence = f"it wants the tag {key}={value}; there is none{like}"
            yield Criterion(f"tags.{key}", holds=False, sentence=sentence)
        else:
            yield _compare(f"tags.{key}", value, tags[key], f"its tag {key}")


def _compare(key: str, wanted: str, found: str | None, what: str) -> Criterion:
    if found is None:
        return Criterion(key, None, f"it wants {quote(wanted, 80)} and {what} is not known")
    return Criterion(key, wanted == found, f"it wants {quote(wanted, 80)} and {what} is {quote(found, 80)}")
