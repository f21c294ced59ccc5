"""What is asked of AWS for an entry is about the volume that the node has for it, however it is meant."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cloud.aws.calls import AttachClusterNodeVolume
from agent.core.model import Reason, VolumeId
from tests.aws.cloud import CLUSTER_ARN
from tests.aws.world import NodeUnderTest, World
from tests.component.cloud.test_instance_limits import name_type

ENTRY = """
volumes:
  - name: data
    match: {{{match}}}
    filesystem: {{type: xfs}}
    mount: {{path: /data/x}}
    snapshots: {{schedule: "0 * * * *"}}
"""
MATCHES = (
    *("volume_id: {volume}", "tags: {{a: b}}", "device_name: {device}", 'size: ">=5GiB"', "type: gp3"),
    "tags: {{a: b}}, device_name: {device}",
)


async def attach(world: World, node: NodeUnderTest, size_gib: int = 5, **more: Any) -> VolumeId:
    """Have a volume here that the agent did not bring."""
    volume = VolumeId(world.cloud.make_volume(size_gib, **more))
    await node.make(AttachClusterNodeVolume(CLUSTER_ARN, str(node.identity.instance_id), volume))
    return volume


async def pass_hours(node: NodeUnderTest, hours: int) -> None:
    for _ in range(hours):
        node.now += timedelta(hours=1)
        node.time_s += 3600
        await node.look(3)


@pytest.mark.parametrize("match", MATCHES)
async def test_snapshots_are_taken_however_the_entry_means_its_volume(
    world: World, tmp_path: Path, match: str
) -> None:
    """By its ID, by tags, by the name it was attached under, by size or type: on schedule, and told."""
    world.use_policy(tmp_path, "volumes: []\n")
    node = world.add_node(1)
    volume = await attach(world, node, tags={"a": "b"})
    device = world.devices.names[volume]
    world.use_policy(tmp_path, ENTRY.format(match=match.format(volume=volume, device=device)))
    node.policy = world.policy
    await pass_hours(node, 4)
    taken = [one.volume_id for one in world.cloud.ec2.snapshots.values()]
    assert taken == [volume] * len(taken)
    assert len(taken) >= 3
    assert node.loop.findings.snapshots[volume].entry == "data"


async def test_of_several_the_one_in_use_has_its_snapshots_taken(world: World, tmp_path: Path) -> None:
    """Two volumes here carry the tags: what the node has mounted counts, and no other."""
    world.use_policy(tmp_path, ENTRY.format(match="tags: {a: b}"))
    node = world.add_node(1)
    volumes = sorted([await attach(world, node, tags={"a": "b"}) for _ in range(4)])
    node.assigned = {"data": volumes[-1]}
    await pass_hours(node, 2)
    assert {one.volume_id for one in world.cloud.ec2.snapshots.values()} == {volumes[-1]}


async def test_volume_that_aws_does_not_know_is_told_where_it_is_to_have_snapshots(
    world: World, tmp_path: Path
) -> None:
    """It is used, and its entry says why there are none."""
    world.use_policy(tmp_path, ENTRY.format(match='size: ">=5GiB"'))
    node = world.add_node(1)
    volume = await attach(world, node)
    world.cloud.volumes.pop(volume)
    await pass_hours(node, 1)
    notice = node.loop.findings.notices["data"]
    assert notice.reason is Reason.NOT_ATTACHED
    assert f"AWS knows no {volume}" in notice.message


async def test_each_volume_counts_once_in_what_the_instance_can_do(world: World, tmp_path: Path) -> None:
    """Two entries, two volumes: neither is counted for the other, and their sum is theirs."""
    world.use_policy(tmp_path, "volumes: []\n")
    node = name_type(world.add_node(1))
    fast = await attach(world, node, 100, type="gp3", iops=12000)
    small = await attach(world, node, 100, type="gp3", iops=3000)
    world.use_policy(
        tmp_path,
        f"""
volumes:
  - {{name: fast, match: {{volume_id: {fast}}}, block: {{}}}}
  - {{name: small, match: {{device_name: {world.devices.names[small]}}}, block: {{}}}}
""",
    )
    node.policy = world.policy
    await node.look(3)
    assert node.loop.findings.notices == {}
