from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.model import Reason
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from tests.aws.cloud import OTHER_ZONE
from tests.aws.faults import Fault, Kind, deny, throttle
from tests.aws.world import World

CLAIM = """
classes:
  fast: {type: gp3, iops: 6000, throughput: 500, tags: {team: "of {instance_name}"}}
volumes:
  - name: ckpt
    claim: {class: fast, size: 5GiB, per: node}
    filesystem: {type: ext4, format: if-blank}
    mount: {path: /data/ckpt}
"""
SHARED = CLAIM.replace("per: node", "per: cluster")


async def test_claim_is_made_attached_and_found(world: World, tmp_path: Path) -> None:
    """A claim's volume is made to its class, tagged, attached, and told to the node half by its entry."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    findings = await node.settle()
    (volume,) = world.cloud.volumes.values()
    assert findings.claimed == {"ckpt": volume.id}
    assert (volume.size, volume.volume_type, volume.iops, volume.throughput) == (5, "gp3", 6000, 500)
    tags = dict(findings.origins[volume.id].tags)
    assert tags["team"] == "of compute-1"
    assert tags["ebs-agent:claim"] == "ckpt"
    assert volume.id in node.hands.list_devices()


async def test_settled_node_asks_once(world: World, tmp_path: Path) -> None:
    """A node whose volumes are all here asks one DescribeVolumes a look, whatever their number."""
    world.use_policy(
        tmp_path,
        "classes: {a: {type: gp3}}\nvolumes:\n"
        + "".join(f"  - {{name: v{i}, claim: {{class: a, size: 1GiB}}, block: {{}}}}\n" for i in range(28)),
    )
    world.cloud.attachment_limit = 30
    node = world.add_node(1)
    await node.settle(20)
    await node.look()
    world.aws.calls.clear()
    await node.look()
    assert dict(world.aws.calls) == {"DescribeVolumes": 1}


@pytest.mark.parametrize("operation", ["CreateVolume", "AttachClusterNodeVolume"])
async def test_lost_answer_makes_nothing_twice(world: World, tmp_path: Path, operation: str) -> None:
    """A call whose answer is lost is found done at the next look."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    world.aws.faults.add(Fault(operation, Kind.LOST_ANSWER))
    await node.settle()
    assert len(world.cloud.volumes) == 1


@pytest.mark.parametrize(
    "fault",
    [
        throttle("CreateVolume", 2),
        throttle("AttachClusterNodeVolume", 4),
        Fault("CreateVolume", times=4),
        Fault("DescribeVolumes", times=4),
        Fault("AttachClusterNodeVolume", code="ThrottlingException", status=400, times=4),
        Fault("CreateVolume", Kind.SILENCE, times=2),
    ],
    ids=lambda fault: f"{fault.operation}-{fault.code}-{fault.kind.value}",
)
async def test_faults_pass(world: World, tmp_path: Path, fault: Fault) -> None:
    """Throttling, failures of AWS and silence delay a claim, and end with one volume."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    world.aws.faults.add(fault)
    await node.settle(20)
    assert len(world.cloud.volumes) == 1


async def test_denied_call_names_the_statement(world: World, tmp_path: Path) -> None:
    """What is denied is told in a sentence with the action, the role, and the place to allow it."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    world.aws.faults.add(deny("CreateVolume", "ec2:CreateVolume"))
    findings = await node.look()
    ending = findings.endings["ckpt"]
    assert ending.reason is Reason.PERMISSION_DENIED
    assert "ec2:CreateVolume is missing" in ending.message
    assert "assumed-role/hyperpod-execution" in ending.message
    assert "execution role" in str(ending.hint)
    assert "gibberish" not in ending.message
    calls = world.aws.calls["CreateVolume"]
    await node.look(5)
    assert world.aws.calls["CreateVolume"] == calls  # it rests, and does not spin


