"""Decides how a claim gets its volume and keeps it: made once, found again, taken over, never two of it.

A claim's volume is known by its tags alone, so it is found again after a restart, by another process, and by
the instance that replaces this one. Making it twice is prevented by a client token that everyone derives the
same way; nothing has to be remembered for that, and nothing is lost with the root volume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.cloud.attach import plan_attach, plan_detach
from agent.cloud.calls import CreateSnapshot, CreateVolume, DeleteVolume
from agent.cloud.decisions import Decision, Do, NodeView
from agent.cloud.values import (
    GIB,
    MADE_BY,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_MADE_BY,
    TAG_NODE,
    TAG_ON_DELETE,
    TAG_VOLUME,
    CloudSnapshot,
    CloudVolume,
    Tags,
)
from agent.cloud.whoami import require_identity
from agent.errors import AgentError
from agent.model import Reason
from agent.policy.entries import Claim, VolumeClass
from agent.steps import Refuse, Wait

CLUSTER_WIDE = "*"
"""The node tag of a volume that belongs to the whole cluster."""
TAG_FINAL = "ebs-agent:final"
"""On the snapshot taken before a volume is deleted: the volume's ID."""


@dataclass(frozen=True)
class WantedVolume:
    """What a claim and its class ask for, with everything about this node filled in."""

    name: str
    """The policy entry's name."""
    cluster: str
    node: str
    """Instance name, or ``*`` for the whole cluster."""
    zone: str
    type: str
    size_gib: int | None
    """None: the snapshot's."""
    iops: int | None = None
    throughput: int | None = None
    is_encrypted: bool | None = None
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    initialization_rate_mib: int | None = None
    is_multi_attach: bool = False
    on_delete: str = "retain"
    tags: Tags = ()
    """The class's own, templates filled in; the agent's come on top."""

    @property
    def all_tags(self) -> Tags:
        own = {
            TAG_MADE_BY: MADE_BY,
            TAG_CLUSTER: self.cluster,
            TAG_CLAIM: self.name,
            TAG_NODE: self.node,
            TAG_ON_DELETE: self.on_delete,
        }
        named = {"Name": f"{self.name} {self.node}" if self.node != CLUSTER_WIDE else self.name}
        return tuple(sorted({**named, **dict(self.tags), **own}.items()))

    def make_token(self, generation: int) -> str:
        """Return the client token under which AWS makes one volume, however often it is asked.

        ``generation`` counts volumes of this claim that were deleted: their tokens stay used up.
        """
        words = ("ebs-agent", self.cluster, self.name, self.node, str(generation))
        return hashlib.sha256("\0".join(words).encode()).hexdigest()


def want_volume(name: str, claim: Claim, volume_class: VolumeClass, node: NodeView) -> WantedVolume:
    """Fill a claim in for this node, or raise an AgentError that says what is not known or cannot be."""
    require_identity(node.identity, "zone")
    if claim.per == "node" and node.node_key is None:
        require_identity(node.identity, "instance_name")
    check_kms_key(name, volume_class.kms_key_id, node.identity.account)
    size_gib = None if claim.size_bytes is None else claim.size_bytes // GIB
    iops = volume_class.iops
    if volume_class.iops_per_gib is not None and size_gib is not None:
        iops = volume_class.iops_per_gib * size_gib
    return WantedVolume(
        name=name,
        cluster=node.cluster_key,
        node=CLUSTER_WIDE if claim.per == "cluster" else str(node.node_key),
        zone=str(node.identity.zone),
        type=volume_class.type,
        size_gib=size_gib,
        iops=iops,
        throughput=volume_class.throughput,
        is_encrypted=True if volume_class.kms_key_id else volume_class.encrypted,
        kms_key_id=volume_class.kms_key_id,
        snapshot_id=claim.snapshot_id,
        initialization_rate_mib=volume_class.initialization_rate,
        is_multi_attach=volume_class.multi_attach,
        on_delete=claim.on_delete,
        tags=_fill_tags(volume_class.tags, name, node, is_shared=claim.per == "cluster"),
    )


