"""What is shown of the calls to come is what is decided, and what is then asked of AWS."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from agent.cloud.aws.call import Change
from agent.core.model import NextCall
from tests.aws.faults import deny
from tests.aws.world import NodeUnderTest, World
from tests.component.cloud.test_upkeep import write

HOURLY = 'snapshots: {schedule: "0 * * * *", keep: 2}'


def list_calls(node: NodeUnderTest) -> dict[str, NextCall]:
    return {call.operation: call for call in node.loop.findings.calls}


def list_changes(node: NodeUnderTest) -> list[Change[Any]]:
    return [call for call in node.made if isinstance(call, Change)]


async def test_what_aws_refuses_is_still_to_be_done(world: World, tmp_path: Path) -> None:
    """A call that was refused is shown with AWS's reason, also while it rests, and gone once it was made."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    for operation, action in (
        ("CreateVolume", "ec2:CreateVolume"),
        ("AttachClusterNodeVolume", "sagemaker:AttachClusterNodeVolume"),
    ):
        world.aws.faults.add(deny(operation, action))
        await node.look(6)
        (call,) = node.loop.findings.calls
        assert call.operation == operation
        assert call.why is not None
        assert action in call.why
        assert call.entry == "ckpt"
        world.aws.faults.clear()
        node.time_s += 3600
        await node.look()
        assert call.text in {made.describe() for made in list_changes(node)}
    await node.settle()
    assert not node.loop.findings.calls


async def test_change_that_has_to_wait_is_shown(world: World, tmp_path: Path) -> None:
    """While a volume takes no other modification, the one it is to have is shown with what it waits for."""
    world.cloud.pace.modify_s = world.cloud.pace.optimize_s = 600
    world.cloud.pace.clock = lambda: world.time_s
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    await node.settle()
    for size in ("6GiB", "7GiB"):
        world.use_policy(tmp_path, write(size=size))
        node.policy = world.policy
        await node.look(3)
    call = list_calls(node)["ModifyVolume"]
    assert "7 GiB" in call.text
    assert "has to wait" in (call.why or "")
    assert call.volume_id == node.loop.findings.claimed["ckpt"]
    node.time_s += 7200
    await node.look(2)
    assert call.text in {made.describe() for made in list_changes(node)}


async def test_next_snapshot_is_shown_with_its_time(world: World, tmp_path: Path) -> None:
    """The next one is shown with the minute it is due at, and taken then; a refused one stays shown."""
    world.use_policy(tmp_path, write(more=HOURLY))
    node = world.add_node(1)
    await node.settle()
    await node.look(3)
    call = list_calls(node)["CreateSnapshot"]
    assert call.at == node.now.replace(minute=0) + timedelta(hours=1)
    taken = world.aws.calls["CreateSnapshot"]
    node.now = call.at - timedelta(seconds=1)
    await node.look(2)
    assert world.aws.calls["CreateSnapshot"] == taken
    node.now = call.at
    world.aws.faults.add(deny("CreateSnapshot", "ec2:CreateSnapshot"))
    await node.look(2)
    assert list_calls(node)["CreateSnapshot"].at == call.at
    world.aws.faults.clear()
    node.time_s += 3600
    await node.look()
    assert world.aws.calls["CreateSnapshot"] == taken + 1
    assert list_calls(node)["CreateSnapshot"].at == call.at + timedelta(hours=1)


async def test_deletion_is_shown_with_its_time(world: World, tmp_path: Path) -> None:
    """What is to be deleted is shown from the look that finds it on, and deleted then."""
    world.use_policy(tmp_path, write(on_delete="delete"))
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    world.use_policy(tmp_path, "volumes: []\n")
    node.policy = world.policy
    await node.look(2)
    call = list_calls(node)["DeleteVolume"]
    assert call.volume_id == volume
    assert call.at == node.now + timedelta(days=1)
    node.now = call.at
    await node.look(6)
    assert not world.cloud.volumes
    assert not node.loop.findings.calls
