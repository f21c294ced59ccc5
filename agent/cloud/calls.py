"""Every call the agent may make to AWS, as data: a frozen value that knows its parameters and its answer.

This is the whole list: the worker refuses what is not here, ``iam`` derives permissions from it, and tests
check each against botocore's service model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from typing_extensions import override

from agent.cloud import values
from agent.cloud.values import CloudSnapshot, CloudVolume, Modification, Tags
from agent.model import VolumeId

T_co = TypeVar("T_co", covariant=True)


class Call(Protocol[T_co]):
    """One call: its names, what it is asked with, and what its answer says."""

    service: ClassVar[str]
    operation: ClassVar[str]
    pages: ClassVar[str | None]
    """The member of the answer that spans pages; None where there is one page."""
    is_repeatable: ClassVar[bool]
    """Making it twice is as good as once, so a lost answer may be asked for again."""

    def parameters(self) -> dict[str, Any]:
        """Return the call's parameters under their names in botocore's service model."""

    def parse(self, answer: Mapping[str, Any]) -> T_co:
        """Return what the answer says."""


class Change(Call[T_co], Protocol[T_co]):
    """A call that changes something, and says what before it is made."""

    def describe(self) -> str:
        """Return what the call does, in the present tense."""


class _Once:
    """A call with one page that must not be made again before looking what became of it."""

    pages: ClassVar[str | None] = None
    is_repeatable: ClassVar[bool] = False


class _Repeatable:
    """A call that reads, or that AWS makes idempotent."""

    pages: ClassVar[str | None] = None
    is_repeatable: ClassVar[bool] = True


def _filters(filters: Sequence[tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": list(wanted)} for name, wanted in filters]


def _tag_specification(resource: str, tags: Tags) -> list[dict[str, Any]]:
    return [{"ResourceType": resource, "Tags": _tag_list(tags)}] if tags else []


def _tag_list(tags: Tags) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags]


def _present(**parameters: Any) -> dict[str, Any]:
    """Drop what was not said: None and empty lists."""
    return {name: value for name, value in parameters.items() if value is not None and value != []}


@dataclass(frozen=True)
class DescribeVolumes(_Repeatable):
    """Volumes by ``volume-id``, ``tag:…`` and other filters; filters never fail on an ID that is gone."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "DescribeVolumes"
    pages: ClassVar[str | None] = "Volumes"
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def parameters(self) -> dict[str, Any]:
        return _present(Filters=_filters(self.filters))

    def parse(self, answer: Mapping[str, Any]) -> tuple[CloudVolume, ...]:
        return tuple(values.parse_volume(members) for members in answer["Volumes"])


@dataclass(frozen=True)
class DescribeVolumesModifications(_Repeatable):
    """The last modifications of volumes; one that never was modified has none."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "DescribeVolumesModifications"
    pages: ClassVar[str | None] = "VolumesModifications"
    volume_ids: tuple[VolumeId, ...]

    def parameters(self) -> dict[str, Any]:
        return {"Filters": _filters([("volume-id", self.volume_ids)])}

    def parse(self, answer: Mapping[str, Any]) -> tuple[Modification, ...]:
        return tuple(values.parse_modification(members) for members in answer["VolumesModifications"])


@dataclass(frozen=True)
class DescribeSnapshots(_Repeatable):
    """Snapshots of this account only: everyone's public ones would be tens of thousands."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "DescribeSnapshots"
    pages: ClassVar[str | None] = "Snapshots"
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def parameters(self) -> dict[str, Any]:
        return _present(OwnerIds=["self"], Filters=_filters(self.filters))

    def parse(self, answer: Mapping[str, Any]) -> tuple[CloudSnapshot, ...]:
        return tuple(values.parse_snapshot(members) for members in answer["Snapshots"])


@dataclass(frozen=True)
class AttachClusterNodeVolume(_Once):
    """Attach to a HyperPod node; the answer is the attachment's status."""

    service: ClassVar[str] = "sagemaker"
    operation: ClassVar[str] = "AttachClusterNodeVolume"
    cluster_arn: str
    instance_id: str
    volume_id: VolumeId

    def parameters(self) -> dict[str, Any]:
        return {"ClusterArn": self.cluster_arn, "NodeId": self.instance_id, "VolumeId": self.volume_id}

    def parse(self, answer: Mapping[str, Any]) -> str:
        return str(answer["Status"])

    def describe(self) -> str:
        return f"attach {self.volume_id} to {self.instance_id}"


@dataclass(frozen=True)
class DetachClusterNodeVolume(AttachClusterNodeVolume):
    """Detach from a HyperPod node; EC2's own DetachVolume is refused there."""

    operation: ClassVar[str] = "DetachClusterNodeVolume"

    @override
    def describe(self) -> str:
        return f"detach {self.volume_id} from {self.instance_id}"


