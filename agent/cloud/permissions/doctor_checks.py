"""What ``doctor`` says of the cloud half: who this node is by which source, and which permission is missing.

Each permission the policy needs is tried: describing for real, changing by EC2's dry run. SageMaker's calls
have none, and a dry run of a change needs a volume to name; what could not be tried says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.call import Call, Change
from agent.cloud.aws.calls import (
    AttachVolume,
    CreateSnapshot,
    DeleteVolume,
    DescribeClusterNode,
    DescribeSnapshots,
    DescribeVolumes,
    DescribeVolumesModifications,
    GetCallerIdentity,
    ListClusterNodes,
    ModifyVolume,
)
from agent.cloud.aws.iam_statements import STATEMENTS
from agent.cloud.aws.instance_types import DescribeInstanceTypes
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume
from agent.cloud.aws.models import MADE_BY, TAG_MADE_BY, CloudVolume
from agent.cloud.aws.volume_status import DescribeVolumeStatus
from agent.cloud.aws_worker.client import CloudClient
from agent.cloud.identity.identity_sources import IdentitySources, identify_node
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.permissions.iam_policy import list_operations
from agent.cloud.plan.decisions import AttachApi, NodeView, choose_attach_api
from agent.cloud.service import WORKER_USER, choose_worker_settings
from agent.cloud.view.describe_all import describe_marked
from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId
from agent.policy import Policy

_TRIED_DRY = (Change, DescribeVolumeStatus, DescribeInstanceTypes)
"""What is tried by EC2's dry run: what changes something, and what fails over what is not there."""


class Examined(Struct, frozen=True):
    """One thing looked at. ``is_ok`` None: what was found does not tell."""

    subject: str
    is_ok: bool | None
    found: str
    mend: str | None = None
    is_tried: bool = True
    """False: there is no way to try it that changes nothing, so nothing is wrong that could be known."""


async def examine_cloud(policy: Policy, surroundings: IdentitySources) -> list[Examined]:
    """Return what was found; asks AWS nothing where the policy needs nothing of it."""
    identity = await identify_node(surroundings)
    api = choose_attach_api(policy.agent.cloud.attach_api, identity)
    operations = list_operations(policy, api)
    if policy.agent.cloud.enabled is False or not operations:
        return [
            *describe_identity(identity),
            Examined("AWS", is_ok=True, found="the policy asks nothing of it"),
        ]
    settings = choose_worker_settings(identity)
    async with CloudClient(settings) as client:
        identity = await identify_node(surroundings, client.make)
        node = NodeView(identity, api, cluster_name=policy.agent.cloud.cluster)
        return [
            *describe_identity(identity),
            *describe_user(settings.user),
            await _find_caller(client, identity),
            *[one async for one in _try_permissions(client, node, operations)],
        ]


def describe_identity(identity: CloudIdentity) -> list[Examined]:
    """Return each fact about this node with the source that told it, then what was wrong with sources."""
    known = [
        Examined(name.replace("_", " "), is_ok=True, found=f"{getattr(identity, name)} ({source})")
        for name, source in identity.sources
    ]
    mend = "On HyperPod, /opt/ml/config/resource_config.json has to list this node."
    return [*known, *(Examined("node", None, problem, mend) for problem in identity.problems)]


def describe_user(user: str | int | None) -> list[Examined]:
    """Return what is wrong with the user that what speaks to AWS runs as: nothing, or that it is missing."""
    if not isinstance(user, int):
        return []
    mend = (
        f"useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {WORKER_USER}"
    )
    found = (
        f"there is no user {WORKER_USER}: what speaks to AWS runs as user {user}, which others may use too"
    )
    return [Examined("AWS worker", is_ok=None, found=found, mend=mend)]


async def _find_caller(client: CloudClient, identity: CloudIdentity) -> Examined:
    """Return whose credentials AWS takes this node's for: that is the role whose permissions count."""
    try:
        account, role = await client.make(GetCallerIdentity())
    except AgentError as error:
        return Examined("AWS role", None, error.message, error.hint)
    if identity.account not in {None, account}:
        found = f"{role}, of account {account}; this node belongs to account {identity.account}"
        mend = "With these credentials no volume can be attached here: use a role of this account."
        return Examined("AWS role", is_ok=False, found=found, mend=mend)
    return Examined("AWS role", is_ok=True, found=role)


async def _try_permissions(
    client: CloudClient, node: NodeView, operations: tuple[str, ...]
) -> AsyncIterator[Examined]:
    volume = await _find_own_volume(client, node)
    for operation in operations:
        call = _make_trial(operation, node, volume)
        subject = " ".join(dict.fromkeys(one.action for one in STATEMENTS[operation])) or operation
        if call is None:
            found = "has no dry run, or none without a volume of the agent's"
            yield Examined(subject, None, found, is_tried=False)
            continue
        try:
            await (client.try_out(call) if isinstance(call, _TRIED_DRY) else client.make(call))
        except AgentError as error:
            is_denied = error.reason is Reason.PERMISSION_DENIED
            yield Examined(subject, False if is_denied else None, error.message, error.hint)
        else:
            yield Examined(subject, is_ok=True, found="allowed")


async def _find_own_volume(client: CloudClient, node: NodeView) -> CloudVolume | None:
    try:
        found = await describe_marked(client.make, node)
    except AgentError:
        return None  # what is missing for it is tried, and told, with the others
    read, _ = split(found)
    return read[0] if read else None


def _make_trial(operation: str, node: NodeView, volume: CloudVolume | None) -> Call[Any] | None:
    """Return a call that shows whether ``operation`` is allowed, and changes nothing when it is tried out."""
    identity = node.identity
    cluster, instance_id = identity.cluster_arn, identity.instance_id
    describing: dict[str, Call[Any]] = {
        "DescribeVolumes": DescribeVolumes((("volume-id", ("vol-00000000",)),)),
        "DescribeVolumesModifications": DescribeVolumesModifications((VolumeId("vol-00000000"),)),
        "DescribeVolumeStatus": DescribeVolumeStatus(()),
        "DescribeInstanceTypes": DescribeInstanceTypes((identity.instance_type or "m5.large",)),
        "DescribeSnapshots": DescribeSnapshots((("snapshot-id", ("snap-00000000",)),)),
    }
    if cluster and node.api is AttachApi.HYPERPOD:
        describing["ListClusterNodes"] = ListClusterNodes(cluster)
        if instance_id:
            describing["DescribeClusterNode"] = DescribeClusterNode(cluster, instance_id)
    if operation in describing:
        return describing[operation]
    mark = ((TAG_MADE_BY, MADE_BY),)
    if operation == "CreateVolume" and identity.zone:
        return CreateVolume("ebs-agent-doctor", identity.zone, 1, "gp3", mark)
    if volume is None:
        return None
    changing: dict[str, Call[Any]] = {
        "ModifyVolume": ModifyVolume(volume.volume_id, size_gib=volume.size_gib + 1),
        "CopyVolumes": CopyVolumes(volume.volume_id, "ebs-agent-doctor", None, "gp3", mark),
        "CreateSnapshot": CreateSnapshot(volume.volume_id, "dry run", mark),
        "DeleteVolume": DeleteVolume(volume.volume_id),
    }
    if instance_id:
        changing["AttachVolume"] = AttachVolume(instance_id, volume.volume_id, "/dev/sdp")
    return changing.get(operation)
