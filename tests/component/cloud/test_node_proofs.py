from __future__ import annotations

from typing import Any

import pytest

from agent.controller.calls import NodeId
from agent.controller.care.proofs import Proofs, parse_provider_id
from agent.core.errors import AgentError
from tests.aws.cloud import CLUSTER_ID, REGION
from tests.aws.faults import Fault, Kind, deny, throttle
from tests.aws.world import World
from tests.component.cloud.test_ec2 import add_instance


def name_nodes(world: World, *numbers: int) -> tuple[NodeId, ...]:
    """Return nodes of the cluster by the IDs that Kubernetes has of them."""
    return tuple(NodeId(str(world.add_node(number).identity.instance_id), CLUSTER_ID) for number in numbers)


async def test_a_node_that_is_in_no_list_and_not_found_is_gone(world: World) -> None:
    """Both answers are needed, and those who are listed are not gone, however silent they are."""
    one, two, three = name_nodes(world, 1, 2, 3)
    proofs = Proofs(world.add_node(1).make, REGION)
    assert await proofs.find_gone([two, three], [one]) == frozenset()
    world.cloud.remove_node(two.instance_id)
    assert await proofs.find_gone([two, three], [one]) == {two}
    assert world.aws.calls["DescribeClusterNode"] == 1


async def test_a_list_without_a_node_that_is_known_to_run_proves_nothing(world: World) -> None:
    """It may be of another cluster; and where no node is heard of, nothing tells that it is not."""
    one, two = name_nodes(world, 1, 2)
    make = world.add_node(3).make
    world.cloud.remove_node(one.instance_id)
    world.cloud.remove_node(two.instance_id)
    for witnesses in ([], [two], [NodeId("i-0123456789abcdef0")]):
        with pytest.raises(AgentError, match="no node is proven gone"):
            await Proofs(make, REGION).find_gone([one], witnesses)


@pytest.mark.parametrize("operation", ["ListClusterNodes", "DescribeClusterNode"])
@pytest.mark.parametrize(
    "fault",
    [
        lambda operation: deny(operation, f"sagemaker:{operation}"),
        lambda operation: throttle(operation, 100),
        lambda operation: Fault(operation, times=100),
        lambda operation: Fault(operation, Kind.SILENCE, times=100),
    ],
    ids=["denied", "throttled", "failed", "silent"],
)
async def test_what_is_not_answered_proves_nothing(world: World, operation: str, fault: Any) -> None:
    """A node is not gone because AWS does not say anything else."""
    one, two = name_nodes(world, 1, 2)
    make = world.add_node(1).make
    world.cloud.remove_node(two.instance_id)
    world.aws.faults.add(fault(operation))
    with pytest.raises(AgentError):
        await Proofs(make, REGION).find_gone([two], [one])


async def test_an_instance_is_gone_when_ec2_says_that_it_is_terminated(world: World) -> None:
    """One that is stopped may run again, and one that EC2 does not know may be of another account."""
    instances = (add_instance(world) for _ in range(3))
    running, stopped, terminated = (NodeId(str(one.identity.instance_id)) for one in instances)
    world.cloud.ec2.get_instance(stopped.instance_id)._state.name = "stopped"
    world.cloud.ec2.get_instance(terminated.instance_id)._state.name = "terminated"
    unknown = NodeId("i-0123456789abcdef0")
    proofs = Proofs(world.add_node(1).make, REGION)
    assert await proofs.find_gone([stopped, terminated, unknown], [running]) == {terminated}
    with pytest.raises(AgentError, match="the account"):
        await proofs.find_gone([terminated], [unknown])


@pytest.mark.parametrize(
    ("provider_id", "expected"),
    [
        ("aws:///us-west-2a/i-0123456789abcdef0", NodeId("i-0123456789abcdef0")),
        (
            "aws:///usw2-az1/sagemaker/cluster/hyperpod-abcde01234yz-i-0123456789abcdef0",
            NodeId("i-0123456789abcdef0", "abcde01234yz"),
        ),
        ("", None),
        ("gce://project/zone/i-0123456789abcdef0", None),
        ("aws:///us-west-2a/fargate-ip-10-0-0-1", None),
        ("aws:///us-west-2a/hyperpod-i-0123456789abcdef0", None),
    ],
)
def test_what_is_no_instance_is_never_asked_about(provider_id: str, expected: NodeId | None) -> None:
    """Nodes of other kinds stay to Kubernetes."""
    assert parse_provider_id(provider_id) == expected
