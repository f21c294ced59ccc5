"""What the cloud says about volumes, attachments, snapshots and modifications: parsed once, frozen.

Parsers take botocore's response members (timestamps as ISO 8601 text, as the worker sends them) and are
strict: a response without the member a decision hangs on is an error, never a default.
Shapes: botocore's ``ec2`` service model, 2016-11-15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError
from agent.model import Reason, VolumeId, parse_volume_id

GIB = 1 << 30

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
TAG_ORDER = "ebs-agent:order"
MADE_BY = "ebs-agent"

_CSI_TAGS = ("ebs.csi.aws.com/cluster", "CSIVolumeName", "kubernetes.io/created-for/pvc/name")


@dataclass(frozen=True)
class CloudAttachment:
    """One attachment as the API tells it. HyperPod's has no instance ID of its own but a resource name."""

    state: str
    """attaching | attached | detaching | detached | busy"""
    instance_id: str | None = None
    device: str | None = None
    attached_at: str | None = None
    resource: str | None = None
    """``arn:…:cluster/<clusterId>-<instanceId>`` for a HyperPod node, which EC2 shows nobody."""

    @property
    def holder(self) -> str:
        """The instance that has the volume, or the best name there is for what has it."""
        return self.instance_id or self.resource or "an instance AWS does not name"


@dataclass(frozen=True)
class CloudVolume:
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
    is_multi_attach: bool = False
    tags: Tags = ()
    attachments: tuple[CloudAttachment, ...] = ()
    created_at: str = ""

    def tag(self, key: str) -> str | None:
        return next((value for name, value in self.tags if name == key), None)

    @property
    def is_csi(self) -> bool:
        """The EBS CSI driver made it; its tags tell, nothing on the device does."""
        return any(self.tag(key) is not None for key in _CSI_TAGS)

    @property
    def is_made_by_agent(self) -> bool:
        return self.tag(TAG_MADE_BY) == MADE_BY

    @property
    def is_gone(self) -> bool:
        return self.state in {"deleting", "deleted"}

    def attachment_to(self, instance_id: str) -> CloudAttachment | None:
        return next((found for found in self.attachments if found.instance_id == instance_id), None)


@dataclass(frozen=True)
class Modification:
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


@dataclass(frozen=True)
class ClusterNode:
    """One node of a HyperPod cluster as the API lists it."""

    instance_id: str
    instance_group: str
    status: str
    """Running | Failure | Pending | ShuttingDown | SystemUpdating | DeepHealthCheckInProgress | NotFound"""
    zone: str | None = None


@dataclass(frozen=True)
class CloudSnapshot:
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


def _take(members: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    value = members.get(name)
    if not isinstance(value, kind):
        raise AgentError(
            f"AWS described {what} without a proper {name}: {value!r}.",
            hint="Is there a proxy between this node and AWS that changes answers?",
            reason=Reason.CLOUD_ERROR,
        )
    return value


def parse_tags(members: Sequence[Mapping[str, str]] | None) -> Tags:
    """Return ``[{"Key": k, "Value": v}, …]`` sorted by key."""
    return tuple(sorted((tag["Key"], tag.get("Value", "")) for tag in members or ()))


def parse_attachment(members: Mapping[str, Any]) -> CloudAttachment:
    """Return one of a volume's ``Attachments``."""
    resource = members.get("AssociatedResource") or None
    return CloudAttachment(
        state=_take(members, "State", str, "an attachment"),
        instance_id=members.get("InstanceId") or find_instance_in_resource(resource),
        device=members.get("Device") or None,
        attached_at=members.get("AttachTime"),
        resource=resource,
    )


def find_instance_in_resource(resource: str | None) -> str | None:
    """Return the instance ID at the end of ``arn:…:cluster/<clusterId>-i-…``, which is all HyperPod shows."""
    if resource is None or ":cluster/" not in resource:
        return None
    _, dash, digits = resource.rpartition("-i-")
    is_id = len(digits) in {8, 17} and all(digit in "0123456789abcdef" for digit in digits)
    return f"i-{digits}" if dash and is_id else None


def parse_volume(members: Mapping[str, Any]) -> CloudVolume:
    """Return one of DescribeVolumes' ``Volumes``, or CreateVolume's answer."""
    volume_id = parse_volume_id(_take(members, "VolumeId", str, "a volume"))
    return CloudVolume(
        volume_id=volume_id,
        state=_take(members, "State", str, volume_id),
        size_gib=_take(members, "Size", int, volume_id),
        type=_take(members, "VolumeType", str, volume_id),
        zone=_take(members, "AvailabilityZone", str, volume_id),
        iops=members.get("Iops"),
        throughput=members.get("Throughput"),
        is_encrypted=bool(members.get("Encrypted")),
        kms_key_id=members.get("KmsKeyId") or None,
        snapshot_id=members.get("SnapshotId") or None,
        is_multi_attach=bool(members.get("MultiAttachEnabled")),
        tags=parse_tags(members.get("Tags")),
        attachments=tuple(parse_attachment(one) for one in members.get("Attachments") or ()),
        created_at=members.get("CreateTime") or "",
    )


def parse_modification(members: Mapping[str, Any]) -> Modification:
    """Return one of ``VolumesModifications``, or ModifyVolume's ``VolumeModification``."""
    volume_id = parse_volume_id(_take(members, "VolumeId", str, "a modification"))
    return Modification(
        volume_id=volume_id,
        state=_take(members, "ModificationState", str, f"the modification of {volume_id}"),
        progress_percent=int(members.get("Progress") or 0),
        target_size_gib=members.get("TargetSize"),
        target_type=members.get("TargetVolumeType"),
        target_iops=members.get("TargetIops"),
        target_throughput=members.get("TargetThroughput"),
        started_at=members.get("StartTime") or "",
        message=members.get("StatusMessage") or None,
    )


def parse_snapshot(members: Mapping[str, Any]) -> CloudSnapshot:
    """Return one of ``Snapshots``, or CreateSnapshot's answer."""
    snapshot_id = _take(members, "SnapshotId", str, "a snapshot")
    percent = str(members.get("Progress") or "0%").rstrip("%")
    return CloudSnapshot(
        snapshot_id=snapshot_id,
        volume_id=members.get("VolumeId") or "",
        state=_take(members, "State", str, snapshot_id),
        started_at=_take(members, "StartTime", str, snapshot_id),
        progress_percent=int(percent) if percent.isdecimal() else 0,
        size_gib=members.get("VolumeSize") or 0,
        tags=parse_tags(members.get("Tags")),
    )


def parse_node(members: Mapping[str, Any]) -> ClusterNode:
    """Return one of ListClusterNodes' ``ClusterNodeSummaries``, or DescribeClusterNode's ``NodeDetails``."""
    return ClusterNode(
        instance_id=str(members["InstanceId"]),
        instance_group=str(members["InstanceGroupName"]),
        status=str(members["InstanceStatus"]["Status"]),
        zone=(members.get("Placement") or {}).get("AvailabilityZone"),
    )


def parse_reservation(members: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return (instance ID, state name) of each instance in one of DescribeInstances' ``Reservations``."""
    return tuple((str(one["InstanceId"]), str(one["State"]["Name"])) for one in members["Instances"])
