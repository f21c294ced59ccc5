"""Decides whether a policy has anything to ask of AWS on this node: yes, no, or not known yet.

It imports nothing of what asks AWS.
"""

from __future__ import annotations

from agent.cloud.identity.cloud_identity import CloudIdentity, require_identity
from agent.cloud.view.cloud_report import choose_entries, make_ending, needs_cloud
from agent.core.errors import AgentError
from agent.core.model import NodeFacts
from agent.core.steps import Refuse, Wait
from agent.policy import Policy


def is_possible(policy: Policy, *, has_standins: bool) -> bool:
    """Return whether AWS may be asked at all, whoever this node is.

    Files that stand in for volumes are attached by no API, unless the policy says so.
    """
    enabled = policy.agent.cloud.enabled
    return not has_standins if enabled is None else enabled


def is_wanted(
    policy: Policy, identity: CloudIdentity, *, has_standins: bool, is_any_to_go: bool = False
) -> bool:
    """Return whether this policy has anything to ask of AWS on this node.

    ``enabled: auto`` means: where an entry needs AWS, or names a volume that could be attached, and the node
    is one of AWS's.
    ``is_any_to_go``: volumes of claims that may be gone from the policy are still to be deleted.
    """
    if not is_possible(policy, has_standins=has_standins):
        return False
    if policy.agent.cloud.enabled:
        return True
    if identity.instance_id is None:
        return False
    entries = choose_entries(policy, identity)
    return is_any_to_go or any(needs_cloud(entry) or entry.volume_id for entry in entries)


def is_room_told(policy: Policy) -> bool:
    """Return whether kubelet is told how many volumes the instance takes, as AWS has it."""
    csi, is_possible = policy.agent.csi, policy.agent.cloud.enabled is not False
    return is_possible and csi is not None and csi.enabled is not False and csi.attach_limit is None


def may_be_wanted(policy: Policy, facts: NodeFacts, *, has_standins: bool, is_ec2: bool) -> bool:
    """Return whether AWS is asked about volumes here, or will be once it is known which node this is.

    ``facts``: what is known of the node now. ``is_ec2``: whether or not it is known, it is one of AWS's.
    """
    identity = CloudIdentity(instance_id=facts.instance_id, instance_group=facts.instance_group)
    if is_wanted(policy, identity, has_standins=has_standins):
        return bool(policy.volumes)
    is_open = policy.agent.cloud.enabled is None and is_ec2 and not has_standins and facts.instance_id is None
    return is_open and any(needs_cloud(entry) or entry.volume_id for entry in policy.volumes)


def is_open(policy: Policy, identity: CloudIdentity, *, has_standins: bool, is_ec2: bool) -> bool:
    """Return whether AWS may turn out to be wanted here, once all that entries need of this node is known."""
    if policy.agent.cloud.enabled is not None or has_standins or identity.is_complete:
        return False
    is_of_aws = is_ec2 or identity.is_hyperpod or identity.instance_id is not None
    return is_of_aws and any(needs_cloud(entry) or entry.volume_id for entry in policy.volumes)


def explain_open(policy: Policy, identity: CloudIdentity) -> dict[str, Wait | Refuse]:
    """Say of every entry that needs AWS what is not known of this node."""
    of_hyperpod = ("cluster_arn", "instance_group") if identity.is_hyperpod else ()
    missing = [name for name in ("instance_id", "region", *of_hyperpod) if getattr(identity, name) is None]
    try:
        require_identity(identity, *missing)
    except AgentError as error:
        ending = make_ending(error)
        return {entry.name: ending for entry in policy.volumes if needs_cloud(entry) or entry.volume_id}
    return {}
