"""The policy as a value: what is wanted of every volume, and by which entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from agent.core.model import Expected, NodeFacts, Origin, Seen, VolumeId
from agent.policy.assignment import Assignment, assign
from agent.policy.entries import VolumeClass, VolumeEntry
from agent.policy.matching import Candidate, MatchContext, MatchExplanation, explain_match
from agent.policy.settings import AgentSettings
from agent.policy.values.annotations import find_key
from agent.policy.values.fields import ClassName
from agent.policy.values.mount_path import list_node_fields


@dataclass(frozen=True, kw_only=True)
class Head:
    """The policy file without its lists, whose items are read one by one."""

    version: Literal[1]
    """Version of the policy's format: 1."""
    agent: AgentSettings = field(default_factory=AgentSettings)
    """How the agent itself runs."""


@dataclass(frozen=True, kw_only=True)
class Policy(Head):
    """The policy file of ebs-agent."""

    classes: Mapping[ClassName, VolumeClass] = field(default_factory=dict)
    """Parameters of volumes the agent makes, by name."""
    volumes: tuple[VolumeEntry, ...] = ()
    """What is wanted of each volume."""

    def assign(
        self,
        present: Mapping[VolumeId, Seen],
        node: NodeFacts,
        *,
        held: Mapping[str, VolumeId] | None = None,
        claimed: Mapping[str, VolumeId] | None = None,
        origins: Mapping[VolumeId, Origin] | None = None,
        also: Iterable[VolumeId] = (),
    ) -> dict[VolumeId, Assignment]:
        """Return what is wanted of each volume: Wanted, an AgentError, or None where no entry matches.

        Of those in ``present``, those in ``also``, and those the policy names that may be on this node.
        ``held``: by entry name, the volume that was given the entry before and uses it; it keeps it.
        ``claimed``: by entry name, the volume that was made for the entry's claim.
        ``origins``: what the cloud answered, for matching by tags and type.
        """
        around = self._surround(node, held, claimed)
        origins = origins or {}
        volumes = {volume_id: describe_seen(volume_id, seen, origins) for volume_id, seen in present.items()}
        named = {entry.volume_id or around.claimed.get(entry.name) for entry in self.volumes}
        absent = {*also, *named} - volumes.keys() - {None}
        volumes |= {
            volume_id: describe_seen(volume_id, None, origins)
            for volume_id in absent
            if volume_id is not None
        }
        wants = assign(self.volumes, volumes.values(), around)
        # A volume named for another group's nodes, and not here, is no business of this node's.
        followed = {*present, *also}
        return {volume_id: want for volume_id, want in wants.items() if want or volume_id in followed}

    def explain(
        self, volume: Candidate, node: NodeFacts, *, claimed: Mapping[str, VolumeId] | None = None
    ) -> tuple[MatchExplanation, ...]:
        """Return for each entry why it matches a volume or not."""
        around = self._surround(node, claimed=claimed)
        return tuple(explain_match(entry, volume, around) for entry in self.volumes)

    def lacks(self, node: NodeFacts) -> bool:
        """Tell whether an entry needs for its match, or its path, what is not known of this node."""
        groups = {None, node.instance_group}
        if node.instance_group is None and any(entry.instance_group for entry in self.volumes):
            return True
        paths = (one.mount.path for one in self.volumes if one.mount and one.instance_group in groups)
        needed = frozenset[str]().union(*map(list_node_fields, paths))
        return any(getattr(node, name) is None for name in needed)

    def may_want_raw(
        self, volume: Candidate, node: NodeFacts, *, claimed: Mapping[str, VolumeId] | None = None
    ) -> bool:
        """Tell whether an entry may have the volume handed out raw once more is known of this node."""
        around = self._surround(node, claimed=claimed)
        raw = (entry for entry in self.volumes if entry.block is not None)
        return any(explain_match(entry, volume, around).waits_for_node for entry in raw)

    def expected(self, node: NodeFacts | None = None) -> tuple[Expected, ...]:
        """Return the volumes the policy speaks of; with ``node``, without those of other instance groups."""
        group = None if node is None else node.instance_group
        return tuple(
            Expected(entry.name, entry.volume_id, is_required=entry.required)
            for entry in self.volumes
            if group is None or entry.instance_group in {None, group}
        )

    def find_entry(self, name: str) -> VolumeEntry | None:
        """Return the entry called ``name``."""
        return next((entry for entry in self.volumes if entry.name == name), None)

    def _surround(
        self,
        node: NodeFacts,
        held: Mapping[str, VolumeId] | None = None,
        claimed: Mapping[str, VolumeId] | None = None,
    ) -> MatchContext:
        return MatchContext(node, held or {}, claimed or {}, self.agent.allowed_roots)


