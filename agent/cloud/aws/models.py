"""What the cloud says about volumes, attachments, snapshots and modifications: parsed once, frozen.

Parsers take botocore's response members (timestamps as ISO 8601 text, as the worker sends them) and are
strict: a response without the member a decision hangs on is an error, never a default, and so is a member of
another type than it has.
Shapes: botocore's ``ec2`` service model, 2016-11-15.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import Members, clean
from agent.core.model import VolumeId, parse_volume_id
from agent.core.model.cluster import CSI_TAGS

Tags = tuple[tuple[str, str], ...]

# The agent's own marks on what it makes. A volume or snapshot without them is never deleted by it.
TAG_MADE_BY = "ebs-agent:made-by"
TAG_CLUSTER = "ebs-agent:cluster"
TAG_CLAIM = "ebs-agent:claim"
TAG_NODE = "ebs-agent:node"
TAG_ON_DELETE = "ebs-agent:on-delete"
TAG_VOLUME = "ebs-agent:volume"
TAG_SCHEDULE = "ebs-agent:schedule"
TAG_TICK = "ebs-agent:tick"
TAG_FROZEN = "ebs-agent:frozen"
TAG_GROUP = "ebs-agent:group"
TAG_HELD_SINCE = "ebs-agent:held-since"
TAG_DELETE_AFTER = "ebs-agent:delete-after"
TAG_UNHELD = "ebs-agent:unheld"
TAG_ORDER = "ebs-agent:order"
TAG_COPY_OF = "ebs-agent:copy-of"
MADE_BY = "ebs-agent"

_TAGS_LIMIT = 256
"""EC2 allows 50 that users set; those that AWS sets itself are not counted."""
_ATTACHMENTS_LIMIT = 64
"""EC2 allows 16."""
_MESSAGE_LIMIT = 8192


class CloudAttachment(Struct, frozen=True):
    """One attachment as the API tells it. HyperPod's has no instance ID of its own but a resource name."""

    state: str
    """attaching | attached | detaching | detached | busy"""
    instance_id: str | None = None
    device: str | None = None
    attached_at: str | None = None
    resource: str | None = None
    """``arn:…:cluster/<clusterId>-<instanceId>`` for a HyperPod node, which EC2 shows nobody."""

    @property
    def cluster_id(self) -> str | None:
        """The HyperPod cluster whose node has it; None where AWS names none, as of ordinary instances."""
        _, found, rest = (self.resource or "").partition(":cluster/")
        return rest.partition("-i-")[0] if found else None

    @property
    def holder(self) -> str:
        """The instance that has the volume, or the best name there is for what has it."""
        return self.instance_id or self.resource or "an instance AWS does not name"


class CloudVolume(Struct, frozen=True):
    """One volume as DescribeVolumes tells it."""

    volume_id: VolumeId
    state: str
    """creating | available | in-use | deleting | deleted | error"""
    size_gib: int
    type: str
    zone: str
    iops: int | None = None
    throughput: int | None = None
    is_encrypted: bool = False
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    source_volume_id: str | None = None
    """The volume it was copied from, by CopyVolumes."""
    is_multi_attach: bool = False
    tags: Tags = ()
    attachments: tuple[CloudAttachment, ...] = ()
    created_at: str = ""

    def tag(self, key: str) -> str | None:
        return next((value for name, value in self.tags if name == key), None)

    @property
    def is_csi(self) -> bool:
        """The EBS CSI driver made it; its tags tell, nothing on the device does."""
        return any(self.tag(key) is not None for key in CSI_TAGS)

    @property
    def is_made_by_agent(self) -> bool:
        return self.tag(TAG_MADE_BY) == MADE_BY

    @property
    def copy_of(self) -> str | None:
        """The volume it was made as a copy of, which AWS says, and the agent's own mark where it made it."""
        return self.source_volume_id or self.tag(TAG_COPY_OF)

    @property
    def is_gone(self) -> bool:
        return self.state in {"deleting", "deleted"}

    def attachment_to(self, instance_id: str) -> CloudAttachment | None:
        return next((found for found in self.attachments if found.instance_id == instance_id), None)


class Modification(Struct, frozen=True):
    """The last ModifyVolume of one volume. Its size is usable from ``optimizing`` on."""

    volume_id: VolumeId
    state: str
    """modifying | optimizing | completed | failed"""
    progress_percent: int = 0
    target_size_gib: int | None = None
    target_type: str | None = None
    target_iops: int | None = None
    target_throughput: int | None = None
    started_at: str = ""
    message: str | None = None

    @property
    def is_under_way(self) -> bool:
        return self.state in {"modifying", "optimizing"}


class ClusterNode(Struct, frozen=True):
    """One node of a HyperPod cluster as the API lists it."""

    instance_id: str
    instance_group: str
    status: str
    """Running | Failure | Pending | ShuttingDown | SystemUpdating | DeepHealthCheckInProgress | NotFound"""
    zone: str | None = None
    instance_type: str | None = None
    """``ml.p5.48xlarge``"""


class CloudSnapshot(Struct, frozen=True):
    """One snapshot as DescribeSnapshots tells it."""

    snapshot_id: str
    volume_id: str
    state: str
    """pending | completed | error | recoverable | recovering"""
    started_at: str
    progress_percent: int = 0
    size_gib: int = 0
    tags: Tags = ()

    def tag(self, key: str) -> str | None:
        return next((value for name, value in self.tags if name == key), None)

    @property
    def is_made_by_agent(self) -> bool:
        return self.tag(TAG_MADE_BY) == MADE_BY


