"""One entry of AWS's answer that cannot be read: it stands for itself, and all else goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cloud.aws.call import Call
from agent.core.model import VolumeId
from tests.aws.world import NodeUnderTest, World

Spoil = Callable[[dict[str, Any]], None]

CLAIM = """
classes: {a: {type: gp3}}
volumes:
  - {name: own, claim: {class: a, size: 1GiB, on_delete: delete}, block: {}}
"""
SPOILS: dict[str, Spoil] = {
    "no size": lambda entry: entry.pop("Size"),
    "state of no text": lambda entry: entry.update(State={"a": []}),
    "tag that is none": lambda entry: entry.update(Tags=[{"Key": "k", "Value": 7}]),
    "attachment that is none": lambda entry: entry.update(Attachments=[None]),
    "far too many tags": lambda entry: entry.update(Tags=[{"Key": "k", "Value": "v"}] * 5000),
    "no ID": lambda entry: entry.update(VolumeId="vol-x"),
}
spoils = pytest.mark.parametrize("spoil", SPOILS.values(), ids=list(SPOILS))


def spoil_answers(node: NodeUnderTest, about: str | None, spoil: Spoil, kind: str = "Volume") -> None:
    """Have entries about a volume, or snapshot, come spoilt from now on; None: none any more."""

    def change(_call: Call[Any], answer: dict[str, Any]) -> None:
        for entry in answer.get(f"{kind}s", ()):
            if entry[f"{kind}Id"] == about:
                spoil(entry)

    node.spoil = change


def name_volumes(world: World, tmp_path: Path, *volumes: str) -> None:
    entries = [
        f"  - {{name: v{n}, match: {{volume_id: {one}}}, block: {{}}}}\n" for n, one in enumerate(volumes)
    ]
    world.use_policy(tmp_path, "volumes:\n" + "".join(entries))


@spoils
async def test_the_others_go_on(world: World, tmp_path: Path, spoil: Spoil) -> None:
    """What can be read is attached; what cannot is told by its ID, and comes once it can be read."""
    bad, good = world.cloud.make_volume(), world.cloud.make_volume()
    name_volumes(world, tmp_path, bad, good)
    node = world.add_node(1)
    spoil_answers(node, bad, spoil)
    findings = await node.look(3)
    assert node.hands.list_devices().keys() == {good}
    assert list(findings.endings) == ["v0"]
    assert "cannot be read" in findings.endings["v0"].message
    node.spoil = lambda _call, _answer: None
    await node.settle(30)
    assert node.hands.list_devices().keys() == {bad, good}


@spoils
async def test_claimed_volume_is_neither_gone_nor_made_anew(
    world: World, tmp_path: Path, spoil: Spoil
) -> None:
    """However long its answer cannot be read, and over a restart, no other is made and none is told lost."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    await node.settle()
    (own,) = world.cloud.volumes
    spoil_answers(node, own, spoil)
    for _ in range(20):
        node.time_s += 300
        findings = await node.look()
        assert findings.claimed == {"own": own}, "what was found out before still holds"
        assert "cannot be read" in findings.notices["own"].message
    node.restart()
    for _ in range(20):
        node.time_s += 300
        await node.look()
        assert node.loop.findings.claimed == {"own": own}, "a restart forgets nothing of it"
    assert world.cloud.made == [own]
    node.spoil = lambda _call, _answer: None
    node.time_s += 900
    await node.settle(30)
    assert not node.loop.findings.notices
    assert node.events.count(("volume.gone", VolumeId(own))) == 0


@spoils
async def test_nothing_is_made_beside_what_cannot_be_read(world: World, tmp_path: Path, spoil: Spoil) -> None:
    """A new process that knows of no volume takes one that bears its marks for what it may be: its own."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    await node.settle()
    (own,) = world.cloud.volumes
    node.store.content = None
    node.restart()
    spoil_answers(node, own, spoil)
    for _ in range(20):
        node.time_s += 300
        await node.look()
    assert world.aws.calls["CreateVolume"] == 1


@spoils
async def test_origin_that_cannot_be_read_is_not_unknown_to_aws(
    world: World, tmp_path: Path, spoil: Spoil
) -> None:
    """It is waited for however long it takes: AWS does know the volume, and may call it a copy."""
    volume = world.cloud.make_volume()
    name_volumes(world, tmp_path, volume)
    node = world.add_node(1)
    world.devices.here[str(node.identity.instance_id)] = {volume}
    spoil_answers(node, volume, spoil)
    for _ in range(20):
        node.time_s += 300
        await node.look()
    findings = node.loop.findings
    assert findings.unread == {volume}
    assert not findings.untold
    assert not findings.origins


@spoils
async def test_what_cannot_be_read_is_not_deleted(world: World, tmp_path: Path, spoil: Spoil) -> None:
    """A volume whose claim is gone stays until it can be read whose it is."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    await node.settle()
    (own,) = world.cloud.volumes
    world.use_policy(tmp_path, "volumes: []\n")
    node.policy = world.policy
    await node.look(2)
    spoil_answers(node, own, spoil)
    node.now += timedelta(days=3)
    for _ in range(20):
        node.time_s += 300
        await node.look()
    assert list(world.cloud.volumes) == [own]
    assert not world.aws.calls["DeleteVolume"]
    node.spoil = lambda _call, _answer: None
    for _ in range(20):
        node.time_s += 300
        await node.look()
    assert not world.cloud.volumes


async def test_snapshot_that_cannot_be_read_stays(world: World, tmp_path: Path) -> None:
    """It is not deleted, the others are, and one is taken for each time: not again and again."""
    more = ', snapshots: {schedule: "0 * * * *", keep: 2}'
    world.use_policy(tmp_path, CLAIM.replace(", block: {}", f", block: {{}}{more}"))
    node = world.add_node(1)
    await node.settle()
    (first,) = world.cloud.ec2.snapshots
    spoil_answers(node, first, lambda entry: entry.pop("StartTime"), "Snapshot")
    for _ in range(6):
        node.now += timedelta(hours=1)
        for _ in range(10):
            node.time_s += 360
            node.now += timedelta(minutes=1)
            await node.look()
    await node.look(3)
    assert first in world.cloud.ec2.snapshots
    assert len(world.cloud.ec2.snapshots) == 3, "two are kept beside it"
    assert world.aws.calls["CreateSnapshot"] <= 14, "each is tried out before"
    assert first in node.loop.findings.notices["own"].message


async def test_new_snapshot_that_cannot_be_read_is_taken_once_a_time(world: World, tmp_path: Path) -> None:
    """One that was taken just now and cannot be read is the one for its time."""
    more = ', snapshots: {schedule: "0 * * * *", keep: 2}'
    world.use_policy(tmp_path, CLAIM.replace(", block: {}", f", block: {{}}{more}"))
    node = world.add_node(1)
    await node.settle()
    assert len(world.cloud.ec2.snapshots) == 1

    def spoil(_call: Call[Any], answer: dict[str, Any]) -> None:
        for entry in answer.get("Snapshots", ()):
            entry.pop("StartTime")

    node.spoil = spoil
    node.now += timedelta(hours=1)
    for _ in range(30):
        node.time_s += 360
        node.now += timedelta(minutes=1)
        await node.look()
    assert len(world.cloud.ec2.snapshots) == 2, "one for each time"
    assert "cannot be read" in node.loop.findings.notices["own"].message