def check_kms_key(name: str, key: str | None, account: str | None) -> None:
    """Raise where the key's ARN names another account: a volume encrypted so could never be attached."""
    if key is None or not key.startswith("arn:") or account is None:
        return
    parts = key.split(":")
    if len(parts) < 6 or parts[2] != "kms":  # noqa: PLR2004 - arn:partition:kms:region:account:key/…
        raise AgentError(
            f"The kms_key_id of {name!r} is not the ARN of a KMS key: {key}.",
            hint="Give a key ID, alias/…, or arn:aws:kms:REGION:ACCOUNT:key/….",
            reason=Reason.CLOUD_ERROR,
            retryable=False,
        )
    if parts[4] != account:
        raise AgentError(
            f"The KMS key of {name!r} belongs to account {parts[4]}, this cluster to {account}.",
            hint=f"Use a key of account {account}.",
            reason=Reason.PERMISSION_DENIED,
            retryable=False,
        )


def _fill_tags(tags: Mapping[str, str], name: str, node: NodeView, *, is_shared: bool) -> Tags:
    """Fill ``{name}``, ``{cluster}`` and, where the volume is one node's, the node's own words."""
    words = {"{name}": name, "{cluster}": node.cluster_key}
    if not is_shared:
        words["{instance_name}"] = node.node_key or ""
        words["{instance_group}"] = node.identity.instance_group or ""
    filled = {}
    for key, value in tags.items():
        for word, meaning in words.items():
            value = value.replace(word, meaning)  # noqa: PLW2901 - each word in turn
        filled[key] = value
    return tuple(sorted(filled.items()))


def find_claimed(wanted: WantedVolume, volumes: Iterable[CloudVolume]) -> tuple[CloudVolume, ...]:
    """Return the volumes that carry the claim's tags and are not going away, oldest first."""
    marks = {TAG_MADE_BY: MADE_BY, TAG_CLUSTER: wanted.cluster, TAG_CLAIM: wanted.name, TAG_NODE: wanted.node}
    found = (
        volume
        for volume in volumes
        if not volume.is_gone and all(volume.tag(key) == value for key, value in marks.items())
    )
    return tuple(sorted(found, key=lambda volume: (volume.created_at, volume.volume_id)))


@dataclass(frozen=True)
class Making:
    """What is remembered, in memory only, of a volume this process asked AWS to make."""

    generation: int = 0
    unseen_since_s: float | None = None
    """Monotonic; when AWS said that the token has its volume, which no description has shown yet."""


UNSEEN_LIMIT_S = 900.0
"""How long a volume that was made may stay undescribed before it counts as deleted. EC2 takes seconds."""


def plan_claim(
    wanted: WantedVolume, volumes: Sequence[CloudVolume], node: NodeView, making: Making, now_s: float
) -> Decision:
    """Decide the next thing on the way to having the claim's volume here."""
    claimed = find_claimed(wanted, volumes)
    if len(claimed) > 1:
        here = [one for one in claimed if one.volume_id in node.devices]
        if len(here) != 1:
            return _refuse_several(wanted, claimed)
        claimed = tuple(here)
    if claimed:
        return plan_attach(claimed[0], node, may_take_over=True)
    if making.unseen_since_s is None:
        return Do(make_create_call(wanted, making.generation))
    if now_s - making.unseen_since_s < UNSEEN_LIMIT_S:
        return Wait(
            Reason.WAITING_FOR_CLOUD, f"The volume of {wanted.name!r} is made; AWS does not describe it yet."
        )
    return Do(make_create_call(wanted, making.generation + 1))


def note_made(call: CreateVolume, volume: CloudVolume, now_s: float) -> Making:
    """Return what to remember after CreateVolume answered with ``volume``.

    A token that was used for a volume since deleted brings that one back: the next generation is due.
    """
    if volume.is_gone:
        return Making(generation=call.generation + 1)
    return Making(call.generation, unseen_since_s=now_s)


