"""Which IAM statement each call needs, and where it goes: one table for the policy, ``doctor`` and errors.

Source: the service authorization reference for EC2 and SageMaker, and the SageMaker guide's page on EBS
with HyperPod.
"""

from __future__ import annotations

from msgspec import Struct

VOLUMES = "arn:{partition}:ec2:{region}:{account}:volume/*"
NEW_VOLUMES = "arn:{partition}:ec2:{region}:*:volume/*"
COPIED_VOLUMES = "arn:{partition}:ec2:{region}:{account}:volume/vol-*"
"""Sources of copies: a new volume has no ID yet when it is asked for."""
SNAPSHOTS = "arn:{partition}:ec2:{region}::snapshot/*"
INSTANCES = "arn:{partition}:ec2:{region}:{account}:instance/*"
CLUSTER = "{cluster_arn}"
EKS_CLUSTERS = "arn:{partition}:eks:{region}:{account}:cluster/{eks_cluster}"
"""The one that orchestrates the HyperPod cluster; all where its name is not known."""
ANY = "*"


class Statement(Struct, frozen=True):
    """An action and the resources it is needed on."""

    action: str
    resources: tuple[str, ...]
    condition: tuple[tuple[str, str, str], ...] = ()
    """(operator, key, value)"""


_MADE_BY = (("StringEquals", "aws:ResourceTag/ebs-agent:made-by", "ebs-agent"),)
_MAKES = (("StringEquals", "aws:RequestTag/ebs-agent:made-by", "ebs-agent"),)

STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "DescribeVolumes": (Statement("ec2:DescribeVolumes", (ANY,)),),
    "DescribeVolumeStatus": (Statement("ec2:DescribeVolumeStatus", (ANY,)),),
    "DescribeVolumesModifications": (Statement("ec2:DescribeVolumesModifications", (ANY,)),),
    "DescribeSnapshots": (Statement("ec2:DescribeSnapshots", (ANY,)),),
    "DescribeInstances": (Statement("ec2:DescribeInstances", (ANY,)),),
    "DescribeInstanceTypes": (Statement("ec2:DescribeInstanceTypes", (ANY,)),),
    "DescribeAvailabilityZones": (Statement("ec2:DescribeAvailabilityZones", (ANY,)),),
    "AttachClusterNodeVolume": (
        Statement("sagemaker:AttachClusterNodeVolume", (CLUSTER,)),
        Statement("ec2:AttachVolume", (VOLUMES,)),
        Statement("eks:DescribeCluster", (EKS_CLUSTERS,)),
    ),
    "DetachClusterNodeVolume": (
        Statement("sagemaker:DetachClusterNodeVolume", (CLUSTER,)),
        Statement("ec2:DetachVolume", (VOLUMES,)),
        Statement("eks:DescribeCluster", (EKS_CLUSTERS,)),
    ),
    "AttachVolume": (Statement("ec2:AttachVolume", (VOLUMES, INSTANCES)),),
    "DetachVolume": (Statement("ec2:DetachVolume", (VOLUMES, INSTANCES)),),
    "CreateVolume": (
        Statement("ec2:CreateVolume", (NEW_VOLUMES,), _MAKES),
        Statement("ec2:CreateTags", (NEW_VOLUMES,), (("StringEquals", "ec2:CreateAction", "CreateVolume"),)),
    ),
    "CopyVolumes": (
        Statement("ec2:CopyVolumes", (NEW_VOLUMES,), _MAKES),
        Statement("ec2:CopyVolumes", (COPIED_VOLUMES,)),
        Statement("ec2:CreateTags", (NEW_VOLUMES,), (("StringEquals", "ec2:CreateAction", "CopyVolumes"),)),
    ),
    "ModifyVolume": (Statement("ec2:ModifyVolume", (VOLUMES,), _MADE_BY),),
    "DeleteVolume": (Statement("ec2:DeleteVolume", (VOLUMES,), _MADE_BY),),
    "CreateSnapshot": (
        Statement("ec2:CreateSnapshot", (VOLUMES,)),
        Statement("ec2:CreateSnapshot", (SNAPSHOTS,), _MAKES),
        Statement("ec2:CreateTags", (SNAPSHOTS,), (("StringEquals", "ec2:CreateAction", "CreateSnapshot"),)),
    ),
    "DeleteSnapshot": (Statement("ec2:DeleteSnapshot", (SNAPSHOTS,), _MADE_BY),),
    "CreateTags": (Statement("ec2:CreateTags", (NEW_VOLUMES, SNAPSHOTS), _MADE_BY),),
    "DeleteTags": (Statement("ec2:DeleteTags", (NEW_VOLUMES, SNAPSHOTS), _MADE_BY),),
    "DisableFastSnapshotRestores": (Statement("ec2:DisableFastSnapshotRestores", (SNAPSHOTS,), _MADE_BY),),
    "EnableFastSnapshotRestores": (Statement("ec2:EnableFastSnapshotRestores", (SNAPSHOTS,), _MADE_BY),),
    "DescribeLockedSnapshots": (Statement("ec2:DescribeLockedSnapshots", (ANY,)),),
    "LockSnapshot": (Statement("ec2:LockSnapshot", (SNAPSHOTS,), _MADE_BY),),
    "DescribeClusterNode": (Statement("sagemaker:DescribeClusterNode", (CLUSTER,)),),
    "ListClusterNodes": (Statement("sagemaker:ListClusterNodes", (CLUSTER,)),),
    "GetCallerIdentity": (),
}

WHERE_IT_GOES = "the IAM policy of the instance group's execution role (on an ordinary instance, of its role)"
WHERE_KMS_GOES = "the key policy of the KMS key, for the role that calls"
