"""What is said to do about AWS's refusals, in a claim's events and a pod's."""

from __future__ import annotations

import pytest

from agent.cloud.aws.calls import AttachVolume
from agent.cloud.errors.explain import CloudError, Failure, explain_failure
from agent.cloud.errors.rules import BY_CODE
from agent.controller.service.hints import find_hint, tell_for_kubernetes
from agent.core.model import VolumeId
from tests.unit.controller.stand_in import NODE, VOLUME, StandIn

OF_NODES = (
    "ebs-agent create",
    "ebs-agent detach",
    "ebs-agent doctor",
    "ebs-agent reload",
    "iam-policy`",
    "the agent",
    "policy file",
    "cloud.enabled",
    "attach_api",
    "unit's environment",
    "the entry",
    "under snapshots",
    "order",
)
"""What a hint for a node's owner speaks of, and there is not in a pod."""


@pytest.mark.parametrize("code", [*BY_CODE, "Unheard", "UnauthorizedOperation"])
@pytest.mark.parametrize("status", [400, 503])
def test_no_hint_is_for_a_nodes_owner(code: str, status: int) -> None:
    """Whatever AWS says: nobody can call the agent, or change its policy, from a claim."""
    error = explain_failure(Failure("ec2", "AttachVolume", code, "Said so.", http_status=status))
    hint = find_hint(error) or error.hint or ""
    assert [words for words in OF_NODES if words in hint] == []


async def test_a_volume_of_another_zone_says_where_the_pod_can_run() -> None:
    cloud = StandIn()
    cloud.add()
    cloud.refusals["AttachVolume"] = [("InvalidVolume.ZoneMismatch", "The volume is not in the same zone.")]
    with pytest.raises(CloudError, match="let the pod run in the volume's zone"):
        await tell_for_kubernetes(cloud.make)(AttachVolume(NODE.instance_id, VolumeId(VOLUME), "/dev/sdf"))


def test_a_missing_permission_is_named() -> None:
    error = explain_failure(
        Failure(
            "ec2",
            "AttachVolume",
            "UnauthorizedOperation",
            "You are not authorized to perform: ec2:AttachVolume",
        )
    )
    assert str(find_hint(error)).startswith("Allow ec2:AttachVolume to the controller's role")
