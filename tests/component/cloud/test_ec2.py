from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from agent.cloud.whoami import CloudIdentity
from agent.model import Reason
from tests.aws.cloud import ACCOUNT, REGION, ZONE
from tests.aws.faults import deny
from tests.aws.world import NodeUnderTest, World

CLAIM = """
classes: {a: {type: gp3}}
volumes:
  - {name: one, claim: {class: a, size: 1GiB}, block: {}}
"""


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


@pytest.mark.parametrize(("state", "is_gone"), [("running", False), ("stopped", False), ("terminated", True)])
async def test_only_a_terminated_instance_is_gone(
    world: World, tmp_path: Path, state: str, *, is_gone: bool
) -> None:
    """A volume is taken from another instance only when EC2 itself says that it is terminated."""
    world.use_policy(tmp_path, CLAIM.replace("size: 1GiB", "size: 1GiB, per: cluster"))
    old, new = add_instance(world), add_instance(world)
    await old.look(2)
    holder = world.cloud.ec2.get_instance(str(old.identity.instance_id))
    holder._state.name = state
    findings = await new.look()
    assert (world.aws.calls["DetachVolume"] == 1) is is_gone
    if not is_gone:
        assert findings.verdicts["one"].reason is Reason.ATTACHED_ELSEWHERE


async def test_without_describe_instances_nothing_is_taken(world: World, tmp_path: Path) -> None:
    """Where EC2 may not be asked about the other instance, it is not gone."""
    world.use_policy(tmp_path, CLAIM.replace("size: 1GiB", "size: 1GiB, per: cluster"))
    old, new = add_instance(world), add_instance(world)
    await old.look(2)
    world.aws.faults.add(deny("DescribeInstances", "ec2:DescribeInstances"))
    findings = await new.look()
    assert findings.verdicts["one"].reason is Reason.PERMISSION_DENIED
    assert world.aws.calls["DetachVolume"] == 0
