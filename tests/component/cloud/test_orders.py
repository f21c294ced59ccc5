from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent.cloud.calls import ModifyVolume
from agent.cloud.decisions import AttachApi, NodeView
from agent.cloud.orders import NewVolume, Orders
from agent.errors import AgentError, ExitCode, RefusedError
from agent.model import VolumeId
from tests.aws.cloud import OTHER_ZONE
from tests.aws.faults import deny
from tests.aws.world import NodeUnderTest, World


def order(node: NodeUnderTest) -> Orders:
    def view() -> NodeView:
        return NodeView(node.identity, AttachApi.HYPERPOD, frozenset(node.hands.list_devices()))

    return Orders(node.make, node.hands, view, pause_s=0.01)


async def listen(progress: AsyncIterator[str]) -> list[str]:
    return [text async for text in progress]


async def test_attach_and_detach(world: World) -> None:
    """Attaching ends when the device is here, detaching when it is gone; both may be asked for twice."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    assert (await listen(order(node).attach(volume)))[-1] == f"{volume} is here."
    assert await listen(order(node).attach(volume)) == [f"{volume} is here."]
    assert (await listen(order(node).detach(volume)))[-1] == f"{volume} is detached."
    assert await listen(order(node).detach(volume)) == [f"{volume} is detached."]
    assert world.aws.calls["AttachClusterNodeVolume"] == world.aws.calls["DetachClusterNodeVolume"] == 1


async def test_detach_of_a_volume_in_use(world: World) -> None:
    """A volume in use is refused with who uses it; --force takes it all the same."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    await listen(order(node).attach(volume))
    node.hands.busy.add(volume)
    with pytest.raises(RefusedError, match="pid 4711") as raised:
        await listen(order(node).detach(volume))
    assert raised.value.exit_code is ExitCode.REFUSED
    assert "--force" in str(raised.value.hint)
    assert world.aws.calls["DetachClusterNodeVolume"] == 0
    await listen(order(node).detach(volume, is_forced=True))
    assert world.aws.calls["DetachClusterNodeVolume"] == 1


async def test_attach_that_cannot_be(world: World) -> None:
    """What waiting does not change ends the order at once: another zone, another holder, nothing there."""
    node = world.add_node(1)
    far = VolumeId(world.cloud.make_volume(zone=OTHER_ZONE))
    with pytest.raises(RefusedError, match="us-west-2b"):
        await listen(order(node).attach(far))
    taken = VolumeId(world.cloud.make_volume())
    await listen(order(world.add_node(2)).attach(taken))
    with pytest.raises(RefusedError, match="i-00000000000000002"):
        await listen(order(node).attach(taken))
    with pytest.raises(AgentError, match="AWS knows no vol-0123456789abcdef0"):
        await listen(order(node).attach(VolumeId("vol-0123456789abcdef0")))


async def test_create(world: World) -> None:
    """A volume made by hand lies in this zone and carries the agent's mark, and no claim's."""
    node = world.add_node(1)
    said = await listen(order(node).create(NewVolume(3, iops=4000, name="scratch")))
    (volume,) = world.cloud.volumes.values()
    assert said[-1] == f"{volume.id} is available in us-west-2a."
    tags = {tag["key"]: tag["value"] for tag in volume.get_tags()}
    assert tags == {"ebs-agent:made-by": "ebs-agent", "Name": "scratch"}


async def test_expand_shows_progress_and_never_shrinks(world: World) -> None:
    """Expanding follows the modification until the size is usable; smaller is refused, equal is done."""
    world.cloud.pace.modify_s = 0.2
    world.cloud.pace.optimize_s = 60
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume(2))
    said = await listen(order(node).expand(volume, 5 << 30))
    assert "being modified" in said[1]
    assert said[-1] == f"{volume} is optimizing; the change is usable."
    with pytest.raises(RefusedError, match="never shrink"):
        await listen(order(node).expand(volume, 1 << 30))
    with pytest.raises(AgentError, match="whole GiB"):
        await listen(order(node).expand(volume, (5 << 30) + 1))
    with pytest.raises(AgentError, match="is optimizing"):
        await listen(order(node).expand(volume, 9 << 30))
    assert world.aws.calls["ModifyVolume"] == 1


async def test_modification_that_changes_nothing_is_not_sent(world: World) -> None:
    """A class the volume has already costs no modification."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    assert "so already" in (await listen(order(node).modify(ModifyVolume(volume, type="gp3"))))[0]
    assert world.aws.calls["ModifyVolume"] == 0
    await listen(order(node).modify(ModifyVolume(volume, iops=5000)))
    assert world.cloud.volumes[volume].iops == 5000


async def test_snapshots_by_hand(world: World) -> None:
    """A snapshot is taken frozen, listed, and deleted only if the agent made it."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    foreign = world.cloud.ec2.create_snapshot(volume, "somebody's own").id
    said = await listen(order(node).snapshot(volume, is_frozen=True, is_awaited=True))
    assert node.hands.freezes == 1
    snapshot = said[0].split()[0]
    listed = await listen(order(node).list_snapshots(volume))
    assert {line.split()[0] for line in listed} == {snapshot, foreign}
    with pytest.raises(RefusedError, match="not made by the agent"):
        await listen(order(node).delete_snapshot(foreign))
    await listen(order(node).delete_snapshot(snapshot))
    assert list(world.cloud.ec2.snapshots) == [foreign]


async def test_freeze_ends_when_the_call_fails(world: World) -> None:
    """A snapshot AWS refuses leaves the filesystem thawed."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    world.aws.faults.add(deny("CreateSnapshot", "ec2:CreateSnapshot"))
    with pytest.raises(AgentError, match="ec2:CreateSnapshot is missing"):
        await listen(order(node).snapshot(volume, is_frozen=True, is_awaited=False))
    assert node.hands.freezes == 1
    assert not node.hands.is_frozen
