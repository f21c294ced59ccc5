"""What a claim and its class ask for, with everything about this node filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from msgspec import Struct

from agent.cloud.aws.models import (
    MADE_BY,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_GROUP,
    TAG_MADE_BY,
    TAG_NODE,
    TAG_ON_DELETE,
    Tags,
)
from agent.cloud.identity.whoami import require_identity
from agent.cloud.plan.decisions import NodeView
from agent.cloud.state.made_volumes import find_key
from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId
from agent.core.units import GIB
from agent.policy.entries import Claim, VolumeClass

CLUSTER_WIDE = "*"
"""The node tag of a volume that belongs to the whole cluster."""


LEAST_IOPS = {"gp3": 3000, "io1": 100, "io2": 100}
"""What EC2 gives a volume at least, by type; it refuses less. Source: EBS user guide, volume types."""


class WantedVolume(Struct, frozen=True):
    """What a claim and its class ask for, with everything about this node filled in."""

    name: str
    """The policy entry's name."""
    cluster: str
    node: str
    """Instance name, or ``*`` for the whole cluster."""
    zone: str
    type: str
    size_gib: int | None
    """None: that of what it is made from."""
    iops: int | None = None
    throughput: int | None = None
    is_encrypted: bool | None = None
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    source_volume_id: VolumeId | None = None
    """The volume it is to be a copy of."""
    initialization_rate_mib: int | None = None
    is_multi_attach: bool = False
    on_delete: str = "retain"
    tags: Tags = ()
    """The class's own, templates filled in; the agent's come on top."""
    group: str | None = None
    """The instance group whose nodes hand the volume on, one to the next; None: it is one name's for good."""

    @property
    def is_pooled(self) -> bool:
        """Whoever needs one takes a volume that a node of the group has left, in place of a new one."""
        return self.group is not None

    @property
    def all_tags(self) -> Tags:
        own = {
            TAG_MADE_BY: MADE_BY,
            TAG_CLUSTER: self.cluster,
            TAG_CLAIM: self.name,
            TAG_NODE: self.node,
            TAG_ON_DELETE: self.on_delete,
        }
        own |= {TAG_GROUP: self.group} if self.group is not None else {}
        named = {"Name": f"{self.name} {self.node}" if self.node != CLUSTER_WIDE else self.name}
        return tuple(sorted({**named, **dict(self.tags), **own}.items()))

    @property
    def key(self) -> str:
        """What the claim's volume is remembered under."""
        return find_key(self.all_tags)

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
    cluster, owner = find_owner(claim, node)
    if cluster is None:
        raise _refuse_clusterless(name)
    is_pooled = claim.per == "node" and node.has_passing_name and not volume_class.multi_attach
    if is_pooled:
        require_identity(node.identity, "instance_group")
    check_kms_key(name, volume_class.kms_key_id, node.identity.account)
    size_gib = None if claim.size_bytes is None else claim.size_bytes // GIB
    iops = volume_class.iops
    if volume_class.iops_per_gib is not None and size_gib is not None:
        iops = max(volume_class.iops_per_gib * size_gib, LEAST_IOPS.get(volume_class.type, 0))
    return WantedVolume(
        name=name,
        cluster=cluster,
        node=str(owner),
        zone=str(node.identity.zone),
        type=volume_class.type,
        size_gib=size_gib,
        iops=iops,
        throughput=volume_class.throughput,
        is_encrypted=True if volume_class.kms_key_id else volume_class.encrypted,
        kms_key_id=volume_class.kms_key_id,
        snapshot_id=claim.snapshot_id,
        source_volume_id=claim.source_volume_id,
        initialization_rate_mib=volume_class.initialization_rate,
        is_multi_attach=volume_class.multi_attach,
        on_delete=claim.on_delete,
        tags=_fill_tags(volume_class.tags, name, node, is_shared=claim.per == "cluster"),
        group=node.identity.instance_group if is_pooled else None,
    )


def find_owner(claim: Claim, node: NodeView) -> tuple[str | None, str | None]:
    """Return the cluster and the node that a claim's volume is marked with; None is what is not known."""
    if claim.per == "cluster":
        return node.shared_key, CLUSTER_WIDE
    return node.cluster_key, node.node_key


def _refuse_clusterless(name: str) -> AgentError:
    """Return the error of a volume for a cluster that is none: everybody's in the account would be one."""
    return AgentError(
        f"{name!r} claims one volume for its cluster, and this node is in no HyperPod cluster.",
        hint="Set agent.cloud.cluster to a name of your own, the same on all nodes that are to share the "
        "volume; or claim per: node.",
        reason=Reason.CLOUD_ERROR,
        retryable=False,
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
    words = {"{name}": name, "{cluster}": node.shared_key or node.cluster_key}
    if not is_shared:
        words["{instance_name}"] = node.node_key or ""
        words["{instance_group}"] = node.identity.instance_group or ""
    filled = {}
    for key, value in tags.items():
        for word, meaning in words.items():
            value = value.replace(word, meaning)  # noqa: PLW2901 - each word in turn
        filled[key] = value
    return tuple(sorted(filled.items()))