def describe_seen(volume_id: VolumeId, seen: Seen | None, origins: Mapping[VolumeId, Origin]) -> Candidate:
    """Return what matching can ask about a volume; ``seen`` is None where it is not attached."""
    if seen is None:
        return Candidate(volume_id, origin=origins.get(volume_id), is_present=False)
    attach_name = None if seen.identity is None else seen.identity.attach_name
    size_bytes = None if seen.identity is None else seen.size_bytes
    return Candidate(volume_id, attach_name, size_bytes, origins.get(volume_id))


@dataclass(frozen=True)
class PolicyChange:
    """What a reload changed, by the names of entries and sections."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    """Of ``agent.http``, ``agent.mqtt`` … and ``classes.NAME``."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.sections)

    def describe(self) -> str:
        """Return the change on one line: ``added a, b; changed c``."""
        lists = {
            "added": self.added,
            "removed": self.removed,
            "changed": (*self.changed, *self.sections),
        }
        return "; ".join(f"{verb} {', '.join(names)}" for verb, names in lists.items() if names) or "nothing"


def diff_policies(old: Policy, new: Policy) -> PolicyChange:
    """Return what differs between two policies, each list sorted."""
    before = {entry.name: entry for entry in old.volumes}
    after = {entry.name: entry for entry in new.volumes}
    sections = [
        f"agent.{find_key(setting)}"
        for setting in fields(AgentSettings)
        if getattr(old.agent, setting.name) != getattr(new.agent, setting.name)
    ]
    names = {*old.classes, *new.classes}
    sections += [f"classes.{name}" for name in names if old.classes.get(name) != new.classes.get(name)]
    return PolicyChange(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        sections=tuple(sorted(sections)),
    )


def tell_leaving(old: Policy, new: Policy) -> tuple[str, ...]:
    """Say of each claim that is gone what becomes of its volumes, where they are not just left."""
    kept = {entry.name for entry in new.volumes if entry.claim is not None}
    hours = new.agent.cloud.grace_s / 3600
    return tuple(
        f"Claim {entry.name!r} is no longer in the policy: in {hours:g} h its volumes are deleted"
        f"{' after a last snapshot' if entry.claim.on_delete == 'snapshot' else ''}, unless it is back by "
        "then or an entry names them."
        for entry in old.volumes
        if entry.claim is not None and entry.claim.on_delete != "retain" and entry.name not in kept
    )


def tell_expiring(old: Policy, new: Policy) -> tuple[str, ...]:
    """Say of each claim which of its volumes are deleted by themselves from now on, where that is new."""
    before = {entry.name: entry.claim.unheld_limit_s for entry in old.volumes if entry.claim is not None}
    return tuple(
        f"Claim {entry.name!r}: volumes of nodes that are gone are deleted"
        f"{' after a last snapshot' if entry.claim.on_delete == 'snapshot' else ''}, once nobody has held "
        f"them for {entry.claim.unheld_limit_s / 86400:g} days."
        for entry in new.volumes
        if entry.claim is not None
        and entry.claim.unheld_limit_s is not None
        and before.get(entry.name) != entry.claim.unheld_limit_s
    )