def parse_tags(members: Members) -> Tags:
    """Return the member ``Tags``, ``[{"Key": k, "Value": v}, …]``, sorted by key."""
    tags = (Members(tag, f"a tag of {members.what}") for tag in members.find_list("Tags", _TAGS_LIMIT))
    return tuple(
        sorted(
            (tag.find_free_text("Key") or tag.text("Key"), tag.find_free_text("Value") or "") for tag in tags
        )
    )


def parse_attachment(value: Any, volume: str = "a volume") -> CloudAttachment:
    """Return one of a volume's ``Attachments``."""
    members = Members(value, f"an attachment of {volume}")
    resource = members.find_text("AssociatedResource")
    return CloudAttachment(
        state=members.text("State"),
        instance_id=members.find_text("InstanceId") or find_instance_in_resource(resource),
        device=members.find_text("Device"),
        attached_at=members.find_text("AttachTime"),
        resource=resource,
    )


def find_instance_in_resource(resource: str | None) -> str | None:
    """Return the instance ID at the end of ``arn:…:cluster/<clusterId>-i-…``, which is all HyperPod shows."""
    if resource is None or ":cluster/" not in resource:
        return None
    _, dash, digits = resource.rpartition("-i-")
    is_id = len(digits) in {8, 17} and all(digit in "0123456789abcdef" for digit in digits)
    return f"i-{digits}" if dash and is_id else None


def parse_volume(value: Any) -> CloudVolume:
    """Return one of DescribeVolumes' ``Volumes``, or CreateVolume's answer."""
    volume_id = parse_volume_id(Members(value, "a volume").text("VolumeId"))
    members = Members(value, volume_id)
    return CloudVolume(
        volume_id=volume_id,
        state=members.text("State"),
        size_gib=members.number("Size"),
        type=members.text("VolumeType"),
        zone=members.text("AvailabilityZone"),
        iops=members.find_number("Iops"),
        throughput=members.find_number("Throughput"),
        is_encrypted=members.is_set("Encrypted"),
        kms_key_id=members.find_text("KmsKeyId"),
        snapshot_id=members.find_text("SnapshotId"),
        source_volume_id=members.find_text("SourceVolumeId"),
        is_multi_attach=members.is_set("MultiAttachEnabled"),
        tags=parse_tags(members),
        attachments=tuple(
            parse_attachment(one, volume_id) for one in members.find_list("Attachments", _ATTACHMENTS_LIMIT)
        ),
        created_at=members.find_text("CreateTime") or "",
    )


def parse_modification(value: Any) -> Modification:
    """Return one of ``VolumesModifications``, or ModifyVolume's ``VolumeModification``."""
    volume_id = parse_volume_id(Members(value, "a modification").text("VolumeId"))
    members = Members(value, f"the modification of {volume_id}")
    return Modification(
        volume_id=volume_id,
        state=members.text("ModificationState"),
        progress_percent=min(members.find_number("Progress") or 0, 100),
        target_size_gib=members.find_number("TargetSize"),
        target_type=members.find_text("TargetVolumeType"),
        target_iops=members.find_number("TargetIops"),
        target_throughput=members.find_number("TargetThroughput"),
        started_at=members.find_text("StartTime") or "",
        message=clean(members.find_free_text("StatusMessage", _MESSAGE_LIMIT) or "") or None,
    )


def parse_snapshot(value: Any) -> CloudSnapshot:
    """Return one of ``Snapshots``, or CreateSnapshot's answer."""
    snapshot_id = Members(value, "a snapshot").text("SnapshotId")
    members = Members(value, snapshot_id)
    percent = re.fullmatch(r"([0-9]{1,3})%?", members.find_text("Progress") or "", re.ASCII)
    return CloudSnapshot(
        snapshot_id=snapshot_id,
        volume_id=members.find_text("VolumeId") or "",
        state=members.text("State"),
        started_at=members.text("StartTime"),
        progress_percent=min(int(percent[1]), 100) if percent else 0,
        size_gib=members.find_number("VolumeSize") or 0,
        tags=parse_tags(members),
    )


def parse_node(value: Any) -> ClusterNode:
    """Return one of ListClusterNodes' ``ClusterNodeSummaries``, or DescribeClusterNode's ``NodeDetails``."""
    members = Members(value, "a node")
    placement = members.find_members("Placement")
    return ClusterNode(
        instance_id=members.text("InstanceId"),
        instance_group=members.text("InstanceGroupName"),
        status=members.members("InstanceStatus").text("Status"),
        zone=None if placement is None else placement.find_text("AvailabilityZone"),
        instance_type=members.find_text("InstanceType"),
    )


def parse_reservation(value: Any) -> tuple[tuple[str, str], ...]:
    """Return (instance ID, state name) of each instance in one of DescribeInstances' ``Reservations``."""
    instances = (Members(one, "an instance") for one in Members(value, "a reservation").list("Instances"))
    return tuple((one.text("InstanceId"), one.members("State").text("Name")) for one in instances)


def parse_caller(value: Any) -> tuple[str, str]:
    """Return (account, ARN of the role), GetCallerIdentity's answer."""
    members = Members(value, "the answer")
    return members.text("Account"), members.text("Arn")


def read_text(name: str) -> Callable[[Any], str]:
    """Return what reads an answer that says one thing, as ``State`` does of an attachment."""
    return lambda answer: Members(answer, "the answer").text(name)
