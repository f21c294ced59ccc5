"""What a cloud planner decides: make this call, release the volume on the node first, wait, or nothing to do.

Planners are pure: from what was described to the one next thing. After it the cloud is described again, so a
crash between any two calls is nothing but a look that happens later.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeAlias

from msgspec import Struct

from agent.cloud.aws.call import Change
from agent.cloud.aws.calls import AttachClusterNodeVolume, AttachVolume, DetachClusterNodeVolume, DetachVolume
from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.cloud.identity.cloud_identity import CloudIdentity, Orchestrator, require_identity
from agent.cloud.plan.device_names import choose_device_name
from agent.core.model import Reason, VolumeId
from agent.core.steps import Refuse, Wait


class AttachApi(str, Enum):
    """Which API attaches and detaches on this node."""

    HYPERPOD = "hyperpod"
    EC2 = "ec2"
    NONE = "none"


class Do(Struct, frozen=True):
    """Make this call, then look again."""

    call: Change[Any]

    def describe(self) -> str:
        return self.call.describe()


class Release(Struct, frozen=True):
    """Unmount the volume on this node, flushed and unused, so that it can be detached."""

    volume_id: VolumeId

    def describe(self) -> str:
        return f"unmount {self.volume_id}"


class Settled(Struct, frozen=True):
    """The volume is here."""

    volume: CloudVolume

    def describe(self) -> str:
        return f"{self.volume.volume_id} is here"


Decision: TypeAlias = "Do | Release | Wait | Refuse | Settled"


class NodeView(Struct, frozen=True):
    """What planners know of this node besides the cloud's descriptions."""

    identity: CloudIdentity
    api: AttachApi
    devices: frozenset[VolumeId] = frozenset()
    """Volumes whose devices are here now, whatever the API says."""
    gone: frozenset[str] = frozenset()
    """Instances proven gone: see ``instance_gone``."""
    used_names: frozenset[str] = frozenset()
    """Block device names that are taken on this instance; only EC2's own attach chooses one."""
    cluster_name: str | None = None
    """The policy's name for the cluster of ordinary instances."""

    @property
    def node_key(self) -> str | None:
        """What a claim per node follows: the instance's name, which a replacement keeps.

        An ordinary instance has no such name and is never replaced: there it is the instance's ID.
        """
        identity = self.identity
        return identity.instance_name or (None if identity.is_hyperpod else identity.instance_id)

    @property
    def has_passing_name(self) -> bool:
        """The instance's name holds its own ID, as on HyperPod with EKS: a replacement has another one."""
        identity = self.identity
        is_known = bool(identity.instance_name and identity.instance_id)
        return is_known and identity.is_hyperpod and str(identity.instance_id) in str(identity.instance_name)

    @property
    def cluster_key(self) -> str:
        """The cluster this node's own volumes are marked with; an ordinary instance's ID needs none."""
        return self.identity.cluster_id or "none"

    @property
    def shared_key(self) -> str | None:
        """The cluster that claims one volume for all its nodes; None where nobody said which that is."""
        return self.identity.cluster_id if self.identity.is_hyperpod else self.cluster_name

    def may_judge(self, attachment: CloudAttachment) -> bool:
        """Return whether this node's cluster can tell that the holder is gone.

        MoveClusterNodes takes a running node to another cluster under the same instance ID: of a holder there
        this cluster's list says nothing.
        """
        return attachment.cluster_id in {None, self.identity.cluster_id}

    @property
    def is_out_of_reach(self) -> bool:
        """Nothing that the agent could ask attaches a volume to this node."""
        return self.api is AttachApi.NONE and self.identity.orchestrator is Orchestrator.SLURM


def choose_attach_api(configured: str, identity: CloudIdentity) -> AttachApi:
    """Return the API to attach with; ``auto`` is HyperPod's on a cluster's node, else EC2's.

    None in a cluster that Slurm orchestrates: HyperPod's works with EKS only, and EC2's knows no instance of
    HyperPod's.
    """
    if configured != "auto":
        return AttachApi(configured)
    if identity.is_hyperpod:
        is_slurm = identity.orchestrator is Orchestrator.SLURM
        return AttachApi.NONE if is_slurm else AttachApi.HYPERPOD
    return AttachApi.EC2 if identity.instance_id else AttachApi.NONE


def explain_no_attach(what: str, node: NodeView) -> Wait:
    """Return why ``what``, a sentence's beginning, comes to nothing where no API attaches volumes."""
    if node.is_out_of_reach:
        return Wait(
            Reason.ATTACH_UNSUPPORTED,
            f"{what}: HyperPod attaches volumes to clusters that EKS orchestrates, and this one is Slurm's.",
            hint="A volume that comes by other means is used as soon as its device is here. "
            "docs/install-slurm.md tells what the agent does on Slurm.",
        )
    return Wait(
        Reason.NOT_ATTACHED,
        f"{what}, and agent.cloud.attach_api is none.",
        hint="Attach it by hand, or set attach_api: auto.",
    )


def make_attach_call(volume_id: VolumeId, node: NodeView) -> Change[str] | None:
    """Return the call that attaches the volume to this node; None where no device name is free."""
    require_identity(node.identity, "instance_id")
    instance_id = str(node.identity.instance_id)
    if node.api is AttachApi.HYPERPOD:
        require_identity(node.identity, "cluster_arn")
        return AttachClusterNodeVolume(str(node.identity.cluster_arn), instance_id, volume_id)
    free = choose_device_name(node.used_names)
    return None if free is None else AttachVolume(instance_id, volume_id, free)


def make_detach_call(volume_id: VolumeId, instance_id: str, node: NodeView) -> Change[str]:
    """Return the call that detaches the volume from an instance, this one or one that is gone."""
    if node.api is AttachApi.HYPERPOD:
        require_identity(node.identity, "cluster_arn")
        return DetachClusterNodeVolume(str(node.identity.cluster_arn), instance_id, volume_id)
    return DetachVolume(instance_id, volume_id)
