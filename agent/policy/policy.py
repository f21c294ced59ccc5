"""The policy as a value: what is wanted of every volume, and by which entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from agent.errors import AgentError
from agent.model import Identity, NodeFacts, Origin, VolumeId, Wanted
from agent.policy.entries import VolumeClass, VolumeEntry
from agent.policy.fields import Name, Section
from agent.policy.matching import Assignment, Candidate, MatchExplanation, Surroundings, assign, explain_match
from agent.policy.settings import AgentSettings


class Expected(NamedTuple):
    """A volume the policy speaks of on this node, whether it is attached or not."""

    name: str
    volume_id: VolumeId | None
    required: bool


class Policy(Section):
    """The policy file of ebs-agent."""

    version: Literal[1]
    """Version of the policy's format: 1."""
    agent: AgentSettings = AgentSettings()
    """How the agent itself runs."""
    classes: Annotated[Mapping[Name, VolumeClass], Field(default_factory=dict)]
    """Parameters of volumes the agent makes, by name."""
    volumes: tuple[VolumeEntry, ...] = ()
    """What is wanted of each volume."""

    def choose(
        self, identity: Identity, size_bytes: int, node: NodeFacts, origin: Origin | None = None
    ) -> Wanted | None:
        """Return what is wanted of one volume, as if it were the only one; None if no entry matches it.

        Raises AgentError: SeveralEntries, PathNotAllowed. Where other volumes are present, ask ``assign``.
        """
        chosen = self.assign((Candidate(identity, size_bytes, origin),), node)[identity.volume_id]
        if isinstance(chosen, AgentError):
            raise chosen
        return chosen

    def assign(
        self,
        volumes: Iterable[Candidate],
        node: NodeFacts,
        *,
        held: Mapping[str, VolumeId] | None = None,
        claimed: Mapping[str, VolumeId] | None = None,
    ) -> dict[VolumeId, Assignment]:
        """Return what is wanted of each volume present: Wanted, AgentError, or None for an unmanaged one.

        ``held``: by entry name, the volume that was given the entry before and uses it; it keeps it.
        ``claimed``: by entry name, the volume that was made for the entry's claim.
        """
        return assign(self.volumes, volumes, self._surround(node, held, claimed))

    def explain(
        self, volume: Candidate, node: NodeFacts, *, claimed: Mapping[str, VolumeId] | None = None
    ) -> tuple[MatchExplanation, ...]:
        """Return for each entry why it matches a volume or not."""
        around = self._surround(node, None, claimed)
        return tuple(explain_match(entry, volume, around) for entry in self.volumes)

    def expected(self, node: NodeFacts | None = None) -> tuple[Expected, ...]:
        """Return the volumes the policy speaks of; with ``node``, without those of other instance groups."""
        group = None if node is None else node.instance_group
        return tuple(
            Expected(entry.name, entry.volume_id, entry.required)
            for entry in self.volumes
            if group is None or entry.instance_group in {None, group}
        )

    def find_entry(self, name: str) -> VolumeEntry | None:
        """Return the entry called ``name``."""
        return next((entry for entry in self.volumes if entry.name == name), None)

    def _surround(
        self,
        node: NodeFacts,
        held: Mapping[str, VolumeId] | None,
        claimed: Mapping[str, VolumeId] | None,
    ) -> Surroundings:
        return Surroundings(node, held or {}, claimed or {}, self.agent.allowed_roots)


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


def diff_policies(old: Policy, new: Policy) -> PolicyChange:
    """Return what differs between two policies, each list sorted."""
    before = {entry.name: entry for entry in old.volumes}
    after = {entry.name: entry for entry in new.volumes}
    sections = [
        f"agent.{key}"
        for key in type(old.agent).model_fields
        if getattr(old.agent, key) != getattr(new.agent, key)
    ]
    names = {*old.classes, *new.classes}
    sections += [f"classes.{name}" for name in names if old.classes.get(name) != new.classes.get(name)]
    return PolicyChange(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        sections=tuple(sorted(sections)),
    )


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema of the policy file, for editors; ``check_policy`` knows more than it can say."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Policy.model_json_schema(by_alias=True, mode="validation"),
    }
