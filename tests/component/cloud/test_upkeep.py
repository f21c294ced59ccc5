from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.model import Reason
from agent.core.steps import Refuse
from tests.aws.faults import Fault, Kind, deny
from tests.aws.world import World

POLICY = """
classes:
  fast: {{type: {type}, iops: {iops}, tags: {{tier: "{tier}"}}}}
volumes:
  - name: ckpt
    claim: {{class: fast, size: {size}, on_delete: {on_delete}}}
    filesystem: {{type: ext4, format: if-blank}}
    mount: {{path: /data/ckpt}}
    {more}
"""


def write(**words: str) -> str:
    defaults = {"type": "gp3", "iops": "3000", "tier": "a", "size": "5GiB", "on_delete": "retain", "more": ""}
    return POLICY.format(**{**defaults, **words})


def read_tags(resource: Any) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in resource.get_tags()}


SNAPSHOTS = 'snapshots: {schedule: "0 * * * *", keep: 2, freeze: true}'


async def test_snapshots_that_cannot_be_proven_do_not_pile_up(world: World, tmp_path: Path) -> None:
    """Without ec2:CreateTags none can be marked as frozen: few are begun for a tick, and few are kept."""
    world.use_policy(tmp_path, write(more=SNAPSHOTS))
    node = world.add_node(1)
    world.aws.faults.add(deny("CreateTags", "ec2:CreateTags"))
    for _ in range(5):
        node.now += timedelta(hours=1)
        for _ in range(12):
            await node.look()
            node.time_s += 300
    taken = [read_tags(one)["ebs-agent:tick"] for one in world.cloud.ec2.snapshots.values()]
    assert len(taken) <= 4, "those of the last tick, and two ticks before it"
    assert world.aws.calls["CreateSnapshot"] <= 2 * 6
    assert "never provably" in node.loop.findings.notices["ckpt"].message


async def test_change_that_waits_keeps_no_snapshot_waiting(world: World, tmp_path: Path) -> None:
    """A modification AWS puts off for hours is one concern of a volume, its snapshots are another."""
    world.cloud.pace.modifications_a_day = 1
    world.use_policy(tmp_path, write(more=SNAPSHOTS))
    node = world.add_node(1)
    await node.settle()
    for size in ("6GiB", "7GiB"):
        world.use_policy(tmp_path, write(size=size, more=SNAPSHOTS))
        node.policy = world.policy
        await node.look(3)
    assert "modify it again at 20" in node.loop.findings.notices["ckpt"].message
    before = len(world.cloud.ec2.snapshots)
    node.now += timedelta(hours=1)
    await node.look(2)
    assert len(world.cloud.ec2.snapshots) == before + 1


async def test_denied_proof_of_one_claim_keeps_no_other_waiting(world: World, tmp_path: Path) -> None:
    """That it may not be asked whether another instance is gone is told of the claim it matters to alone."""
    world.use_policy(tmp_path, write())
    old = world.add_node(1, "compute-1")
    await old.settle()
    world.cloud.remove_node(str(old.identity.instance_id), keeps_attachments=True)
    world.aws.faults.add(deny("ListClusterNodes", "sagemaker:ListClusterNodes"))
    more = "\n  - {name: other, claim: {class: fast, size: 1GiB}, block: {}}\n"
    world.use_policy(tmp_path, write() + more)
    new = world.add_node(2, "compute-1")
    findings = await new.look(4)
    assert findings.endings.keys() == {"ckpt"}
    assert findings.endings["ckpt"].reason is Reason.PERMISSION_DENIED
    assert findings.claimed["other"] in new.hands.list_devices()
    assert world.aws.calls["ListClusterNodes"] == 1, "what is denied rests"


async def test_bigger_size_modifies_and_grows(world: World, tmp_path: Path) -> None:
    """A bigger size in the policy is one ModifyVolume, and the device grows."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    world.use_policy(tmp_path, write(size="8GiB"))
    node.policy = world.policy
    await node.settle()
    assert world.devices.sizes_gib[volume] == 8
    await node.look(3)
    assert world.aws.calls["ModifyVolume"] == 1


async def test_smaller_size_is_refused(world: World, tmp_path: Path) -> None:
    """A smaller size changes nothing and is said to be impossible; the volume stays in use."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    await node.settle()
    world.use_policy(tmp_path, write(size="2GiB"))
    node.policy = world.policy
    findings = await node.settle()
    notice = findings.notices["ckpt"]
    assert isinstance(notice, Refuse)
    assert "never shrink" in notice.message
    assert world.aws.calls["ModifyVolume"] == 0


