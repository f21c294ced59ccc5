"""Volumes deleted on the strength of a last snapshot: everything written before has to be in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from agent.cloud.view.pending_calls import LIMIT_S
from tests.aws.cloud import CLUSTER_ARN
from tests.aws.faults import Fault, deny
from tests.aws.world import NodeUnderTest, World

DAY = timedelta(days=1)
CLAIM = """
classes: {{fast: {{type: gp3}}}}
volumes:
  - {{name: ckpt, claim: {{class: fast, size: 5GiB, on_delete: snapshot{limit}}}, block: {{}}}}
"""
NONE = "volumes: []"


def write(limit: str = "") -> str:
    return CLAIM.format(limit=limit and f", delete_unheld_after: {limit}")


async def use(node: NodeUnderTest, tmp_path: Path, text: str, looks: int = 6) -> None:
    """Reload the policy, which gives back what was released."""
    node.world.use_policy(tmp_path, text)
    node.hands.released.clear()
    node.policy = node.world.policy
    await node.look(looks)


async def remove(node: NodeUnderTest, tmp_path: Path) -> None:
    """Take the claim away and let its volume's time come."""
    await use(node, tmp_path, NONE)
    node.now += 2 * DAY
    node.time_s += 2 * 86400
    await node.look(8)


def finish(world: World, state: str = "completed") -> None:
    """Have all snapshots under way come to an end."""
    for snapshot in world.cloud.ec2.snapshots.values():
        snapshot.status = state if snapshot.status == "pending" else snapshot.status


def count(world: World) -> int:
    return len(world.cloud.ec2.snapshots)


async def begin(world: World, tmp_path: Path) -> tuple[NodeUnderTest, str]:
    """Return a node and its volume, whose claim is gone and whose last snapshot is under way."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    world.cloud.keeping.state = "pending"
    await remove(node, tmp_path)
    assert count(world) == 1
    return node, volume


async def test_volume_goes_once_its_snapshot_is_there(world: World, tmp_path: Path) -> None:
    """However long that takes, one is enough, and why the volume is still there is told meanwhile."""
    node, volume = await begin(world, tmp_path)
    for _ in range(30):
        node.now += timedelta(minutes=10)
        node.time_s += 600
        await node.look()
    (call,) = node.loop.findings.calls
    assert (call.operation, call.volume_id) == ("DeleteVolume", volume)
    assert "last snapshot" in str(call.why)
    finish(world)
    await node.look(2)
    assert volume not in world.cloud.volumes
    assert count(world) == 1


async def test_claim_that_came_back_makes_its_last_snapshot_an_old_one(world: World, tmp_path: Path) -> None:
    """What was written to the volume since, for months, is in another before it goes."""
    node, volume = await begin(world, tmp_path)
    await use(node, tmp_path, write())
    assert volume in node.hands.list_devices(), "in use again"
    finish(world)
    node.now += 90 * DAY
    await node.look(2)
    await remove(node, tmp_path)
    assert volume in world.cloud.volumes
    assert count(world) == 2
    finish(world)
    await node.look(2)
    assert volume not in world.cloud.volumes


@pytest.mark.parametrize("is_seen", [True, False])
async def test_use_by_hand_makes_the_last_snapshot_an_old_one(
    world: World, tmp_path: Path, *, is_seen: bool
) -> None:
    """A person attached the volume elsewhere, the agent looking or not, and gave it back."""
    node, volume = await begin(world, tmp_path)
    instance = f"i-{15:017x}"
    world.cloud.add_node(instance)
    words = {"ClusterArn": CLUSTER_ARN, "NodeId": instance, "VolumeId": volume}
    world.cloud.hyperpod.call("AttachClusterNodeVolume", words)
    if is_seen:
        await node.look()
    else:
        node.restart()
    world.cloud.hyperpod.call("DetachClusterNodeVolume", words)
    finish(world)
    node.time_s += LIMIT_S
    await node.look(2)
    assert volume in world.cloud.volumes
    assert count(world) == 2
    finish(world)
    await node.look(2)
    assert volume not in world.cloud.volumes


async def test_node_that_took_over_makes_the_last_snapshot_an_old_one(world: World, tmp_path: Path) -> None:
    """A volume nobody held is taken over while its last snapshot is under way, and left again."""
    world.use_policy(tmp_path, write("7d"))
    node, first, second = (world.add_node(one, f"hyperpod-i-{one:017x}") for one in (8, 1, 3))
    await node.settle()
    volume = (await first.settle()).claimed["ckpt"]
    world.cloud.keeping.state = "pending"

    async def leave(leaver: NodeUnderTest) -> None:
        world.cloud.remove_node(str(leaver.identity.instance_id))
        world.devices.here.pop(str(leaver.identity.instance_id))
        for _ in range(20):
            node.now += DAY / 2
            node.time_s += 43200
            await node.look(2)

    await leave(first)
    assert count(world) == 1
    assert (await second.settle()).claimed["ckpt"] == volume
    finish(world)
    await leave(second)
    assert volume in world.cloud.volumes
    assert count(world) == 2


async def test_failing_last_snapshot_is_told_and_tried_rarely(world: World, tmp_path: Path) -> None:
    """A key that is disabled costs no call every other minute, and does not go unnoticed."""
    node, volume = await begin(world, tmp_path)
    finish(world, "error")
    world.cloud.keeping.state = "error"
    for _ in range(24 * 12):
        node.now += timedelta(minutes=5)
        node.time_s += 300
        await node.look()
    await node.look()
    assert volume in world.cloud.volumes
    assert 3 <= count(world) <= 5
    assert [about for name, about in node.events if name == "snapshot.failed"] == [volume] * count(world)
    (call,) = node.loop.findings.calls
    assert "failed at AWS" in str(call.why)


async def test_time_of_an_earlier_removal_is_none_for_a_later_one(world: World, tmp_path: Path) -> None:
    """Where the time could not be written before the claim came back, the next removal has its own."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    world.aws.faults.add(deny("CreateTags", "ec2:CreateTags"))
    await use(node, tmp_path, NONE)
    await use(node, tmp_path, write())
    world.aws.faults.clear()
    node.now += 30 * DAY
    await use(node, tmp_path, NONE)
    assert volume in node.hands.list_devices()
    assert volume in world.cloud.volumes


