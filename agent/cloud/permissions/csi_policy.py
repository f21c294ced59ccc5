"""The least IAM policy of the controller's role, and what of it AWS's own policy for its driver lacks. Pure.

With a controller the nodes' role needs nothing for pods' volumes. What changes something is allowed on what
carries a tag of AWS's driver, or of Kubernetes' own code before it, as AWS's policy has it: what one of them
made, another may take over.
Source: AmazonEBSCSIDriverPolicyV2, as kubernetes-sigs/aws-ebs-csi-driver publishes it.
"""

from __future__ import annotations

from typing import Any

from agent.cloud.aws.iam_statements import (
    ANY,
    CLUSTER,
    COPIED_VOLUMES,
    EKS_CLUSTERS,
    INSTANCES,
    NEW_VOLUMES,
    SNAPSHOTS,
    VOLUMES,
    Statement,
)
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.permissions.iam_policy import merge_statements
from agent.core.model.cluster import CLAIM_TAGS

OWNER_TAG = "ebs.csi.aws.com/cluster"
"""On all that either controller makes; a volume made by hand needs it to be modified, attached or deleted."""

CLAIM_TAG = CLAIM_TAGS[1]
"""On all that was made for a claim, by Kubernetes' own code, too, before AWS had a driver."""

_OWNED = (("StringEquals", f"aws:ResourceTag/{OWNER_TAG}", "true"),)
_OF_A_CLAIM = (("StringLike", f"aws:ResourceTag/{CLAIM_TAG}", "*"),)
_MAKES = (("StringEquals", f"aws:RequestTag/{OWNER_TAG}", "true"),)

_DESCRIBES = (
    "ec2:DescribeAvailabilityZones",
    "ec2:DescribeInstances",
    "ec2:DescribeSnapshots",
    "ec2:DescribeVolumes",
    "ec2:DescribeVolumesModifications",
    "ec2:DescribeVolumeStatus",
)

HYPERPOD = (
    Statement("sagemaker:AttachClusterNodeVolume", (CLUSTER,)),
    Statement("sagemaker:DetachClusterNodeVolume", (CLUSTER,)),
    Statement("eks:DescribeCluster", (EKS_CLUSTERS,)),
    Statement("sagemaker:DescribeClusterNode", (CLUSTER,)),
    Statement("sagemaker:ListClusterNodes", (CLUSTER,)),
)
"""For nodes that SageMaker attaches volumes to; the last two prove that one is gone."""

_DISABLES = Statement("ec2:DisableFastSnapshotRestores", (SNAPSHOTS,), _OWNED)
_ASKS_FOR_LOCKS = Statement("ec2:DescribeLockedSnapshots", (ANY,))

BESIDE_MANAGED = (*HYPERPOD, _DISABLES, _ASKS_FOR_LOCKS)
"""What AWS's policy has not."""

CONTROLLER = (
    *(Statement(action, (ANY,)) for action in _DESCRIBES),
    Statement("ec2:CreateVolume", (NEW_VOLUMES,), _MAKES),
    Statement("ec2:CreateVolume", (SNAPSHOTS,)),
    Statement("ec2:CopyVolumes", (NEW_VOLUMES,), _MAKES),
    Statement("ec2:CopyVolumes", (COPIED_VOLUMES,)),
    Statement("ec2:CreateSnapshot", (SNAPSHOTS,), _MAKES),
    Statement("ec2:CreateSnapshot", (VOLUMES,)),
    *(
        Statement("ec2:CreateTags", (NEW_VOLUMES, SNAPSHOTS), (("StringEquals", "ec2:CreateAction", action),))
        for action in ("CreateVolume", "CopyVolumes", "CreateSnapshot")
    ),
    *(
        Statement(f"ec2:{operation}", (VOLUMES,), condition)
        for condition in (_OWNED, _OF_A_CLAIM)
        for operation in ("CreateTags", "DeleteTags", "ModifyVolume", "DeleteVolume")
    ),
    Statement("ec2:AttachVolume", (VOLUMES, INSTANCES)),
    Statement("ec2:DetachVolume", (VOLUMES, INSTANCES)),
    Statement("ec2:DeleteSnapshot", (SNAPSHOTS,), _OWNED),
    Statement("ec2:LockSnapshot", (SNAPSHOTS,), _OWNED),
    Statement("ec2:EnableFastSnapshotRestores", (SNAPSHOTS,), _OWNED),
    _DISABLES,
    _ASKS_FOR_LOCKS,
    *HYPERPOD,
)
"""All that the controller asks of AWS."""


def make_controller_policy(identity: CloudIdentity, *, is_beside_managed: bool = False) -> dict[str, Any]:
    """Return the IAM policy document for the controller's role; what is not known of the cluster is ``*``.

    ``is_beside_managed``: the role has AmazonEBSCSIDriverPolicyV2, and only what that leaves out is returned.
    """
    needed = BESIDE_MANAGED if is_beside_managed else CONTROLLER
    return {"Version": "2012-10-17", "Statement": list(merge_statements(needed, identity))}
