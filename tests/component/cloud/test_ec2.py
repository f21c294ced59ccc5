from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.orders.runner import Follower
from agent.cloud.orders.volumes import VolumeOrders
from agent.cloud.plan.decisions import AttachApi, NodeView
from agent.cloud.plan.instance_gone import find_gone
from agent.core.model import Reason, VolumeId
from tests.aws.cloud import ACCOUNT, REGION, ZONE
from tests.aws.faults import deny
from tests.aws.world import NodeUnderTest, World

CLAIM = """
classes: {a: {type: gp3}}
volumes:
  - {name: one, claim: {class: a, size: 1GiB}, block: {}}
"""
SHARED = "agent: {cloud: {cluster: fleet}}\n" + CLAIM.replace("size: 1GiB", "size: 1GiB, per: cluster")


def add_instance(world: World) -> NodeUnderTest:
    """Start an ordinary instance of this account."""
    ec2 = boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=world.aws.endpoint,
        aws_access_key_id="emulated",
        aws_secret_access_key="emulated",  # noqa: S106
    )
    run = ec2.run_instances(
        ImageId="ami-12c6146b",
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        Placement={"AvailabilityZone": ZONE},
    )
    instance_id = run["Instances"][0]["InstanceId"]
    identity = CloudIdentity(
        instance_id=instance_id, region=REGION, account=ACCOUNT, zone=ZONE, partition="aws"
    )
    return NodeUnderTest(world, identity)


async def test_ordinary_instance_uses_ec2s_calls(world: World, tmp_path: Path) -> None:
    """Where there is no cluster, EC2's own calls attach, under a device name that is free."""
    world.use_policy(tmp_path, CLAIM)
    node = add_instance(world)
    await node.look(2)
    (volume,) = [one for one in world.cloud.volumes.values() if one.get_tags()]
    assert volume.attachment.device == "/dev/sdf"
    assert volume.attachment.instance.id == node.identity.instance_id
    assert world.aws.calls["AttachClusterNodeVolume"] == 0


SEVERAL = "classes: {a: {type: gp3}}\nvolumes:\n" + "".join(
    f"  - {{name: v{number}, claim: {{class: a, size: 1GiB}}, block: {{}}}}\n" for number in range(4)
)


async def test_volumes_of_one_look_get_names_of_their_own(world: World, tmp_path: Path) -> None:
    """Volumes that are attached in one look are asked for under different device names."""
    world.use_policy(tmp_path, SEVERAL)
    node = add_instance(world)
    await node.settle(4)
    names = [volume.attachment.device for volume in world.cloud.volumes.values() if volume.get_tags()]
    assert sorted(names) == ["/dev/sdf", "/dev/sdg", "/dev/sdh", "/dev/sdi"]
    assert world.aws.calls["AttachVolume"] == 4


async def test_name_of_a_volume_not_described_yet_is_taken(world: World, tmp_path: Path) -> None:
    """A name given a moment ago is given to no other volume, however long descriptions lag behind."""
    world.cloud.pace.lag_s, world.cloud.pace.clock = 20.0, lambda: world.time_s
    world.use_policy(tmp_path, SEVERAL)
    node = add_instance(world)
    world.cloud.note_change()
    world.devices.delay = True
    for _ in range(16):
        await node.look()
        node.time_s += 4
    assert world.aws.calls["AttachVolume"] == 4


async def test_name_that_is_in_use_is_the_next_name(world: World, tmp_path: Path) -> None:
    """Where EC2 says that a device name is in use, by what nobody can see, the next one is asked for."""
    world.use_policy(tmp_path, CLAIM)
    node = add_instance(world)
    mapping = world.cloud.ec2.get_instance(str(node.identity.instance_id)).block_device_mapping
    mapping["/dev/sdf"] = mapping["/dev/sdg"] = next(iter(mapping.values()))
    await node.settle(8, step_s=5)
    (volume,) = [one for one in world.cloud.volumes.values() if one.get_tags()]
    assert volume.attachment.device == "/dev/sdh"


async def test_order_takes_the_next_name_too(world: World) -> None:
    """So does an attach by hand."""
    node = add_instance(world)
    volume_id = VolumeId(world.cloud.make_volume())
    mapping = world.cloud.ec2.get_instance(str(node.identity.instance_id)).block_device_mapping
    mapping["/dev/sdf"] = next(iter(mapping.values()))

    async def tell(_text: str | None, _percent: float | None = None) -> None: ...

    follower = Follower(node.make, node.hands, tell, pause_s=0.01)

    def view() -> NodeView:
        return NodeView(node.identity, AttachApi.EC2, frozenset(node.hands.list_devices()))

    await VolumeOrders(follower, view).attach(volume_id)
    assert world.cloud.volumes[volume_id].attachment.device == "/dev/sdg"


async def test_many_suspects_are_asked_about_in_calls_ec2_takes(world: World) -> None:
    """EC2 takes 200 values for all filters of one call: of more instances, several calls ask."""
    node, other = add_instance(world), add_instance(world)
    world.cloud.ec2.get_instance(str(other.identity.instance_id))._state.name = "terminated"
    suspects = frozenset(f"i-{number:017x}" for number in range(450)) | {str(other.identity.instance_id)}
    gone = await find_gone(node.make, NodeView(node.identity, AttachApi.EC2), suspects)
    assert gone == {other.identity.instance_id}


@pytest.mark.parametrize(("state", "is_gone"), [("running", False), ("stopped", False), ("terminated", True)])
async def test_only_a_terminated_instance_is_gone(
    world: World, tmp_path: Path, state: str, *, is_gone: bool
) -> None:
    """A volume is taken from another instance only when EC2 itself says that it is terminated."""
    world.use_policy(tmp_path, SHARED)
    old, new = add_instance(world), add_instance(world)
    await old.look(2)
    holder = world.cloud.ec2.get_instance(str(old.identity.instance_id))
    holder._state.name = state
    findings = await new.look()
    assert (world.aws.calls["DetachVolume"] == 1) is is_gone
    if not is_gone:
        assert findings.endings["one"].reason is Reason.ATTACHED_ELSEWHERE


async def test_without_describe_instances_nothing_is_taken(world: World, tmp_path: Path) -> None:
    """Where EC2 may not be asked about the other instance, it is not gone."""
    world.use_policy(tmp_path, SHARED)
    old, new = add_instance(world), add_instance(world)
    await old.look(2)
    world.aws.faults.add(deny("DescribeInstances", "ec2:DescribeInstances"))
    findings = await new.look()
    assert findings.endings["one"].reason is Reason.PERMISSION_DENIED
    assert world.aws.calls["DetachVolume"] == 0


async def test_volume_for_a_cluster_needs_a_cluster(world: World, tmp_path: Path) -> None:
    """Ordinary instances of one account are no cluster: they share a volume by a name of the policy."""
    world.use_policy(tmp_path, CLAIM.replace("size: 1GiB", "size: 1GiB, per: cluster"))
    node = add_instance(world)
    findings = await node.look(2)
    assert "agent.cloud.cluster" in str(findings.endings["one"].hint)
    assert not world.cloud.made


async def test_clusters_of_ordinary_instances_are_separate(world: World, tmp_path: Path) -> None:
    """Two environments in one account each have their own volume, under their own names."""
    nodes = [add_instance(world), add_instance(world)]
    for node, name in zip(nodes, ("prod", "staging"), strict=True):
        world.use_policy(tmp_path, SHARED.replace("fleet", name))
        node.policy = world.policy
        await node.settle(4)
    assert len(world.cloud.made) == 2
    assert nodes[0].loop.findings.claimed != nodes[1].loop.findings.claimed