async def test_changed_class_is_one_modification(world: World, tmp_path: Path) -> None:
    """Type, IOPS and size that changed together are sent together; tags follow."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    volume = world.cloud.volumes[(await node.settle()).claimed["ckpt"]]
    world.use_policy(tmp_path, write(type="io2", iops="5000", size="6GiB", tier="b"))
    node.policy = world.policy
    findings = await node.settle()
    await node.look(2)
    assert (volume.volume_type, volume.iops, volume.size) == ("io2", 5000, 6)
    assert dict(node.loop.findings.origins[volume.id].tags)["tier"] == "b"
    assert world.aws.calls["ModifyVolume"] == 1
    assert findings.claimed["ckpt"] == volume.id


async def test_cool_down_waits_as_long_as_aws_says(world: World, tmp_path: Path) -> None:
    """A modification AWS does not allow yet is not asked for again before the time that it names."""
    world.cloud.pace.modifications_a_day = 1
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    await node.settle()
    for size in ("6GiB", "7GiB"):
        world.use_policy(tmp_path, write(size=size))
        node.policy = world.policy
        await node.look(3)
    asked = world.aws.calls["ModifyVolume"]
    assert node.loop.findings.notices["ckpt"].reason is Reason.WAITING_FOR_CLOUD
    assert "modify it again at 20" in node.loop.findings.notices["ckpt"].message
    node.time_s += 23 * 3600
    await node.look()
    assert world.aws.calls["ModifyVolume"] == asked
    world.cloud.pace.modifications_a_day = 4
    node.time_s += 14 * 3600
    await node.look(2)
    assert world.aws.calls["ModifyVolume"] == asked + 1


async def test_modification_under_way_is_left_alone(world: World, tmp_path: Path) -> None:
    """While a volume is optimizing, another change waits and says how far it is."""
    world.cloud.pace.optimize_s = 3600
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    await node.settle()
    for size in ("6GiB", "7GiB"):
        world.use_policy(tmp_path, write(size=size))
        node.policy = world.policy
        await node.look(2)
    assert "optimizing" in node.loop.findings.notices["ckpt"].message
    assert world.aws.calls["ModifyVolume"] == 1


async def test_volume_that_is_being_modified_is_no_defect(world: World, tmp_path: Path) -> None:
    """For as long as AWS brings about what the class says, nothing is told."""
    world.cloud.pace.modify_s = world.cloud.pace.optimize_s = 3600
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    await node.settle()
    world.use_policy(tmp_path, write(size="8GiB"))
    node.policy = world.policy
    for _ in range(4):
        assert (await node.look()).notices == {}
    assert world.aws.calls["ModifyVolume"] == 1


async def test_whatever_is_not_as_the_class_says_is_one_notice(world: World, tmp_path: Path) -> None:
    """What cannot be changed is told for good, and keeps nothing from being changed that can be."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    volume = world.cloud.volumes[(await node.settle()).claimed["ckpt"]]
    policy = write(iops="4000", size="2GiB", tier="b").replace("iops:", "encrypted: true, iops:")
    world.use_policy(tmp_path, policy)
    node.policy = world.policy
    await node.look(4)
    findings = await node.settle()
    notice = findings.notices["ckpt"]
    assert isinstance(notice, Refuse)
    assert notice.reason is Reason.DRIFTED
    assert "size is 5GiB, should be 2GiB (volumes never shrink); encrypted is false" in notice.message
    assert [one.what for one in findings.drift["ckpt"]] == ["size", "encrypted"]
    assert (volume.iops, read_tags(volume)["tier"]) == (4000, "b")
    assert world.aws.calls["ModifyVolume"] == 1


async def test_failed_modification_is_told_in_aws_words(world: World, tmp_path: Path) -> None:
    """It is not sent at every look; after six hours it is."""
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    await node.settle()
    world.cloud.pace.modification_fault = "The volume has no room to grow."
    world.use_policy(tmp_path, write(size="8GiB"))
    node.policy = world.policy
    for _ in range(5):
        node.time_s += 300
        await node.look()
    findings = await node.look()
    assert world.aws.calls["ModifyVolume"] == 1
    assert "size is 5GiB, should be 8GiB" in findings.notices["ckpt"].message
    assert findings.notices["ckpt"].message.endswith("The volume has no room to grow.")
    world.cloud.pace.modification_fault = None
    node.now += timedelta(hours=6)
    findings = await node.settle()
    assert world.aws.calls["ModifyVolume"] == 2
    assert (findings.notices, findings.drift) == ({}, {})


