"""AWS's own status checks, asked of the emulated AWS."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.cloud.tasks.status_checks import EVERY_S, FORGET_S, OFTEN_S
from agent.core.model import Initialization, VolumeId
from tests.aws.checks import StatusOfVolume
from tests.aws.faults import Fault, deny, throttle
from tests.aws.world import NodeUnderTest, World

POLICY = """
classes: {fast: {type: gp3}}
volumes:
  - {name: one, claim: {class: fast, size: 1GiB}, block: {}}
  - {name: two, claim: {class: fast, size: 1GiB}, block: {}}
"""


async def settle_long(node: NodeUnderTest) -> None:
    """Settle, and let the time pass after which volumes that came are asked about."""
    await node.settle()
    node.time_s += OFTEN_S
    await node.look()


@pytest.fixture
async def node(world: World, tmp_path: Path) -> NodeUnderTest:
    world.use_policy(tmp_path, POLICY)
    node = world.add_node(1)
    await settle_long(node)
    return node


async def test_volumes_are_asked_about_together_and_seldom(world: World, node: NodeUnderTest) -> None:
    """One call serves all volumes, however often is looked, and the next comes minutes later."""
    first = world.aws.calls["DescribeVolumeStatus"]
    assert first == 1
    assert {one.status for one in node.loop.findings.checks.values()} == {"ok"}
    assert len(node.loop.findings.checks) == 2
    await node.look(50)
    assert world.aws.calls["DescribeVolumeStatus"] == first
    for _ in range(10):
        node.time_s += EVERY_S / 5
        await node.look()
    assert world.aws.calls["DescribeVolumeStatus"] in {first + 1, first + 2}


async def test_what_is_changing_is_asked_about_sooner(world: World, node: NodeUnderTest) -> None:
    """Progress of an initialization, and its estimate, are told as they come, and until they are over."""
    volume_id = VolumeId(min(world.cloud.volumes))
    world.cloud.checks.by_volume[volume_id] = StatusOfVolume(progress=40, left_s=600, kind="provisioned-rate")
    node.time_s += 2 * EVERY_S
    await node.look()
    coming = node.loop.findings.checks[volume_id].initialization
    assert coming == Initialization(40, 600, "provisioned-rate")
    asked = world.aws.calls["DescribeVolumeStatus"]
    world.cloud.checks.by_volume[volume_id].progress = 100
    node.time_s += OFTEN_S * 1.2
    await node.look()
    assert world.aws.calls["DescribeVolumeStatus"] == asked + 1
    coming = node.loop.findings.checks[volume_id].initialization
    assert coming is not None
    assert coming.is_done
    node.time_s += OFTEN_S * 1.2
    await node.look()
    assert world.aws.calls["DescribeVolumeStatus"] == asked + 1


async def test_denial_is_named_once_and_holds_up_nothing(world: World, tmp_path: Path) -> None:
    """Without the permission all else goes on, the log names it once, and AWS is asked ever more rarely."""
    world.use_policy(tmp_path, POLICY)
    world.aws.faults.add(deny("DescribeVolumeStatus", "ec2:DescribeVolumeStatus"))
    node = world.add_node(1)
    with capture_logs() as logs:
        await settle_long(node)
        for _ in range(24):
            node.time_s += 300
            await node.look()
    told = [one for one in logs if one["event"] == "cloud.denied"]
    assert [("ec2:DescribeVolumeStatus" in one["error"]) for one in told] == [True]
    assert world.aws.calls["DescribeVolumeStatus"] <= 12, "in two hours"
    assert node.loop.is_settled
    assert not node.loop.findings.notices
    assert not node.loop.findings.checks


@pytest.mark.parametrize(
    "fault",
    [
        throttle("DescribeVolumeStatus"),
        Fault("DescribeVolumeStatus", code="InvalidVolume.NotFound", status=400, message="no such volume"),
    ],
    ids=["throttled", "gone"],
)
async def test_failure_passes(world: World, tmp_path: Path, fault: Fault) -> None:
    """What fails once is asked again, and keeps nothing else waiting."""
    world.use_policy(tmp_path, POLICY)
    world.aws.faults.add(fault)
    node = world.add_node(1)
    await settle_long(node)
    for _ in range(3):
        node.time_s += 120
        await node.look()
    assert len(node.loop.findings.checks) == 2


async def test_old_answer_is_forgotten(world: World, node: NodeUnderTest) -> None:
    """Where AWS does not answer any more, what it said is not shown for ever."""
    world.aws.faults.add(deny("*", "ec2:DescribeVolumes"))
    node.time_s += EVERY_S
    await node.look()
    assert node.loop.findings.checks
    node.time_s += FORGET_S
    await node.look()
    assert not node.loop.findings.checks


async def test_pages_are_put_together(world: World, node: NodeUnderTest) -> None:
    """An answer may come in pages though all volumes are named."""
    world.cloud.checks.page = 1
    node.time_s += 2 * EVERY_S
    await node.look()
    assert len(node.loop.findings.checks) == 2
