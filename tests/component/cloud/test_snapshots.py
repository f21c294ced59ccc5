"""Scheduled snapshots: what is taken, kept, locked, fast to restore and deleted, whatever AWS makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.cloud.aws.calls import CreateSnapshot
from agent.cloud.aws_worker.client import CloudClient
from agent.cloud.snapshots.take_frozen import take_snapshot
from agent.core.model import Reason, VolumeId
from tests.aws.cloud import CLUSTER_ARN
from tests.aws.faults import Fault, Kind, deny, throttle
from tests.aws.world import NodeUnderTest, World

HOUR = timedelta(hours=1)
POLICY = """
classes:
  fast: {{type: gp3}}
volumes:
  - name: ckpt
    claim: {{class: fast, size: 5GiB}}
    filesystem: {{type: ext4, format: if-blank}}
    mount: {{path: /data/ckpt}}
    snapshots: {{schedule: "0 * * * *", {more}}}
"""


def write(**words: str) -> str:
    return POLICY.format(more=", ".join(f"{key}: {value}" for key, value in words.items()))


async def begin(world: World, tmp_path: Path, **words: str) -> NodeUnderTest:
    """Return a node whose first snapshot is taken, under a policy with these words about snapshots."""
    world.use_policy(tmp_path, write(**words))
    node = world.add_node(1)
    await node.settle()
    await node.look(3)
    return node


async def pass_hours(node: NodeUnderTest, hours: int) -> None:
    """Let hours pass, with some looks in each."""
    for _ in range(hours):
        node.now += HOUR
        node.time_s += 3600
        await node.look(4)


def list_snapshots(world: World) -> list[str]:
    """Return the IDs of the snapshots there are, in the order they were begun."""
    found: list[Any] = sorted(world.cloud.ec2.snapshots.values(), key=lambda one: one.start_time)
    return [str(one.id) for one in found]


def read_tags(world: World, snapshot: str) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in world.cloud.ec2.snapshots[snapshot].get_tags()}


async def test_lock_that_outlasts_retention_is_no_defect(world: World, tmp_path: Path) -> None:
    """What is locked for longer than it would be kept stays until its lock ends; nothing is told of it."""
    node = await begin(world, tmp_path, keep="1", lock="{mode: governance, duration: 1d}")
    await pass_hours(node, 4)
    assert len(list_snapshots(world)) == len(world.cloud.keeping.locks) == 5
    assert world.aws.calls["LockSnapshot"] == 5
    assert world.aws.calls["DeleteSnapshot"] == 0
    assert not node.loop.findings.notices
    newest = list_snapshots(world)[-1]
    node.now += timedelta(days=2)
    await pass_hours(node, 1)
    assert len(list_snapshots(world)) == 1
    assert newest not in list_snapshots(world)


async def test_snapshot_that_cannot_be_deleted_ends_no_retention(world: World, tmp_path: Path) -> None:
    """One that an image uses stays and is told; all the others go, and it goes once it may."""
    node = await begin(world, tmp_path, keep="2")
    (used,) = list_snapshots(world)
    world.cloud.keeping.in_images.add(used)
    await pass_hours(node, 5)
    assert len(list_snapshots(world)) == 3
    assert used in list_snapshots(world)
    assert "ami-1" in node.loop.findings.notices["ckpt"].message
    assert not node.loop.findings.endings
    world.cloud.keeping.in_images.clear()
    await pass_hours(node, 2)
    assert used not in list_snapshots(world)
    assert not node.loop.findings.notices


async def test_denied_deletion_is_asked_for_once_in_a_while(world: World, tmp_path: Path) -> None:
    """What the role may not delete is told, and one refusal stands for all."""
    node = await begin(world, tmp_path, keep="1")
    world.aws.faults.add(deny("DeleteSnapshot", "ec2:DeleteSnapshot"))
    await pass_hours(node, 4)
    assert len(list_snapshots(world)) == 5
    assert node.loop.findings.notices["ckpt"].reason is Reason.PERMISSION_DENIED
    assert world.aws.calls["DeleteSnapshot"] <= 4


async def test_nothing_is_deleted_unless_the_policy_says_how_many(world: World, tmp_path: Path) -> None:
    """Without keep neither failed snapshots go, nor such as are not proven, nor old ones."""
    world.aws.faults.add(Fault("CreateSnapshot", Kind.LOST_ANSWER))
    node = await begin(world, tmp_path)
    node.time_s += 4000
    await node.look(3)
    world.cloud.keeping.state = "error"
    await pass_hours(node, 1)
    world.cloud.keeping.state = "completed"
    await pass_hours(node, 3)
    frozen = [read_tags(world, one)["ebs-agent:frozen"] for one in list_snapshots(world)]
    assert frozen == ["no", "yes", "yes", "yes", "yes", "yes", "yes"]
    assert world.aws.calls["DeleteSnapshot"] == 0


async def test_failed_snapshot_is_taken_again_once_and_then_told(world: World, tmp_path: Path) -> None:
    """A snapshot that AWS could not complete is none: another is taken, and then it is told."""
    world.cloud.keeping.state = "error"
    node = await begin(world, tmp_path, keep="2")
    await node.look(6)
    failed = list_snapshots(world)
    assert len(failed) == 2
    notice = node.loop.findings.notices["ckpt"]
    assert "failed at AWS" in notice.message
    assert all(one in notice.message for one in failed)
    (facts,) = node.loop.findings.snapshots.values()
    assert (facts.last_completed_at, set(facts.failed)) == (None, set(failed))
    world.cloud.keeping.state = "completed"
    await pass_hours(node, 1)
    assert len(list_snapshots(world)) == 1
    assert not node.loop.findings.notices
    (facts,) = node.loop.findings.snapshots.values()
    assert (facts.completed, facts.failed) == (1, ())
    assert facts.last_completed_at is not None


async def test_clock_that_ran_ahead_stops_no_schedule(world: World, tmp_path: Path) -> None:
    """A snapshot of a time to come is no reason to take none until then, and is not the newest for long."""
    world.use_policy(tmp_path, write(keep="1"))
    node = world.add_node(1)
    node.clock_error = timedelta(days=30)
    await node.settle()
    await node.look(3)
    (early,) = list_snapshots(world)
    node.clock_error = timedelta()
    node.restart()
    await node.settle()
    await pass_hours(node, 2)
    (kept,) = list_snapshots(world)
    assert kept != early
    assert read_tags(world, kept)["ebs-agent:tick"] == f"{node.now:%Y-%m-%dT%H:%MZ}"


async def test_fast_restores_that_are_refused_are_told_and_tried_again(world: World, tmp_path: Path) -> None:
    """AWS answers with success where it refuses a zone; the agent reads that, and asks again later."""
    world.cloud.keeping.refused_zones.add("us-west-2a")
    node = await begin(world, tmp_path, keep="2", fast_restore_zones="[us-west-2a]")
    (first,) = list_snapshots(world)
    assert "limit of fast snapshot restores" in node.loop.findings.notices["ckpt"].message
    assert first in node.loop.findings.notices["ckpt"].message
    assert "ebs-agent:fast-restore" not in read_tags(world, first)
    world.cloud.keeping.refused_zones.clear()
    await pass_hours(node, 1)
    assert world.cloud.keeping.fast == {(list_snapshots(world)[-1], "us-west-2a")}
    assert not node.loop.findings.notices


async def test_fast_restores_follow_the_newest_and_end_before_a_deletion(
    world: World, tmp_path: Path
) -> None:
    """Each costs by the hour: the newest has them, those before have not, none is deleted with them on."""
    node = await begin(
        world, tmp_path, keep="1", fast_restore_zones="[us-west-2a, us-west-2b]", fast_restore_count="1"
    )
    for _ in range(3):
        await pass_hours(node, 1)
        (newest,) = list_snapshots(world)
        assert world.cloud.keeping.fast == {(newest, "us-west-2a"), (newest, "us-west-2b")}
        assert not node.loop.findings.notices
    assert world.aws.calls["EnableFastSnapshotRestores"] == 4
    assert world.aws.calls["DisableFastSnapshotRestores"] == 3


async def test_freeze_holds_nothing_but_the_one_call(world: World, tmp_path: Path) -> None:
    """While the filesystem is frozen AWS is asked for the snapshot, and for nothing else."""
    node = await begin(world, tmp_path, keep="1")
    await pass_hours(node, 2)
    asked = node.hands.asked_while_frozen
    assert len(asked) == node.hands.freezes == 3
    assert all(isinstance(call, CreateSnapshot) and not call.is_dry_run for call in asked)
    assert world.aws.calls["CreateSnapshot (dry run)"] == 3


async def test_what_aws_would_refuse_freezes_nothing(world: World, tmp_path: Path) -> None:
    """A snapshot that may not be taken is refused before the filesystem is touched."""
    world.aws.faults.add(deny("CreateSnapshot", "ec2:CreateSnapshot"))
    node = await begin(world, tmp_path, keep="1")
    assert node.hands.freezes == 0
    assert node.loop.findings.notices["ckpt"].reason is Reason.PERMISSION_DENIED


async def test_freeze_waits_neither_for_the_pacer_nor_for_a_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A throttled snapshot thaws before the pause, and a worker that has to be started is, before."""
    volume = VolumeId(world.cloud.make_volume())
    frozen: list[int | None] = []
    pauses: list[bool] = []
    is_frozen = False

    async def pause(_delay_s: float) -> None:
        pauses.append(is_frozen)
        await anyio.lowlevel.checkpoint()

    async with CloudClient(world.settings(attempts=1)) as client:

        @asynccontextmanager
        async def freeze(_volume_id: VolumeId) -> AsyncIterator[bool]:
            nonlocal is_frozen
            frozen.append(client.worker_pid)
            is_frozen = True
            try:
                yield True
            finally:
                is_frozen = False

        monkeypatch.setattr(anyio, "sleep", pause)
        world.aws.faults.add(throttle("CreateSnapshot", 2))
        taken = await take_snapshot(client.make, freeze, CreateSnapshot(volume, "for a test", ()))
    assert taken.tag("ebs-agent:frozen") == "yes"
    assert len(frozen) == 3
    assert None not in frozen
    assert pauses
    assert not any(pauses)
    assert list_snapshots(world) == [taken.snapshot_id]