@dataclass(frozen=True)
class AttachVolume(_Once):
    """Attach to an ordinary instance, under a block device name that has to be free."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "AttachVolume"
    instance_id: str
    volume_id: VolumeId
    device: str

    def parameters(self) -> dict[str, Any]:
        return {"InstanceId": self.instance_id, "VolumeId": self.volume_id, "Device": self.device}

    def parse(self, answer: Mapping[str, Any]) -> str:
        return str(answer["State"])

    def describe(self) -> str:
        return f"attach {self.volume_id} to {self.instance_id} as {self.device}"


@dataclass(frozen=True)
class DetachVolume(_Once):
    """Detach from an ordinary instance; AWS waits for nobody who still uses it."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "DetachVolume"
    instance_id: str
    volume_id: VolumeId

    def parameters(self) -> dict[str, Any]:
        return {"InstanceId": self.instance_id, "VolumeId": self.volume_id}

    def parse(self, answer: Mapping[str, Any]) -> str:
        return str(answer["State"])

    def describe(self) -> str:
        return f"detach {self.volume_id} from {self.instance_id}"


@dataclass(frozen=True)
class CreateVolume(_Repeatable):
    """Make a volume. The client token makes a repetition yield the same volume, never a second one."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "CreateVolume"
    client_token: str
    zone: str
    size_gib: int | None
    """None: as large as the snapshot's volume was."""
    type: str
    tags: Tags
    iops: int | None = None
    throughput: int | None = None
    is_encrypted: bool | None = None
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    initialization_rate_mib: int | None = None
    is_multi_attach: bool = False
    generation: int = 0
    """Which volume of its claim this is, counting those deleted; it is in the token, not in the call."""

    def parameters(self) -> dict[str, Any]:
        return _present(
            ClientToken=self.client_token,
            AvailabilityZone=self.zone,
            Size=self.size_gib,
            VolumeType=self.type,
            Iops=self.iops,
            Throughput=self.throughput,
            Encrypted=self.is_encrypted,
            KmsKeyId=self.kms_key_id,
            SnapshotId=self.snapshot_id,
            VolumeInitializationRate=self.initialization_rate_mib,
            MultiAttachEnabled=self.is_multi_attach or None,
            TagSpecifications=_tag_specification("volume", self.tags),
        )

    def parse(self, answer: Mapping[str, Any]) -> CloudVolume:
        return values.parse_volume(answer)

    def describe(self) -> str:
        origin = f" from {self.snapshot_id}" if self.snapshot_id else ""
        size = "" if self.size_gib is None else f" of {self.size_gib} GiB"
        return f"make a {self.type} volume{size} in {self.zone}{origin}"


@dataclass(frozen=True)
class ModifyVolume(_Once):
    """Change size, type, IOPS or throughput. One that changes nothing still counts against the quota."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "ModifyVolume"
    volume_id: VolumeId
    size_gib: int | None = None
    type: str | None = None
    iops: int | None = None
    throughput: int | None = None

    def parameters(self) -> dict[str, Any]:
        return _present(
            VolumeId=self.volume_id,
            Size=self.size_gib,
            VolumeType=self.type,
            Iops=self.iops,
            Throughput=self.throughput,
        )

    def parse(self, answer: Mapping[str, Any]) -> Modification:
        return values.parse_modification(answer["VolumeModification"])

    def describe(self) -> str:
        changes = {
            "size_gib": self.size_gib,
            "type": self.type,
            "iops": self.iops,
            "throughput": self.throughput,
        }
        words = (f"{name} {value}" for name, value in changes.items() if value is not None)
        return f"modify {self.volume_id}: {', '.join(words)}"


@dataclass(frozen=True)
class CreateSnapshot(_Once):
    """Begin a snapshot; the moment it shows has passed when the answer is here."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "CreateSnapshot"
    volume_id: VolumeId
    description: str
    tags: Tags

    def parameters(self) -> dict[str, Any]:
        return _present(
            VolumeId=self.volume_id,
            Description=self.description,
            TagSpecifications=_tag_specification("snapshot", self.tags),
        )

    def parse(self, answer: Mapping[str, Any]) -> CloudSnapshot:
        return values.parse_snapshot(answer)

    def describe(self) -> str:
        return f"snapshot {self.volume_id}"


@dataclass(frozen=True)
class DeleteSnapshot(_Repeatable):
    """Delete a snapshot; only ever one the agent made, or one a person named."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "DeleteSnapshot"
    snapshot_id: str

    def parameters(self) -> dict[str, Any]:
        return {"SnapshotId": self.snapshot_id}

    def parse(self, answer: Mapping[str, Any]) -> None:
        del answer

    def describe(self) -> str:
        return f"delete {self.snapshot_id}"


@dataclass(frozen=True)
class DeleteVolume(_Repeatable):
    """Delete a volume and what is on it; only ever one the agent made under ``on_delete: delete``."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "DeleteVolume"
    volume_id: VolumeId

    def parameters(self) -> dict[str, Any]:
        return {"VolumeId": self.volume_id}

    def parse(self, answer: Mapping[str, Any]) -> None:
        del answer

    def describe(self) -> str:
        return f"delete {self.volume_id}"