async def pass_hours(nodes: Sequence[NodeUnderTest], hours: float) -> None:
    """Let hours pass, in which the nodes look as often as settled ones do."""
    for _ in range(round(hours * 60 / 7)):
        nodes[0].now += timedelta(minutes=7)
        nodes[0].time_s += 420
        for node in nodes:
            await node.look()


async def begin_denied(world: World, tmp_path: Path) -> tuple[NodeUnderTest, str]:
    """Return a node and its volume, whose last snapshot is there, and which AWS does not let it delete."""
    world.aws.faults.add(deny("DeleteVolume", "ec2:DeleteVolume"))
    node, volume = await begin(world, tmp_path)
    world.cloud.keeping.state = "completed"
    finish(world)
    return node, volume


async def test_denied_deletion_takes_no_second_snapshot(world: World, tmp_path: Path) -> None:
    """However rarely it is tried: the volume is looked at all the while, and its snapshot holds all of it."""
    node, volume = await begin_denied(world, tmp_path)
    await pass_hours([node], 24)
    assert volume in world.cloud.volumes
    assert count(world) == 1
    assert any("DeleteVolume" in ending.message for ending in node.loop.findings.endings.values())
    world.aws.faults.clear()
    await pass_hours([node], 0.5)
    assert volume not in world.cloud.volumes
    assert count(world) == 1


async def test_use_while_the_denied_deletion_rests_is_seen(world: World, tmp_path: Path) -> None:
    """A person has the volume written to and gives it back, all within one rest: that is in another."""
    node, volume = await begin_denied(world, tmp_path)
    await pass_hours([node], 5)
    instance = f"i-{15:017x}"
    world.cloud.add_node(instance)
    words = {"ClusterArn": CLUSTER_ARN, "NodeId": instance, "VolumeId": volume}
    world.cloud.hyperpod.call("AttachClusterNodeVolume", words)
    asked = world.aws.calls["DeleteVolume"]
    await node.look()
    assert world.aws.calls["DeleteVolume"] == asked, "it rests"
    world.cloud.hyperpod.call("DetachClusterNodeVolume", words)
    world.aws.faults.clear()
    world.cloud.keeping.state = "pending"
    await pass_hours([node], 1)
    assert volume in world.cloud.volumes
    assert count(world) == 2
    finish(world)
    await pass_hours([node], 0.5)
    assert volume not in world.cloud.volumes


async def test_denied_deletion_takes_none_after_restarts(world: World, tmp_path: Path) -> None:
    """A new process takes another only once AWS would delete the volume; then it takes one, and deletes."""
    node, volume = await begin_denied(world, tmp_path)
    for _ in range(12):
        node.restart()
        await pass_hours([node], 2)
    assert volume in world.cloud.volumes
    assert count(world) == 1
    world.aws.faults.clear()
    await pass_hours([node], 1)
    assert volume not in world.cloud.volumes
    assert count(world) == 2


async def test_failing_deletion_takes_ever_fewer_after_restarts(world: World, tmp_path: Path) -> None:
    """Also where AWS does not say beforehand that it is going to fail."""
    fault = Fault("DeleteVolume", code="UnsupportedOperation", message="no", status=400, times=1_000_000)
    world.aws.faults.add(fault)
    node, volume = await begin(world, tmp_path)
    world.cloud.keeping.state = "completed"
    finish(world)
    for _ in range(12):
        node.restart()
        await pass_hours([node], 1)
    assert volume in world.cloud.volumes
    assert 2 <= count(world) <= 3
    assert any("Another is taken" in str(call.why) for call in node.loop.findings.calls)
    world.aws.faults.clear()
    await pass_hours([node], 8)
    assert volume not in world.cloud.volumes
    assert count(world) <= 4


@pytest.mark.parametrize(
    "fault",
    [
        deny("DeleteVolume", "ec2:DeleteVolume"),
        Fault("DeleteVolume", code="UnsupportedOperation", message="no", status=400, times=1_000_000),
    ],
    ids=["denied", "failing"],
)
async def test_nodes_of_a_pool_take_few_together(world: World, tmp_path: Path, fault: Fault) -> None:
    """Each looks for what nobody holds, and finds a snapshot that another took."""
    world.use_policy(tmp_path, write("7d"))
    nodes = [world.add_node(one, f"hyperpod-i-{one:017x}") for one in (8, 9)]
    left = world.add_node(1, f"hyperpod-i-{1:017x}")
    for node in nodes:
        await node.settle()
    volume = (await left.settle()).claimed["ckpt"]
    world.cloud.remove_node(str(left.identity.instance_id))
    world.devices.here.pop(str(left.identity.instance_id))
    world.aws.faults.add(fault)
    for _ in range(14):
        nodes[0].now += DAY / 2
        nodes[0].time_s += 43200
        for node in nodes:
            await node.look(2)
    assert count(world) == 0
    await pass_hours(nodes, 32)
    assert volume in world.cloud.volumes
    assert 1 <= count(world) <= (1 if fault.is_denial else 2)
    world.aws.faults.clear()
    await pass_hours(nodes, 10)
    assert volume not in world.cloud.volumes
    assert count(world) <= 2, "the other node may have tried first"