async def test_without_describe_everything_waits(world: World, tmp_path: Path) -> None:
    """Without ec2:DescribeVolumes nothing is made or attached, and the entry says what is missing."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    world.aws.faults.add(deny("DescribeVolumes", "ec2:DescribeVolumes"))
    findings = await node.look(3)
    assert "ec2:DescribeVolumes" in findings.endings["ckpt"].message
    assert not world.cloud.volumes


async def test_replacement_takes_its_volumes_over(world: World, tmp_path: Path) -> None:
    """The instance that replaces another under the same name gets its volume, once AWS let go of it."""
    world.use_policy(tmp_path, CLAIM)
    old = world.add_node(1, "compute-1")
    before = await old.settle()
    world.cloud.remove_node(str(old.identity.instance_id))
    new = world.add_node(2, "compute-1")
    after = await new.settle()
    assert after.claimed == before.claimed
    assert len(world.cloud.volumes) == 1


async def test_volume_is_detached_from_an_instance_proven_gone(world: World, tmp_path: Path) -> None:
    """A volume AWS still shows attached to the replaced instance is detached from it, then taken over."""
    world.use_policy(tmp_path, CLAIM)
    old = world.add_node(1, "compute-1")
    before = await old.settle()
    world.cloud.remove_node(str(old.identity.instance_id), keeps_attachments=True)
    new = world.add_node(2, "compute-1")
    after = await new.settle()
    assert after.claimed == before.claimed
    assert world.aws.calls["DetachClusterNodeVolume"] == 1


async def test_volume_is_not_taken_from_a_living_instance(world: World, tmp_path: Path) -> None:
    """A volume is never detached from an instance the cluster still lists, even one of the same name."""
    world.use_policy(tmp_path, CLAIM)
    await world.add_node(1, "compute-1").settle()
    twin = world.add_node(2, "compute-1")
    findings = await twin.look(4)
    assert findings.endings["ckpt"].reason is Reason.ATTACHED_ELSEWHERE
    assert "i-00000000000000001" in findings.endings["ckpt"].message
    assert world.aws.calls["DetachClusterNodeVolume"] == 0


@pytest.mark.parametrize(
    "fault",
    [
        deny("ListClusterNodes", "sagemaker:ListClusterNodes"),
        deny("DescribeClusterNode", "sagemaker:DescribeClusterNode"),
    ],
    ids=["list", "describe"],
)
async def test_nothing_is_taken_without_proof(world: World, tmp_path: Path, fault: Fault) -> None:
    """Where AWS cannot be asked whether the other instance is gone, it is not gone."""
    world.use_policy(tmp_path, CLAIM)
    old = world.add_node(1, "compute-1")
    await old.settle()
    world.cloud.remove_node(str(old.identity.instance_id), keeps_attachments=True)
    new = world.add_node(2, "compute-1")
    world.aws.faults.add(fault)
    await new.look(3)
    assert world.aws.calls["DetachClusterNodeVolume"] == 0
    assert new.loop.findings.endings["ckpt"].reason is Reason.PERMISSION_DENIED


async def test_cluster_wide_claim_is_one_volume(world: World, tmp_path: Path) -> None:
    """Nodes that claim one volume for the cluster make one; the first has it, the others say who."""
    world.use_policy(tmp_path, SHARED.replace('"of {instance_name}"', "x"))
    nodes = [world.add_node(number) for number in (1, 2, 3)]
    for _ in range(4):
        for node in nodes:
            await node.look()
    assert len(world.cloud.volumes) == 1
    (volume,) = world.cloud.volumes.values()
    holder = volume.emulated[0].holder
    for node in nodes:
        if node.identity.instance_id != holder:
            assert holder in node.loop.findings.endings["ckpt"].message


async def test_cluster_wide_claim_in_another_zone(world: World, tmp_path: Path) -> None:
    """A node in another zone makes no second volume; it says where the volume is."""
    world.use_policy(tmp_path, SHARED)
    await world.add_node(1).settle()
    far = world.add_node(2, zone=OTHER_ZONE)
    findings = await far.look(3)
    assert isinstance(findings.endings["ckpt"], Wait)
    assert len(world.cloud.volumes) == 1


async def test_two_volumes_of_one_claim_are_refused(world: World, tmp_path: Path) -> None:
    """Tags of one claim on two volumes: neither is chosen, both are named."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    tags = {
        "ebs-agent:made-by": "ebs-agent",
        "ebs-agent:cluster": "abcde01234yz",
        "ebs-agent:claim": "ckpt",
        "ebs-agent:node": "compute-1",
    }
    volumes = [world.cloud.make_volume(tags=tags) for _ in range(2)]
    findings = await node.look()
    ending = findings.endings["ckpt"]
    assert isinstance(ending, Refuse)
    assert all(volume in ending.message for volume in volumes)
    assert world.aws.calls["AttachClusterNodeVolume"] == 0


async def test_deleted_volume_is_made_anew(world: World, tmp_path: Path) -> None:
    """When somebody deletes a claim's volume, the token it was made under is not used again."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    first = (await node.settle()).claimed["ckpt"]
    world.cloud.remove_node(str(node.identity.instance_id))
    world.cloud.ec2.delete_volume(first)
    again = world.add_node(2, "compute-1")
    second = (await again.settle()).claimed["ckpt"]
    assert first != second


async def test_nameless_node_makes_nothing(world: World, tmp_path: Path) -> None:
    """A node whose name in the cluster is not known makes no volume for it."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    node.identity = replace(node.identity, instance_name=None)
    findings = await node.look(2)
    assert "instance name is not known" in findings.endings["ckpt"].message
    assert not world.cloud.volumes