async def test_tags_wait_for_no_modification(world: World, tmp_path: Path) -> None:
    """A modification that AWS puts off for hours keeps no tag from being set."""
    world.cloud.pace.modifications_a_day = 1
    world.use_policy(tmp_path, write())
    node = world.add_node(1)
    volume = world.cloud.volumes[(await node.settle()).claimed["ckpt"]]
    for size in ("6GiB", "7GiB"):
        world.use_policy(tmp_path, write(size=size))
        node.policy = world.policy
        await node.look(3)
    assert "size is 6GiB, should be 7GiB" in node.loop.findings.notices["ckpt"].message
    world.use_policy(tmp_path, write(size="7GiB", tier="b"))
    node.policy = world.policy
    await node.look(2)
    assert read_tags(volume)["tier"] == "b"


async def test_snapshots_are_taken_frozen_and_kept(world: World, tmp_path: Path) -> None:
    """Each hour brings one snapshot, taken frozen and marked so; only the newest two are kept."""
    world.use_policy(tmp_path, write(more=SNAPSHOTS))
    node = world.add_node(1)
    await node.settle()
    (volume,) = world.cloud.volumes.values()
    foreign = world.cloud.ec2.create_snapshot(volume.id, "somebody's own")
    for _ in range(4):
        node.now += timedelta(hours=1)
        await node.look(3)
    assert node.hands.freezes == 5
    assert not node.hands.is_frozen
    kept = world.cloud.ec2.snapshots.values()
    assert foreign in kept
    tags = [read_tags(one) for one in kept if one is not foreign]
    ticks = [node.now - timedelta(hours=1), node.now]
    assert sorted(tag["ebs-agent:tick"] for tag in tags) == [f"{tick:%Y-%m-%dT%H:%MZ}" for tick in ticks]
    assert {tag["ebs-agent:frozen"] for tag in tags} == {"yes"}


async def test_snapshot_that_began_too_late_is_taken_again(world: World, tmp_path: Path) -> None:
    """A freeze is given up when AWS does not answer in time, and the late snapshot does not count."""
    world.use_policy(tmp_path, write(more=SNAPSHOTS))
    node = world.add_node(1)
    world.aws.faults.add(Fault("CreateSnapshot", Kind.LOST_ANSWER))
    await node.look(4)
    assert not node.hands.is_frozen
    (late,) = world.cloud.ec2.snapshots.values()
    assert read_tags(late)["ebs-agent:frozen"] == "no"
    node.time_s += 4000
    await node.look(2)  # another is taken, and then the unproven one goes
    (snapshot,) = world.cloud.ec2.snapshots.values()
    assert read_tags(snapshot)["ebs-agent:frozen"] == "yes"


@pytest.mark.parametrize(
    ("rule", "volumes", "snapshots"), [("retain", 1, 0), ("delete", 0, 0), ("snapshot", 0, 1)]
)
async def test_claim_taken_out_of_the_policy(
    world: World, tmp_path: Path, rule: str, volumes: int, snapshots: int
) -> None:
    """What becomes of the volume is what the claim said while it was there."""
    world.use_policy(tmp_path, write(on_delete=rule))
    node = world.add_node(1)
    await node.settle()
    world.use_policy(tmp_path, "volumes: []")
    node.policy = world.policy
    await node.settle()
    assert len(world.cloud.volumes) == 1
    assert len(node.loop.findings.departures) == 1 - volumes
    node.now += timedelta(hours=23)
    await node.look(3)
    assert len(world.cloud.volumes) == 1, "a missing claim may be a slip of the pen"
    node.now += timedelta(hours=2)
    await node.settle()
    assert len(world.cloud.volumes) == volumes
    assert [name for name, _ in node.events].count("volume.deleted") == 1 - volumes
    assert len(world.cloud.ec2.snapshots) == snapshots


@pytest.mark.parametrize(
    "entry",
    [
        "match: {{volume_id: {volume}}}",
        "match: {{tags: {{tier: a}}}}",
        "match: {{size: 5GiB}}",
        "match: {{device_name: sdf}}",
    ],
)
async def test_volume_that_an_entry_is_for_is_no_orphan(world: World, tmp_path: Path, entry: str) -> None:
    """A volume whose claim was turned into an entry that names it, or could mean it, is never deleted."""
    world.use_policy(tmp_path, write(on_delete="delete"))
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    world.use_policy(tmp_path, f"volumes: [{{name: kept, {entry.format(volume=volume)}, block: {{}}}}]")
    node.policy = world.policy
    for _ in range(3):
        await node.look(2)
        node.now += timedelta(days=2)
    assert volume in node.hands.list_devices()
    assert not {name for name in world.aws.calls if name.startswith(("Delete", "Detach"))}


