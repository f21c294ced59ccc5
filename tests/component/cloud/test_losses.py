"""A claim's volume that goes away by other hands: told, made anew once, and never again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.model import Reason
from agent.core.steps import Refuse
from tests.aws.world import NodeUnderTest, World

CLAIM = """
classes:
  fast: {type: gp3}
volumes:
  - {name: ckpt, claim: {class: fast, size: 5GiB}, block: {}}
"""
ENCRYPTED = CLAIM.replace("type: gp3", "type: gp3, kms_key_id: alias/broken")


def delete_volume(world: World, volume: str) -> None:
    """Delete a claim's volume as a person would in the console."""
    world.cloud.volumes[volume].hold([])
    for devices in world.devices.here.values():
        devices.discard(volume)
    world.cloud.ec2.delete_volume(volume)


async def pass_hours(node: NodeUnderTest, hours: float = 2) -> None:
    until_s = node.time_s + hours * 3600
    while node.time_s < until_s:
        await node.look()
        node.time_s += 60


@pytest.mark.parametrize("is_restarted", [False, True], ids=["running", "restarted"])
async def test_deleted_volume_is_told_and_made_anew_once(
    world: World, tmp_path: Path, *, is_restarted: bool
) -> None:
    """A volume deleted by others is told, another made once; when that goes too, a person has to say so."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    first = (await node.settle()).claimed["ckpt"]
    delete_volume(world, first)
    if is_restarted:
        node.restart()
    await pass_hours(node)
    assert len(world.cloud.made) == 2
    second = node.loop.findings.claimed["ckpt"]
    assert second in node.hands.list_devices()
    assert first in node.loop.findings.notices["ckpt"].message
    assert ("volume.gone", first) in node.events
    delete_volume(world, second)
    if is_restarted:
        node.restart()
    await pass_hours(node)
    assert len(world.cloud.made) == 2, "no volume is made again and again"
    refusal = node.loop.findings.endings["ckpt"]
    assert isinstance(refusal, Refuse)
    assert first in refusal.message
    assert second in refusal.message
    world.use_policy(tmp_path, CLAIM)
    node.policy = world.policy  # a person reloads
    await node.settle()
    assert len(world.cloud.made) == 3
    assert not node.loop.findings.notices


async def test_volume_deleted_while_the_node_was_away(world: World, tmp_path: Path) -> None:
    """Tokens that deleted volumes have used up are passed over at once, and nothing false is told."""
    world.use_policy(tmp_path, CLAIM)
    for number in range(1, 4):
        node = world.add_node(number, "compute-1")
        claimed = (await node.settle(6, step_s=5)).claimed["ckpt"]
        world.cloud.remove_node(str(node.identity.instance_id))
        world.cloud.ec2.delete_volume(claimed)
    assert len(world.cloud.made) == 3


async def test_vanishing_volume_names_the_key(world: World, tmp_path: Path) -> None:
    """A volume AWS answers for and drops, as it does where a KMS key may not be used, names that key."""
    world.cloud.broken_keys.add("alias/broken")
    world.use_policy(tmp_path, ENCRYPTED)
    node = world.add_node(1)
    for _ in range(6):
        await node.look()
        node.time_s += 10
    assert "KMS key alias/broken" in node.loop.findings.endings["ckpt"].message
    await pass_hours(node)
    assert len(world.cloud.made) == 2
    assert isinstance(node.loop.findings.endings["ckpt"], Refuse)
    assert "kms:CreateGrant" in str(node.loop.findings.endings["ckpt"].hint)
    world.cloud.broken_keys.clear()
    world.use_policy(tmp_path, ENCRYPTED)
    node.policy = world.policy
    await node.settle()
    assert not node.loop.findings.notices


async def test_disowned_volume_is_not_replaced(world: World, tmp_path: Path) -> None:
    """Where somebody takes the tags of a claim's volume away, no blank one is put in its place."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    world.cloud.volumes[volume].add_tags({"ebs-agent:claim": "else"})
    node.restart()
    await pass_hours(node)
    assert len(world.cloud.made) == 1
    assert volume in node.loop.findings.notices.get("ckpt", node.loop.findings.endings.get("ckpt")).message  # type: ignore[union-attr]  # one of both has to be there


async def test_volume_that_is_doubted_is_not_recalled(world: World, tmp_path: Path) -> None:
    """What AWS said last counts when it does not answer: no marks, or several volumes with them."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    marks = {tag["key"]: tag["value"] for tag in world.cloud.volumes[volume].get_tags()}
    node.restart()
    assert node.loop.findings.claimed == {"ckpt": volume}
    world.cloud.volumes[volume].add_tags({"ebs-agent:claim": "else"})
    await pass_hours(node)
    node.restart()
    assert node.loop.findings.claimed == {}
    world.cloud.volumes[volume].add_tags(marks)
    await node.settle()
    node.restart()
    assert node.loop.findings.claimed == {"ckpt": volume}
    other = world.cloud.make_volume(5, tags=marks)
    for one in (volume, other):
        world.cloud.volumes[one].hold([])
        world.devices.detach(one, str(node.identity.instance_id))
    await node.look()
    node.restart()
    assert node.loop.findings.claimed == {}


async def test_second_volume_with_the_same_tags_is_told(world: World, tmp_path: Path) -> None:
    """The volume that is here is used on, and the other one is named."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    tags = {tag["key"]: tag["value"] for tag in world.cloud.volumes[volume].get_tags()}
    other = world.cloud.make_volume(5, tags=tags)
    node.restart()
    findings = await node.look(3)
    assert findings.claimed["ckpt"] == volume
    assert findings.notices["ckpt"].reason is Reason.SEVERAL_VOLUMES
    assert other in findings.notices["ckpt"].message