@dataclass(frozen=True)
class CreateTags(_Repeatable):
    """Set tags of a volume or snapshot; others it has stay."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "CreateTags"
    resource_id: str
    tags: Tags

    def parameters(self) -> dict[str, Any]:
        return {"Resources": [self.resource_id], "Tags": _tag_list(self.tags)}

    def parse(self, answer: Mapping[str, Any]) -> None:
        del answer

    def describe(self) -> str:
        return f"tag {self.resource_id} with {', '.join(key for key, _ in self.tags)}"


@dataclass(frozen=True)
class EnableFastSnapshotRestores(_Repeatable):
    """Let volumes made from a snapshot be fast from the first read, in some zones, for money."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "EnableFastSnapshotRestores"
    snapshot_id: str
    zones: tuple[str, ...]

    def parameters(self) -> dict[str, Any]:
        return {"SourceSnapshotIds": [self.snapshot_id], "AvailabilityZones": list(self.zones)}

    def parse(self, answer: Mapping[str, Any]) -> None:
        del answer

    def describe(self) -> str:
        return f"make {self.snapshot_id} fast to restore in {', '.join(self.zones)}"


@dataclass(frozen=True)
class LockSnapshot(_Repeatable):
    """Protect a snapshot from deletion for ``duration_days``; ``compliance`` binds everyone."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "LockSnapshot"
    snapshot_id: str
    mode: str
    duration_days: int

    def parameters(self) -> dict[str, Any]:
        return {"SnapshotId": self.snapshot_id, "LockMode": self.mode, "LockDuration": self.duration_days}

    def parse(self, answer: Mapping[str, Any]) -> None:
        del answer

    def describe(self) -> str:
        return f"lock {self.snapshot_id} for {self.duration_days} days ({self.mode})"


@dataclass(frozen=True)
class ClusterNode:
    """One node of a HyperPod cluster as the API lists it."""

    instance_id: str
    instance_group: str
    status: str
    """Running | Failure | Pending | ShuttingDown | SystemUpdating | DeepHealthCheckInProgress | NotFound"""
    zone: str | None = None


def _parse_node(members: Mapping[str, Any]) -> ClusterNode:
    return ClusterNode(
        instance_id=str(members["InstanceId"]),
        instance_group=str(members["InstanceGroupName"]),
        status=str(members["InstanceStatus"]["Status"]),
        zone=(members.get("Placement") or {}).get("AvailabilityZone"),
    )


@dataclass(frozen=True)
class DescribeClusterNode(_Repeatable):
    """One node of a HyperPod cluster, its group and its zone."""

    service: ClassVar[str] = "sagemaker"
    operation: ClassVar[str] = "DescribeClusterNode"
    cluster: str
    instance_id: str

    def parameters(self) -> dict[str, Any]:
        return {"ClusterName": self.cluster, "NodeId": self.instance_id}

    def parse(self, answer: Mapping[str, Any]) -> ClusterNode:
        return _parse_node(answer["NodeDetails"])


@dataclass(frozen=True)
class ListClusterNodes(_Repeatable):
    """All nodes, every page: the absence of one is only told by the whole list."""

    service: ClassVar[str] = "sagemaker"
    operation: ClassVar[str] = "ListClusterNodes"
    pages: ClassVar[str | None] = "ClusterNodeSummaries"
    cluster: str

    def parameters(self) -> dict[str, Any]:
        return {"ClusterName": self.cluster}

    def parse(self, answer: Mapping[str, Any]) -> tuple[ClusterNode, ...]:
        return tuple(_parse_node(members) for members in answer["ClusterNodeSummaries"])


@dataclass(frozen=True)
class DescribeInstances(_Repeatable):
    """(instance ID, state name) of ordinary instances; HyperPod's are not in the account and never show."""

    service: ClassVar[str] = "ec2"
    operation: ClassVar[str] = "DescribeInstances"
    pages: ClassVar[str | None] = "Reservations"
    instance_ids: tuple[str, ...]

    def parameters(self) -> dict[str, Any]:
        return {"Filters": _filters([("instance-id", self.instance_ids)])}

    def parse(self, answer: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (str(instance["InstanceId"]), str(instance["State"]["Name"]))
            for reservation in answer["Reservations"]
            for instance in reservation["Instances"]
        )


@dataclass(frozen=True)
class GetCallerIdentity(_Repeatable):
    """(account, ARN of the role) the node's credentials belong to. Needs no permission."""

    service: ClassVar[str] = "sts"
    operation: ClassVar[str] = "GetCallerIdentity"

    def parameters(self) -> dict[str, Any]:
        return {}

    def parse(self, answer: Mapping[str, Any]) -> tuple[str, str]:
        return str(answer["Account"]), str(answer["Arn"])


ALL_CALLS: tuple[type[Call[Any]], ...] = (
    AttachClusterNodeVolume,
    AttachVolume,
    CreateSnapshot,
    CreateTags,
    CreateVolume,
    DeleteSnapshot,
    DeleteVolume,
    DescribeClusterNode,
    DescribeInstances,
    DescribeSnapshots,
    DescribeVolumes,
    DescribeVolumesModifications,
    DetachClusterNodeVolume,
    DetachVolume,
    EnableFastSnapshotRestores,
    GetCallerIdentity,
    ListClusterNodes,
    LockSnapshot,
    ModifyVolume,
)