async def test_claim_that_comes_back_takes_the_deletion_back(world: World, tmp_path: Path) -> None:
    """A claim put back within the grace period keeps its volume, and a later removal begins a new one."""
    world.use_policy(tmp_path, write(on_delete="delete"))
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    for wanted in ("volumes: []", write(on_delete="delete"), "volumes: []"):
        world.use_policy(tmp_path, wanted)
        node.policy = world.policy
        await node.look(4)
        node.now += timedelta(hours=20)
    await node.look(4)
    assert volume in world.cloud.volumes
    node.now += timedelta(hours=5)
    await node.settle()
    assert volume not in world.cloud.volumes


async def test_deletion_is_told_before_and_survives_a_restart(world: World, tmp_path: Path) -> None:
    """The time of a deletion is on the volume: another process finds it, tells it, and keeps to it."""
    world.use_policy(tmp_path, write(on_delete="delete"))
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    world.use_policy(tmp_path, "volumes: []")
    node.policy = world.policy
    await node.settle()
    told = dict(node.loop.findings.departures)
    after = node.now + timedelta(days=1)
    assert f"after {after:%Y-%m-%d %H:%M} UTC" in told[volume]
    node.now += timedelta(hours=20)
    node.restart()
    await node.look(2)
    assert node.loop.findings.departures == told
    node.now += timedelta(hours=5)
    await node.settle()
    assert volume not in world.cloud.volumes


async def test_volume_in_use_is_not_dropped(world: World, tmp_path: Path) -> None:
    """A volume a process still uses is neither detached nor deleted, whatever the policy says."""
    world.use_policy(tmp_path, write(on_delete="delete"))
    node = world.add_node(1)
    volume = (await node.settle()).claimed["ckpt"]
    node.hands.busy.add(volume)
    world.use_policy(tmp_path, "volumes: []")
    node.policy = world.policy
    await node.look(2)
    node.now += timedelta(days=2)
    await node.look(4)
    assert volume in world.cloud.volumes
    assert volume in node.hands.list_devices()
    node.hands.busy.clear()
    node.time_s += 4000
    await node.settle()
    assert volume not in world.cloud.volumes


async def test_other_groups_volumes_are_no_orphans(world: World, tmp_path: Path) -> None:
    """A claim of another instance group is still in the policy: its volumes stay."""
    world.use_policy(tmp_path, write(on_delete="delete"))
    node = world.add_node(1)
    await node.settle()
    world.use_policy(tmp_path, write(on_delete="delete", more="match: {instance_group: login}"))
    node.policy = world.policy
    await node.look(4)
    assert len(world.cloud.volumes) == 1


async def test_failing_snapshot_does_not_unmount(world: World, tmp_path: Path) -> None:
    """What cannot be done about a volume that is here is a notice; the volume stays claimed and in use."""
    world.use_policy(tmp_path, write(more=SNAPSHOTS))
    node = world.add_node(1)
    claimed = (await node.settle()).claimed
    world.aws.faults.add(deny("DescribeSnapshots", "ec2:DescribeSnapshots"))
    node.now += timedelta(hours=2)
    findings = await node.look(2)
    assert findings.claimed == claimed
    assert not findings.endings
    assert findings.notices["ckpt"].reason is Reason.PERMISSION_DENIED


async def test_look_that_fails_takes_back_nothing_that_was_told(world: World, tmp_path: Path) -> None:
    """A volume that is not as its class says stays so while AWS does not answer; what has no entry ends."""
    world.use_policy(tmp_path, write(size="5GiB"))
    node = world.add_node(1)
    await node.settle()
    world.use_policy(tmp_path, write(size="4GiB"))
    node.policy = world.policy
    told = (await node.look(3)).notices
    assert told["ckpt"].reason is Reason.DRIFTED
    world.aws.faults.add(Fault("DescribeVolumes", times=1_000_000))
    node.time_s += 900
    failed = await node.look()
    assert failed.endings["ckpt"].reason is Reason.CLOUD_ERROR
    assert failed.notices == told
    world.use_policy(tmp_path, "volumes: []\n")
    node.policy = world.policy
    assert not (await node.look()).notices
