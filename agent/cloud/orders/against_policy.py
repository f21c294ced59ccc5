"""Refuses orders that the policy in force would undo, or never have so, and names the line to change.

An order that brings a volume nearer to what the policy says is none of them, nor is one about what the policy
says nothing of. Detaching is never refused here: the volume stays away until it is given back.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from agent.cloud.aws.calls import ModifyVolume
from agent.cloud.aws.models import TAG_CLAIM, TAG_CLUSTER, CloudVolume
from agent.cloud.plan.claims.claim_removed import find_planned_deletion, find_removed
from agent.cloud.plan.claims.wanted_volume import WantedVolume, want_volume
from agent.cloud.plan.decisions import NodeView
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import Reason
from agent.policy import Policy, PolicyFile
from agent.policy.entries import Claim, VolumeEntry
from agent.policy.yaml.problems import Loc, name_place


class Conflict(Struct, frozen=True):
    """One thing that was asked for, and that the policy says otherwise."""

    asked: str
    says: str
    loc: Loc
    """Where it does."""


class PolicyGuard(Struct, frozen=True):
    """Compares orders with the policy in force."""

    policy: Policy
    node: NodeView
    file: PolicyFile | None = None
    """The policy's file; None where nobody knows."""

    async def check_modification(self, volume: CloudVolume, asked: ModifyVolume) -> None:
        """Raise RefusedError where a claim has the volume's size, type or numbers otherwise than asked."""
        entry = self._find_entry(volume)
        if entry is None or entry.claim is None:
            return
        try:
            volume_class = self.policy.classes[entry.claim.class_name]
            wanted = want_volume(entry.name, entry.claim, volume_class, self.node)
        except AgentError:
            return  # what is wanted cannot be said, so the loop changes nothing either
        conflicts = tuple(self._list_conflicts(entry, entry.claim, wanted, asked))
        if not conflicts:
            return
        where = await self._name([one.loc for one in conflicts])
        said = "; ".join(f"{one.asked} is asked for, and the policy says {one.says}" for one in conflicts)
        raise RefusedError(
            f"{volume.volume_id} is the volume of claim {entry.name!r}: {said}.",
            hint=f"Change {where} and run ebs-agent reload; the agent then modifies the volume.",
            reason=Reason.DRIFTED,
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )

    async def check_attach(self, volume: CloudVolume) -> None:
        """Raise RefusedError for a volume that the agent is going to detach and delete."""
        departure = find_planned_deletion(volume)
        if departure is None or not find_removed([volume], self.policy, self.node):
            return
        where = await self._name([("volumes",)])
        raise RefusedError(
            departure.describe(),
            hint=f"Put claim {departure.claim!r} back, or an entry with match: {{volume_id: "
            f"{volume.volume_id}}}, under {where}, and run ebs-agent reload.",
            reason=Reason.NOT_IN_POLICY,
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )

    def _find_entry(self, volume: CloudVolume) -> VolumeEntry | None:
        """Return the entry whose claim made the volume, for whichever node of the cluster."""
        if not volume.is_made_by_agent:
            return None
        if volume.tag(TAG_CLUSTER) not in {self.node.cluster_key, self.node.shared_key}:
            return None
        entry = self.policy.find_entry(volume.tag(TAG_CLAIM) or "")
        return None if entry is None or entry.claim is None else entry

    def _list_conflicts(
        self, entry: VolumeEntry, claim: Claim, wanted: WantedVolume, asked: ModifyVolume
    ) -> Iterator[Conflict]:
        of_class: Loc = ("classes", claim.class_name)
        if asked.type not in {None, wanted.type}:
            yield Conflict(f"type {asked.type}", f"type: {wanted.type}", (*of_class, "type"))
        if asked.iops is not None and wanted.iops not in {None, asked.iops}:
            volume_class = self.policy.classes[claim.class_name]
            key = "iops" if volume_class.iops_per_gib is None else "iops_per_gib"
            says = f"{key}: {getattr(volume_class, key)}"
            says += "" if key == "iops" else f", which are {wanted.iops} IOPS"
            yield Conflict(f"iops {asked.iops}", says, (*of_class, key))
        if asked.throughput is not None and wanted.throughput not in {None, asked.throughput}:
            says = f"throughput: {wanted.throughput}"
            yield Conflict(f"throughput {asked.throughput}", says, (*of_class, "throughput"))
        if asked.size_gib is not None and wanted.size_gib is not None and asked.size_gib > wanted.size_gib:
            loc: Loc = ("volumes", self.policy.volumes.index(entry), "claim", "size")
            yield Conflict(f"size {asked.size_gib}GiB", f"size: {wanted.size_gib}GiB", loc)

    async def _name(self, locs: list[Loc]) -> str:
        """Return places of the policy as a person finds them: ``classes.fast.iops (policy.yaml, line 4)``."""
        if self.file is None:
            return " and ".join(f"{name_place(loc)} in the policy" for loc in locs)
        path, lines = self.file.path, await self.file.find_lines(self.policy, locs)
        return " and ".join(
            f"{name_place(loc)} ({path}{'' if line is None else f', line {line}'})"
            for loc, line in zip(locs, lines, strict=True)
        )
