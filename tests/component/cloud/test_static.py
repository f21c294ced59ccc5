from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from agent.cloud.identity.whoami import CloudIdentity
from agent.core.model import Reason
from tests.aws.cloud import OTHER_ZONE
from tests.aws.faults import deny
from tests.aws.world import World

BY_TAG = """
volumes:
  - {name: db, match: {tags: {role: db}}, block: {}}
"""


def by_id(volume: str) -> str:
    return f"volumes:\n  - {{name: db, match: {{volume_id: {volume}}}, block: {{}}}}\n"


async def test_named_volume_is_attached(world: World, tmp_path: Path) -> None:
    """A volume named by ID is attached, and nothing is made or changed."""
    world.use_policy(tmp_path, by_id(world.cloud.make_volume()))
    node = world.add_node(1)
    await node.settle()
    changes = {name for name in world.aws.calls if not name.startswith(("Describe", "List"))}
    assert changes == {"AttachClusterNodeVolume"}


async def test_first_attached_wins(world: World, tmp_path: Path) -> None:
    """Of several nodes that want one volume by its tags one has it, and the others say which."""
    world.cloud.make_volume(tags={"role": "db"})
    world.use_policy(tmp_path, BY_TAG)
    nodes = [world.add_node(number) for number in (1, 2)]
    for _ in range(3):
        for node in nodes:
            await node.look()
    ending = nodes[1].loop.findings.endings["db"]
    assert ending.reason is Reason.ATTACHED_ELSEWHERE
    assert str(nodes[0].identity.instance_id) in ending.message


async def test_each_node_takes_one(world: World, tmp_path: Path) -> None:
    """As many volumes with the tag as nodes: each gets one, none gets two."""
    for _ in range(3):
        world.cloud.make_volume(tags={"role": "db"})
    world.use_policy(tmp_path, BY_TAG)
    nodes = [world.add_node(number) for number in (1, 2, 3)]
    for _ in range(6):
        for node in nodes:
            await node.look()
            node.time_s += 60
    assert [len(node.hands.list_devices()) for node in nodes] == [1, 1, 1]


async def test_csi_volume_is_left_alone(world: World, tmp_path: Path) -> None:
    """A volume of the CSI driver is refused by name, and never found by tags."""
    csi = {"role": "db", "ebs.csi.aws.com/cluster": "true", "CSIVolumeName": "pvc-1"}
    volume = world.cloud.make_volume(tags=csi)
    world.use_policy(tmp_path, by_id(volume))
    node = world.add_node(1)
    assert (await node.look()).endings["db"].reason is Reason.MANAGED_BY_CSI
    world.use_policy(tmp_path, BY_TAG)
    node.policy = world.policy
    assert (await node.look()).endings["db"].reason is Reason.NOT_ATTACHED
    assert world.aws.calls["AttachClusterNodeVolume"] == 0


async def test_wrong_zone_is_told_before_the_call(world: World, tmp_path: Path) -> None:
    """A volume in another zone is not even asked for."""
    world.use_policy(tmp_path, by_id(world.cloud.make_volume(zone=OTHER_ZONE)))
    findings = await world.add_node(1).look()
    assert findings.endings["db"].reason is Reason.WRONG_ZONE
    assert world.aws.calls["AttachClusterNodeVolume"] == 0


async def test_attachment_limit_is_told(world: World, tmp_path: Path) -> None:
    """EC2's code inside HyperPod's ValidationException becomes the condition."""
    world.cloud.attachment_limit = 0
    world.use_policy(tmp_path, by_id(world.cloud.make_volume()))
    findings = await world.add_node(1).look()
    assert findings.endings["db"].reason is Reason.ATTACHMENT_LIMIT


async def test_attach_is_watched_until_the_device_is_here(world: World, tmp_path: Path) -> None:
    """An attachment AWS reports is not believed before the device is here."""
    volume = world.cloud.make_volume()
    world.use_policy(tmp_path, by_id(volume))
    node = world.add_node(1)
    await node.look()
    world.devices.here.clear()
    findings = await node.look()
    assert "its device is not here yet" in findings.endings["db"].message
    assert world.aws.calls["AttachClusterNodeVolume"] == 1


async def test_unknown_volume_is_told(world: World, tmp_path: Path) -> None:
    """An ID nobody has is said to be unknown, and not attached over and over."""
    world.use_policy(tmp_path, by_id("vol-0123456789abcdef0"))
    findings = await world.add_node(1).look(3)
    assert "AWS knows no vol-0123456789abcdef0" in findings.endings["db"].message
    assert world.aws.calls["AttachClusterNodeVolume"] == 0


async def test_failing_looks_are_told_once(world: World, tmp_path: Path) -> None:
    """The same denial, look after look, is one line in the log, and published even where it tells nothing."""
    volume = world.cloud.make_volume()
    world.use_policy(tmp_path, by_id(volume))
    world.aws.faults.add(deny("DescribeVolumes", "ec2:DescribeVolumes"))
    node = world.add_node(1)
    node.identity = CloudIdentity()
    with capture_logs() as logs:
        await node.look(3)
    assert [line["event"] for line in logs] == ["cloud.denied"]
    assert len(node.published) == 1
    assert node.published[0].endings["db"].reason is Reason.PERMISSION_DENIED
