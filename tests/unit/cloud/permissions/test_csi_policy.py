from __future__ import annotations

from typing import Any

from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.permissions.csi_policy import OWNER_TAG, make_controller_policy

NOWHERE = CloudIdentity()
OF_A_CLAIM = {"StringLike": {"aws:ResourceTag/kubernetes.io/created-for/pvc/name": "*"}}
CHANGES_WHAT_IS = {"ec2:ModifyVolume", "ec2:DeleteVolume", "ec2:DeleteSnapshot", "ec2:DeleteTags"}


def find_statements(policy: dict[str, Any], action: str) -> list[dict[str, Any]]:
    return [one for one in policy["Statement"] if action in one["Action"]]


def test_what_is_deleted_or_changed_carries_a_tag() -> None:
    """The role cannot touch what no controller made, whatever the controller is asked for."""
    policy = make_controller_policy(NOWHERE)
    owned = {"StringEquals": {f"aws:ResourceTag/{OWNER_TAG}": "true"}}
    for action in CHANGES_WHAT_IS:
        found = find_statements(policy, action)
        assert owned in [one["Condition"] for one in found], action
        for statement in found:
            assert statement["Condition"] in (owned, OF_A_CLAIM)


def test_volumes_of_claims_from_before_the_driver_are_changed_too() -> None:
    """Kubernetes' own code gave them no other tag, and AWS's policy reaches them."""
    policy = make_controller_policy(NOWHERE)
    for action in ("ec2:ModifyVolume", "ec2:DeleteVolume", "ec2:CreateTags", "ec2:DeleteTags"):
        found = [one for one in find_statements(policy, action) if one.get("Condition") == OF_A_CLAIM]
        assert [one["Resource"] for one in found] == [["arn:aws:ec2:*:*:volume/*"]], action


def test_what_is_made_gets_the_tag() -> None:
    """A volume is made with the tag; from a snapshot, which is not made, without a condition."""
    made, source = find_statements(make_controller_policy(NOWHERE), "ec2:CreateVolume")
    assert made["Condition"] == {"StringEquals": {f"aws:RequestTag/{OWNER_TAG}": "true"}}
    assert source["Resource"] == ["arn:aws:ec2:*::snapshot/*"]
    assert "Condition" not in source


def test_a_cluster_that_is_known_is_named() -> None:
    """HyperPod's calls are allowed on the one cluster, in its partition, and on all where none is known."""
    arn = "arn:aws-us-gov:sagemaker:us-gov-west-1:111122223333:cluster/abc123def456"
    known = make_controller_policy(CloudIdentity(cluster_arn=arn))
    (attach,) = find_statements(known, "sagemaker:AttachClusterNodeVolume")
    assert attach["Resource"] == [arn]
    (attach,) = find_statements(make_controller_policy(NOWHERE), "sagemaker:AttachClusterNodeVolume")
    assert attach["Resource"] == ["arn:aws:sagemaker:*:*:cluster/*"]


def test_beside_awss_policy_little_is_left() -> None:
    """What the managed policy has is not said again."""
    policy = make_controller_policy(NOWHERE, is_beside_managed=True)
    assert {action for one in policy["Statement"] for action in one["Action"]} == {
        "sagemaker:AttachClusterNodeVolume",
        "sagemaker:DetachClusterNodeVolume",
        "eks:DescribeCluster",
        "sagemaker:DescribeClusterNode",
        "sagemaker:ListClusterNodes",
        "ec2:DisableFastSnapshotRestores",
        "ec2:DescribeLockedSnapshots",
    }
