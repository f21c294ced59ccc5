"""Nodes whose names end with them share volumes: what one leaves the next takes over, no two have one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.cloud_loop import CloudLoop
from agent.cloud.plan.claims.pools import choose_share
from agent.core.model import Reason
from tests.aws.cloud import CLUSTER_ID, OTHER_ZONE
from tests.aws.faults import deny
from tests.aws.world import NodeUnderTest, World

CLAIM = """
classes: {fast: {type: gp3}}
volumes:
  - {name: ckpt, claim: {class: fast, size: 5GiB}, block: {}}
"""
INSTANCES: Iterator[int]


@pytest.fixture(autouse=True)
def count_instances() -> None:
    global INSTANCES  # noqa: PLW0603 - begins anew in each test
    INSTANCES = iter(range(1, 1000))


def add_node(world: World, **about: Any) -> NodeUnderTest:
    number = next(INSTANCES)
    return world.add_node(number, f"hyperpod-i-{number:017x}", **about)


def remove_node(world: World, node: NodeUnderTest, *, keeps_attachments: bool = False) -> None:
    world.cloud.remove_node(str(node.identity.instance_id), keeps_attachments=keeps_attachments)
    world.devices.here.pop(str(node.identity.instance_id), None)


def read_tags(world: World, volume: str) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in world.cloud.volumes[volume].get_tags()}


@pytest.mark.parametrize("keeps_attachments", [False, True], ids=["free", "still attached"])
async def test_replacement_under_a_new_name_takes_over(
    world: World, tmp_path: Path, *, keeps_attachments: bool
) -> None:
    """The volume of a node that is gone is the next one's, whose name and time are written on it."""
    world.use_policy(tmp_path, CLAIM)
    old = add_node(world)
    volume = (await old.settle()).claimed["ckpt"]
    remove_node(world, old, keeps_attachments=keeps_attachments)
    new = add_node(world)
    assert (await new.settle()).claimed["ckpt"] == volume
    assert world.cloud.made == [volume]
    tags = read_tags(world, volume)
    assert tags["ebs-agent:node"] == new.identity.instance_name
    assert tags["Name"] == f"ckpt {new.identity.instance_name}"
    assert tags["ebs-agent:held-since"].startswith("20")
    world.aws.calls.clear()
    await new.look(2)
    assert dict(world.aws.calls) == {"DescribeVolumes": 2}


async def test_volume_of_a_node_that_lives_is_left(world: World, tmp_path: Path) -> None:
    """A volume that was detached by hand is its node's, as long as that one lives."""
    world.use_policy(tmp_path, CLAIM)
    first = add_node(world)
    volume = (await first.settle()).claimed["ckpt"]
    first.hands.released.add(volume)
    world.cloud.volumes[volume].hold([])
    world.devices.here.clear()
    second = add_node(world)
    assert (await second.settle()).claimed["ckpt"] != volume
    assert read_tags(world, volume)["ebs-agent:node"] == first.identity.instance_name


async def test_volume_of_a_moved_node_is_left(world: World, tmp_path: Path) -> None:
    """A node that was moved to another cluster is not in this one's list, and lives all the same."""
    world.use_policy(tmp_path, CLAIM)
    moved = add_node(world)
    volume = (await moved.settle()).claimed["ckpt"]
    remove_node(world, moved, keeps_attachments=True)
    (attachment,) = world.cloud.volumes[volume].emulated
    attachment.associated_resource = attachment.associated_resource.replace(CLUSTER_ID, "bbbbb01234yz")
    assert (await add_node(world).settle()).claimed["ckpt"] != volume
    assert world.aws.calls["DetachClusterNodeVolume"] == 0


@pytest.mark.parametrize("about", ["zone", "group", "claim", "cluster"])
async def test_pool_is_of_one_claim_group_and_zone(world: World, tmp_path: Path, about: str) -> None:
    """What another claim, cluster, group or zone left is nobody's here."""
    world.use_policy(tmp_path, CLAIM)
    old = add_node(world, **({"zone": OTHER_ZONE} if about == "zone" else {}))
    volume = (await old.settle()).claimed["ckpt"]
    if about != "zone":
        world.cloud.volumes[volume].add_tags({f"ebs-agent:{about}": "other"})
    remove_node(world, old)
    assert (await add_node(world).settle()).claimed["ckpt"] != volume


