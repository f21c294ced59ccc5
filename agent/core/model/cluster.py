"""What is known from beyond this node: who it is in its cluster, and where a volume comes from."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import Enum

from msgspec import Struct

from agent.core.model.volume import VolumeId

CLAIM_TAGS = ("kubernetes.io/created-for/pvc/namespace", "kubernetes.io/created-for/pvc/name")
"""For which claim of Kubernetes a volume was made, as drivers tag it: the namespace, and the name in it."""
CSI_TAGS = frozenset({"ebs.csi.aws.com/cluster", "CSIVolumeName", CLAIM_TAGS[1]})
"""What the EBS CSI driver tags its volumes with."""


class NodeFacts(Struct, frozen=True):
    """Who this node is in its cluster; None is what is not known (yet), which no policy entry matches."""

    instance_name: str | None = None
    """``compute-nodes-1``: kept when HyperPod replaces the instance (Slurm)."""
    instance_group: str | None = None
    instance_id: str | None = None
    """``i-…``: another one after every replacement."""
    cluster_id: str | None = None
    """The twelve characters at the end of the cluster's ARN."""

    def or_else(self, other: NodeFacts) -> NodeFacts:
        """Return these facts, with those of ``other`` for what is not known here."""
        return NodeFacts(
            self.instance_name or other.instance_name,
            self.instance_group or other.instance_group,
            self.instance_id or other.instance_id,
            self.cluster_id or other.cluster_id,
        )


class NodePlace(Struct, frozen=True):
    """What people call this node, and where it is; None is what is not known (yet)."""

    facts: NodeFacts = NodeFacts()
    zone: str | None = None
    """As this node's account calls it."""
    host_name: str | None = None


class Attachments(Struct, frozen=True):
    """How many of the volumes that an instance takes it has."""

    instance_type: str
    used: int
    most: int
    is_shared: bool
    """Network interfaces and disks of the instance store take places of the same limit."""

    def describe(self) -> str:
        """Return it as part of a sentence: ``3 of 27 attachments``."""
        return f"{self.used} of {self.most} attachments"


class AttachmentPlaces(Struct, frozen=True):
    """For how many volumes an instance has places, and which of them AWS says are taken."""

    instance_type: str
    most: int
    is_shared: bool
    """As of ``Attachments``."""
    attached: frozenset[VolumeId]

    def count(self, present: Iterable[VolumeId]) -> Attachments:
        """Return how many are taken: by what is ``present`` as well, of which AWS was not asked yet."""
        used = len(self.attached.union(present))
        return Attachments(self.instance_type, used, self.most, self.is_shared)


class EndCause(str, Enum):
    """Why an instance ends, as the policy's ``release_on`` names it."""

    SPOT_INTERRUPTION = "spot-interruption"
    POWER_OFF = "power-off"


class Ending(Struct, frozen=True):
    """That this instance ends, and volumes leave it."""

    cause: EndCause
    text: str
    """A sentence."""


class Origin(Struct, frozen=True):
    """What the cloud knows about a volume, where it was asked and answered."""

    snapshot_id: str | None = None
    source_volume_id: str | None = None
    """The volume this one is a copy of (EC2's CopyVolumes)."""
    tags: tuple[tuple[str, str], ...] = ()
    type: str | None = None
    is_multi_attach: bool = False

    @property
    def made_from(self) -> str | None:
        """What was copied to make it: a snapshot or a volume; None of one that began empty."""
        return self.snapshot_id or self.source_volume_id

    @property
    def is_csi(self) -> bool:
        """The EBS CSI driver made it; its tags tell, nothing on the device does."""
        return any(key in CSI_TAGS for key, _ in self.tags)

    @property
    def claim(self) -> str | None:
        """The claim of Kubernetes that it was made for, as ``namespace/name``; None where no tag says."""
        tags = dict(self.tags)
        namespace, name = (tags.get(key) for key in CLAIM_TAGS)
        return f"{namespace}/{name}" if namespace and name else name or None

    @property
    def keeps_hands_off(self) -> bool:
        """Something in it forbids what a volume of which nothing is known would be allowed."""
        return self.made_from is not None or self.is_csi or self.is_multi_attach


class OriginAnswer(Struct, frozen=True):
    """How far the question is where one volume comes from."""

    origin: Origin | None = None
    """What the cloud answered; None: nothing, or not yet."""
    is_awaited: bool = False
    """The cloud is being asked, and has said neither what the volume is nor that it will not tell."""
    since: datetime | None = None
    until: datetime | None = None
    """When the waiting ends, whatever is known then; None: with an answer only."""
