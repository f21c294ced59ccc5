"""Claims' volumes that nobody holds: listed with all there is to know, and deleted by order alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import RefusedError
from tests.aws.faults import deny
from tests.aws.world import NodeUnderTest, World
from tests.component.cloud.test_orders import Clerk

CLAIM = """
classes: {fast: {type: gp3}}
volumes:
  - {name: ckpt, claim: {class: fast, size: 5GiB}, block: {}}
"""


async def leave_volume(world: World, number: int, name: str | None = None) -> str:
    """Have a node claim a volume and go; returns the volume."""
    node = world.add_node(number, name or f"hyperpod-i-{number:017x}")
    volume = (await node.settle()).claimed["ckpt"]
    world.cloud.remove_node(str(node.identity.instance_id))
    world.devices.here.clear()
    return volume


def add_node(world: World) -> NodeUnderTest:
    return world.add_node(9, f"hyperpod-i-{9:017x}")


@pytest.fixture
def claiming(world: World, tmp_path: Path) -> World:
    world.use_policy(tmp_path, CLAIM)
    return world


async def test_orphans_are_listed(claiming: World) -> None:
    """Size, type, zone, last holder, and whether it may be deleted are told of each volume nobody holds."""
    volume = await leave_volume(claiming, 1)
    claiming.cloud.make_volume(7, tags={"somebody": "else's"})
    held = add_node(claiming)
    clerk = Clerk(held)
    await clerk.order("orphans")
    (orphan,) = clerk.answer["orphans"]
    assert orphan["volume_id"] == volume
    assert orphan["last_holder"] == "hyperpod-i-00000000000000001"
    assert (orphan["size_bytes"], orphan["type"], orphan["zone"]) == (5 << 30, "gp3", "us-west-2a")
    assert orphan["may_be_deleted"]
    await held.settle()
    await clerk.order("orphans")
    assert clerk.answer["orphans"] == [], "what is held is no orphan"


async def test_orphan_is_deleted_by_order(claiming: World) -> None:
    """The volume that was named goes, and no other."""
    first, second = await leave_volume(claiming, 1), ""
    claiming.cloud.volumes[first].add_tags({"ebs-agent:group": "other"})
    second = await leave_volume(claiming, 2)
    assert first != second
    await Clerk(add_node(claiming)).order("delete-orphan", volume=first)
    assert list(claiming.cloud.volumes) == [second]


async def test_volume_of_a_node_that_lives_is_not_deleted(claiming: World) -> None:
    """A free volume that bears the name of a node that lives is that node's."""
    node = claiming.add_node(1, f"hyperpod-i-{1:017x}")
    volume = (await node.settle()).claimed["ckpt"]
    claiming.cloud.volumes[volume].hold([])
    clerk = Clerk(add_node(claiming))
    await clerk.order("orphans")
    assert not clerk.answer["orphans"][0]["may_be_deleted"]
    with pytest.raises(RefusedError, match="not proven gone"):
        await clerk.order("delete-orphan", volume=volume)
    assert volume in claiming.cloud.volumes


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ebs-agent:node": "compute-1"}, "may come back"),
        ({"ebs-agent:node": "*"}, "its cluster's"),
        ({"ebs-agent:cluster": "zzzzz01234yz"}, "no volume of a claim of this cluster"),
        ({"ebs-agent:made-by": "somebody"}, "no volume of a claim of this cluster"),
    ],
    ids=["lasting name", "shared", "other cluster", "not the agent's"],
)
async def test_what_is_not_proven_is_not_deleted(claiming: World, change: dict[str, str], why: str) -> None:
    """Whatever is not beyond doubt is refused, in a sentence that says what it is."""
    volume = await leave_volume(claiming, 1)
    claiming.cloud.volumes[volume].add_tags(change)
    with pytest.raises(RefusedError, match=why):
        await Clerk(add_node(claiming)).order("delete-orphan", volume=volume)
    assert volume in claiming.cloud.volumes


async def test_volume_that_an_entry_names_is_not_deleted(claiming: World, tmp_path: Path) -> None:
    """An entry that names a volume keeps it from being deleted, whoever held it."""
    volume = await leave_volume(claiming, 1)
    claiming.use_policy(tmp_path, f"volumes: [{{name: kept, match: {{volume_id: {volume}}}, block: {{}}}}]")
    with pytest.raises(RefusedError, match="an entry of the policy"):
        await Clerk(add_node(claiming)).order("delete-orphan", volume=volume)


async def test_nothing_is_deleted_without_proof(claiming: World) -> None:
    """Where AWS cannot be asked about the last holder, nothing goes."""
    volume = await leave_volume(claiming, 1)
    claiming.aws.faults.add(deny("DescribeClusterNode", "sagemaker:DescribeClusterNode"))
    with pytest.raises(Exception, match="DescribeClusterNode"):
        await Clerk(add_node(claiming)).order("delete-orphan", volume=volume)
    assert volume in claiming.cloud.volumes


async def test_volume_in_use_is_not_deleted(claiming: World) -> None:
    """A volume that is attached, here or anywhere, is no orphan."""
    node = claiming.add_node(1, f"hyperpod-i-{1:017x}")
    volume = (await node.settle()).claimed["ckpt"]
    with pytest.raises(RefusedError, match="in-use"):
        await Clerk(node).order("delete-orphan", volume=volume)