def note_mismatch(call: CreateVolume, making: Making, now_s: float) -> Making:
    """Return what to remember after AWS said that the token was used with other parameters before.

    Then the volume exists, made for an earlier wording of the class; its tags will show it.
    """
    is_first = making.generation != call.generation or making.unseen_since_s is None
    return Making(call.generation, now_s if is_first else making.unseen_since_s)


def make_create_call(wanted: WantedVolume, generation: int) -> CreateVolume:
    """Return the call that makes the claim's volume."""
    return CreateVolume(
        client_token=wanted.make_token(generation),
        zone=wanted.zone,
        size_gib=wanted.size_gib,
        type=wanted.type,
        tags=wanted.all_tags,
        iops=wanted.iops,
        throughput=wanted.throughput,
        is_encrypted=wanted.is_encrypted,
        kms_key_id=wanted.kms_key_id,
        snapshot_id=wanted.snapshot_id,
        initialization_rate_mib=wanted.initialization_rate_mib,
        is_multi_attach=wanted.is_multi_attach,
        generation=generation,
    )


def _refuse_several(wanted: WantedVolume, claimed: Sequence[CloudVolume]) -> Refuse:
    names = ", ".join(volume.volume_id for volume in claimed)
    return Refuse(
        Reason.SEVERAL_VOLUMES,
        f"{len(claimed)} volumes carry the tags of claim {wanted.name!r}: {names}.",
        hint=f"Find out which one holds the data, and remove the tag {TAG_CLAIM} from the others.",
    )


# -- When a claim is no longer in the policy -----------------------------------------------------------------


def find_orphans(
    volumes: Iterable[CloudVolume], claims: frozenset[str], node: NodeView
) -> tuple[CloudVolume, ...]:
    """Return this node's volumes whose claim the policy no longer has; never those of the whole cluster."""
    if node.node_key is None:
        return ()
    marks = {TAG_MADE_BY: MADE_BY, TAG_CLUSTER: node.cluster_key, TAG_NODE: node.node_key}
    return tuple(
        volume
        for volume in volumes
        if not volume.is_gone
        and all(volume.tag(key) == value for key, value in marks.items())
        and volume.tag(TAG_CLAIM) is not None
        and volume.tag(TAG_CLAIM) not in claims
    )


def plan_orphan(
    volume: CloudVolume, snapshots: Sequence[CloudSnapshot], node: NodeView, *, is_released: bool
) -> Decision | None:
    """Decide what becomes of a volume whose claim is gone; None: nothing, it is retained or done.

    What the policy said when the claim was in it counts, and is on the volume itself. Anything but an exact
    ``delete`` or ``snapshot`` retains.
    """
    rule = volume.tag(TAG_ON_DELETE)
    if rule not in {"delete", "snapshot"}:
        return None
    if volume.attachments or volume.volume_id in node.devices:
        instance_id = node.identity.instance_id or ""
        is_ours = volume.volume_id in node.devices or volume.attachment_to(instance_id) is not None
        return plan_detach(volume, node, is_released=is_released) if is_ours else None
    if volume.state != "available":
        return Wait(
            Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is {volume.state}; it is deleted after that."
        )
    if rule == "snapshot":
        final = [one for one in snapshots if one.tag(TAG_FINAL) == volume.volume_id]
        if not any(one.state == "completed" for one in final):
            return _plan_final_snapshot(volume, final)
    return Do(DeleteVolume(volume.volume_id))


def _plan_final_snapshot(volume: CloudVolume, final: Sequence[CloudSnapshot]) -> Decision:
    pending = [one for one in final if one.state == "pending"]
    if pending:
        percent = max(one.progress_percent for one in pending)
        return Wait(Reason.WAITING_FOR_CLOUD, f"The last snapshot of {volume.volume_id} is at {percent} %.")
    kept = tuple(pair for pair in volume.tags if pair[0] in {TAG_MADE_BY, TAG_CLUSTER, TAG_CLAIM, TAG_NODE})
    tags = tuple(sorted((*kept, (TAG_VOLUME, volume.volume_id), (TAG_FINAL, volume.volume_id))))
    return Do(
        CreateSnapshot(volume.volume_id, f"Last snapshot of {volume.volume_id} before its deletion", tags)
    )