async def test_one_of_the_nodes_that_share_a_volume_takes_its_snapshots(world: World, tmp_path: Path) -> None:
    """A volume attached to several instances has one snapshot of each tick, and not one from each of them."""
    volume = world.cloud.make_volume(type="io2", iops=1000, multi_attach_enabled=True)
    world.use_policy(
        tmp_path,
        f"volumes: [{{name: shared, match: {{volume_id: {volume}}}, block: {{}}, "
        'snapshots: {schedule: "0 * * * *", keep: 1, freeze: false}}]',
    )
    nodes = [world.add_node(number) for number in (1, 2)]
    for node in nodes:
        world.cloud.hyperpod.call(
            "AttachClusterNodeVolume",
            {
                "ClusterArn": CLUSTER_ARN,
                "NodeId": node.identity.instance_id,
                "VolumeId": volume,
            },
        )
    for _ in range(3):
        world.now += HOUR
        for node in nodes:
            await node.look(3)
    assert world.aws.calls["CreateSnapshot"] == 3


async def test_loop_wakes_for_the_snapshot(world: World, tmp_path: Path) -> None:
    """A settled loop sleeps for minutes, and no longer than until the next snapshot is due."""
    node = await begin(world, tmp_path, keep="1")
    assert node.loop.is_settled
    node.now += timedelta(minutes=59, seconds=30)
    await node.look()
    assert 30 < node.loop._choose_pause_s(0) <= 50