@pytest.mark.parametrize(
    "fault",
    [
        deny("ListClusterNodes", "sagemaker:ListClusterNodes"),
        deny("DescribeClusterNode", "sagemaker:DescribeClusterNode"),
    ],
    ids=["list", "describe"],
)
async def test_nothing_is_taken_or_made_without_proof(world: World, tmp_path: Path, fault: Any) -> None:
    """Where AWS cannot be asked whether the last holder is gone, its volume is left, and no other made."""
    world.use_policy(tmp_path, CLAIM)
    old = add_node(world)
    await old.settle()
    remove_node(world, old)
    world.aws.faults.add(fault)
    findings = await add_node(world).look(4)
    assert findings.endings["ckpt"].reason is Reason.PERMISSION_DENIED
    assert len(world.cloud.made) == 1


async def test_lasting_names_share_nothing(world: World, tmp_path: Path) -> None:
    """Where a replacement keeps the name, a claim's volume is that name's, whoever else needs one."""
    world.use_policy(tmp_path, CLAIM)
    old = world.add_node(501, "compute-1")
    volume = (await old.settle()).claimed["ckpt"]
    remove_node(world, old)
    assert (await world.add_node(502, "compute-2").settle()).claimed["ckpt"] != volume
    assert (await world.add_node(503, "compute-1").settle()).claimed["ckpt"] == volume


async def run_loop(loop: CloudLoop) -> None:
    """Look until settled, as fast as can be: nodes that boot at once meet at every call."""
    with anyio.fail_after(240):
        while not loop.is_settled:
            await loop.look()
            await anyio.sleep(0.2)  # the emulated AWS answers one at a time


@pytest.mark.timeout(300)
async def test_nodes_that_boot_at_once_share_a_pool(world: World, tmp_path: Path) -> None:
    """Eight nodes boot together where five left their volumes: those are taken, three made, none shared."""
    world.use_policy(tmp_path, CLAIM)
    for _ in range(5):
        old = add_node(world)
        await old.settle()
        remove_node(world, old)
        for volume in world.cloud.volumes.values():
            volume.add_tags({"ebs-agent:claim": "kept aside"})
    for volume in world.cloud.volumes.values():
        volume.add_tags({"ebs-agent:claim": "ckpt"})
    nodes = [add_node(world) for _ in range(8)]
    for node in nodes:
        node.restart(clock=anyio.current_time)
    async with anyio.create_task_group() as tasks:
        for node in nodes:
            tasks.start_soon(run_loop, node.loop)
    used = [node.loop.findings.claimed["ckpt"] for node in nodes]
    assert len(set(used)) == len(world.cloud.made) == 8
    for node, volume_id in zip(nodes, used, strict=True):
        assert list(node.hands.list_devices()) == [volume_id]
        assert read_tags(world, volume_id)["ebs-agent:node"] == node.identity.instance_name


async def test_node_looks_at_its_share_of_a_pool_first(world: World, tmp_path: Path) -> None:
    """Of what nodes that are gone have left a node describes those of one digit, and all only without one."""
    world.use_policy(tmp_path, CLAIM)
    gone = [add_node(world) for _ in range(16)]
    left = {str(node.identity.instance_id)[-1]: (await node.settle()).claimed["ckpt"] for node in gone}
    assert len(left) == 16
    for node in gone:
        remove_node(world, node)
    first, second = add_node(world), add_node(world)
    share = choose_share(str(first.identity.instance_id))
    assert (await first.settle()).claimed["ckpt"] == left[share]
    assert list_pool_filters(first) == [(f"*{share}",)]
    share = choose_share(str(second.identity.instance_id))
    world.cloud.volumes.pop(left[share], None)
    assert (await second.settle()).claimed["ckpt"] in left.values()
    assert list_pool_filters(second)[:2] == [(f"*{share}",), None]
    assert len(world.cloud.made) == 16


def list_pool_filters(node: NodeUnderTest) -> list[tuple[str, ...] | None]:
    """Return which holders a node has asked about, each time it looked for what is free."""
    asked = [dict(call.filters) for call in node.made if isinstance(call, DescribeVolumes)]
    return [one.get("tag:ebs-agent:node") for one in asked if "status" in one]
