"""Lists every call the worker may be asked to make; of any other it makes none."""

from __future__ import annotations

from typing import Any

from agent.cloud.call import Call
from agent.cloud.calls import (
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
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    GetCallerIdentity,
    ListClusterNodes,
    LockSnapshot,
    ModifyVolume,
)

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
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    GetCallerIdentity,
    ListClusterNodes,
    LockSnapshot,
    ModifyVolume,
)