async def test_what_is_told_of_snapshots_outlasts_the_agent(world: World, tmp_path: Path) -> None:
    """Facts come from AWS: a restart changes none, and they go with the schedule and with the volume."""
    node = await begin(world, tmp_path, keep="3")
    await pass_hours(node, 2)
    told = node.loop.findings.snapshots
    (facts,) = told.values()
    assert (facts.completed, facts.due_at) == (3, node.now.replace(minute=0) + HOUR)
    node.restart()
    await node.settle()
    assert node.loop.findings.snapshots == told
    without = write().replace("snapshots:", "# snapshots:")
    world.use_policy(tmp_path, without)
    node.policy = world.policy
    assert not (await node.look(2)).snapshots
    world.use_policy(tmp_path, write(keep="3"))
    node.policy = world.policy
    assert (await node.look(2)).snapshots == told
    (volume,) = told
    node.hands.released.add(volume)
    world.cloud.hyperpod.call(
        "DetachClusterNodeVolume",
        {"ClusterArn": CLUSTER_ARN, "NodeId": node.identity.instance_id, "VolumeId": volume},
    )
    findings = await node.look(3)
    assert volume in findings.origins
    assert not findings.snapshots


async def test_pending_snapshot_is_due_until_it_has_completed(world: World, tmp_path: Path) -> None:
    """While AWS still writes the newest one, what is told is of the one before."""
    node = await begin(world, tmp_path, keep="3")
    (before,) = node.loop.findings.snapshots.values()
    world.cloud.keeping.state = "pending"
    await pass_hours(node, 1)
    (facts,) = node.loop.findings.snapshots.values()
    assert facts == before
    assert facts.due_at == node.now.replace(minute=0)
    for one in world.cloud.ec2.snapshots.values():
        one.status = "completed"
    await node.look(3)
    (facts,) = node.loop.findings.snapshots.values()
    assert (facts.completed, facts.due_at) == (2, node.now.replace(minute=0) + HOUR)


