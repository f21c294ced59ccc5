"""The least IAM policy a policy file needs, and the KMS key policy that goes with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from agent.cloud.aws.iam_statements import STATEMENTS, Statement
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.is_wanted import is_room_told
from agent.cloud.plan.decisions import AttachApi
from agent.cloud.view.cloud_report import needs_cloud
from agent.core.model import EndCause
from agent.policy import Policy

_UNKNOWN = {"partition": "aws", "region": "*", "account": "*"}


def list_operations(policy: Policy, api: AttachApi) -> tuple[str, ...]:
    """Return the calls the agent makes to fulfil this policy with this attach API, in a settled order."""
    for_kubelet = ("DescribeInstanceTypes",) if is_room_told(policy) else ()
    return tuple(dict.fromkeys((*for_kubelet, *_find_operations(policy, api))))


def _find_operations(policy: Policy, api: AttachApi) -> Iterator[str]:
    if not policy.volumes:
        return
    claims = [entry.claim for entry in policy.volumes if entry.claim is not None]
    can_attach = api is not AttachApi.NONE and any(
        entry.claim is not None or entry.volume_id is not None or needs_cloud(entry)
        for entry in policy.volumes
    )
    if can_attach or any(map(needs_cloud, policy.volumes)):
        yield from ("DescribeVolumes", "DescribeVolumeStatus")
    if can_attach:
        yield "DescribeInstanceTypes"
        yield "AttachClusterNodeVolume" if api is AttachApi.HYPERPOD else "AttachVolume"
    if api is AttachApi.HYPERPOD and can_attach:
        yield "DescribeClusterNode"
    if api is not AttachApi.NONE:
        yield from _find_leaving_operations(policy, api, can_attach=can_attach)
    if claims:
        is_copy = [claim.source_volume_id is not None for claim in claims]
        yield from ("CreateVolume",) * (not all(is_copy)) + ("CopyVolumes",) * any(is_copy)
        yield from ("ModifyVolume", "DescribeVolumesModifications", "CreateTags")
        # To take a volume over from an instance that is proven gone.
        if api is AttachApi.HYPERPOD:
            yield from ("DetachClusterNodeVolume", "ListClusterNodes")
        elif api is AttachApi.EC2:
            yield from ("DetachVolume", "DescribeInstances")
    if any(claim.on_delete != "retain" for claim in claims):
        yield "DeleteVolume"
    yield from _find_snapshot_operations(policy)


def _find_leaving_operations(policy: Policy, api: AttachApi, *, can_attach: bool) -> Iterator[str]:
    release_on = policy.agent.cloud.release_on
    # A Spot instance that is taken back has all its volumes detached, whoever attached them.
    is_everything = EndCause.SPOT_INTERRUPTION in release_on
    if is_everything:
        yield "DescribeVolumes"
    if is_everything or (can_attach and release_on):
        yield "DetachClusterNodeVolume" if api is AttachApi.HYPERPOD else "DetachVolume"


def _find_snapshot_operations(policy: Policy) -> Iterator[str]:
    entries = [entry.snapshots for entry in policy.volumes if entry.snapshots is not None]
    is_last = any(entry.claim is not None and entry.claim.on_delete == "snapshot" for entry in policy.volumes)
    if entries or is_last:
        yield from ("DescribeSnapshots", "CreateSnapshot")
    if entries:
        yield "CreateTags"
    if any(entry.keep is not None for entry in entries):
        yield "DeleteSnapshot"
    if any(entry.lock is not None for entry in entries):
        yield "LockSnapshot"
    if any(entry.fast_restore_zones for entry in entries):
        yield "EnableFastSnapshotRestores"
        yield "DisableFastSnapshotRestores"


def make_iam_policy(policy: Policy, identity: CloudIdentity, *apis: AttachApi) -> dict[str, Any]:
    """Return the IAM policy document for the role of the nodes, which attach with any of these APIs."""
    operations = dict.fromkeys(operation for api in apis for operation in list_operations(policy, api))
    needed = [statement for operation in operations for statement in STATEMENTS[operation]]
    if any(entry.claim is not None and entry.claim.snapshot_id for entry in policy.volumes):
        needed.append(Statement("ec2:CreateVolume", ("arn:{partition}:ec2:{region}::snapshot/*",)))
    return {"Version": "2012-10-17", "Statement": list(merge_statements(needed, identity))}


def merge_statements(needed: Iterable[Statement], identity: CloudIdentity) -> Iterator[dict[str, Any]]:
    """Yield statements as IAM has them, actions on the same resources under the same condition together."""
    groups: dict[tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]], list[str]] = {}
    for statement in needed:
        actions = groups.setdefault((statement.resources, statement.condition), [])
        if statement.action not in actions:
            actions.append(statement.action)
    for (resources, condition), actions in groups.items():
        written: dict[str, Any] = {
            "Effect": "Allow",
            "Action": sorted(actions),
            "Resource": [fill_resource(resource, identity) for resource in resources],
        }
        for operator, key, value in condition:
            written.setdefault("Condition", {}).setdefault(operator, {})[key] = value
        yield written


def fill_resource(resource: str, identity: CloudIdentity) -> str:
    """Return a resource with this cluster's words in it; ``*`` for those that are not known."""
    known = {name: getattr(identity, name) or unknown for name, unknown in _UNKNOWN.items()}
    cluster = identity.cluster_arn or "arn:{partition}:sagemaker:{region}:{account}:cluster/*".format(**known)
    eks = identity.eks_cluster or "*"
    return resource.format(**known, cluster_arn=cluster, eks_cluster=eks)