def list_told(node: NodeUnderTest, name: str) -> list[str]:
    """Return the snapshots that events of this name tell of."""
    told = zip(node.events, node.told, strict=True)
    return [fields["snapshot_id"] for (event, _), fields in told if event == name]


async def test_events_tell_what_becomes_of_snapshots(world: World, tmp_path: Path) -> None:
    """Each that is taken, failed or deleted is told once, with its volume and the entry it is for."""
    node = await begin(world, tmp_path, keep="1")
    (first,) = list_snapshots(world)
    world.cloud.keeping.state = "error"
    await pass_hours(node, 1)
    failed = list_snapshots(world)[1:]
    world.cloud.keeping.state = "completed"
    await pass_hours(node, 1)
    (last,) = list_snapshots(world)
    assert len(failed) == 2
    assert list_told(node, "snapshot.taken") == [first, *failed, last]
    assert sorted(list_told(node, "snapshot.failed")) == sorted(failed)
    assert sorted(list_told(node, "snapshot.deleted")) == sorted([first, *failed])
    about = [event for event in node.events if event[0].startswith("snapshot.")]
    assert {volume for _, volume in about} == {node.loop.findings.claimed["ckpt"]}
    assert {fields["entry"] for fields in node.told} == {"ckpt"}


async def test_failure_that_is_past_is_not_told_again(world: World, tmp_path: Path) -> None:
    """Without keep a failed snapshot stays; once a newer one counts, no restart tells of it."""
    world.cloud.keeping.state = "error"
    node = await begin(world, tmp_path)
    await node.look(4)
    world.cloud.keeping.state = "completed"
    await pass_hours(node, 1)
    told = list_told(node, "snapshot.failed")
    node.restart()
    await node.settle()
    await node.look(3)
    assert list_told(node, "snapshot.failed") == told
    assert len(told) == 2


async def test_fast_restores_are_switched_once_while_descriptions_lag(world: World, tmp_path: Path) -> None:
    """What was switched a moment ago is not switched again because AWS does not show it yet."""
    world.cloud.pace.lag_s = 30
    world.cloud.pace.clock = lambda: world.time_s
    world.use_policy(tmp_path, write(keep="2", fast_restore_zones="[us-west-2a]"))
    node = world.add_node(1)
    for _ in range(40):
        await node.look()
        node.time_s += 4
    assert world.aws.calls["EnableFastSnapshotRestores"] == 1