def make_kms_policy(
    identity: CloudIdentity, role_arn: str, *, creates_encrypted: bool = True
) -> dict[str, Any]:
    """Return the statements a customer-managed key's policy needs for the role.

    Attaching needs the first two; the third is for volumes that the agent makes with the key, which
    ``creates_encrypted`` says it does. What is not known off a node is left open, never asked to be ``*``.

    Source: the SageMaker guide, EBS volumes for HyperPod, customer-managed keys.
    """
    conditions = _limit_to_ebs(identity, role_arn)
    making = {
        "Sid": "MakeEncryptedVolumes",
        "Effect": "Allow",
        "Principal": {"AWS": role_arn},
        "Action": ["kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*", "kms:Decrypt"],
        "Resource": "*",
        "Condition": conditions,
    }
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "DescribeKeyForEbsAgent",
                "Effect": "Allow",
                "Principal": {"AWS": role_arn},
                "Action": ["kms:DescribeKey"],
                "Resource": "*",
            },
            {
                "Sid": "GrantKeyToEbs",
                "Effect": "Allow",
                "Principal": {"AWS": role_arn},
                "Action": ["kms:CreateGrant"],
                "Resource": "*",
                "Condition": {
                    **conditions,
                    "ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "aws:ebs:id"},
                    "Bool": {"kms:GrantIsForAWSResource": True},
                    "ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt"]},
                },
            },
            *([making] if creates_encrypted else []),
        ],
    }


def _limit_to_ebs(identity: CloudIdentity, role_arn: str) -> dict[str, dict[str, str]]:
    """Return the conditions that a key is used for EBS, by this account and in this region where known.

    IAM takes ``*`` in StringEquals for a star, so that it would match nothing at all.
    """
    parts = role_arn.split(":")
    account = identity.account or (parts[4] if len(parts) > 4 else None)  # noqa: PLR2004 - arn:…:iam::ACCOUNT
    if identity.region is None:
        via = {"StringLike": {"kms:ViaService": "ec2.*.amazonaws.com"}}
    else:
        via = {"StringEquals": {"kms:ViaService": f"ec2.{identity.region}.amazonaws.com"}}
    if account is not None:
        via["StringEquals"] = {"kms:CallerAccount": account, **via.get("StringEquals", {})}
    return via


def makes_encrypted(policy: Policy) -> bool:
    """Return whether the agent makes volumes that are encrypted with a key of the customer's, or may be."""
    claims = (entry.claim for entry in policy.volumes if entry.claim is not None)
    classes = (policy.classes[claim.class_name] for claim in claims)
    return any(one.kms_key_id or one.encrypted for one in classes)
