"""Orders that the policy would undo are refused with the line to change; all others are carried out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ExitCode, RefusedError
from agent.core.model import Reason, VolumeId
from tests.aws.world import World
from tests.component.cloud.test_orders import Clerk

POLICY = """
classes:
  fast: {type: gp3, throughput: 125, iops: 3000}
  dense: {type: io2, iops_per_gib: 100}
  plain: {}
volumes:
  - name: ckpt
    claim: {class: fast, size: 8GiB, on_delete: delete}
    block: {}
  - name: dense
    claim: {class: dense, size: 5GiB}
    block: {}
  - name: plain
    claim:
      class: plain
      from: SNAPSHOT
    block: {}
"""


async def prepare(world: World, tmp_path: Path) -> tuple[Clerk, dict[str, VolumeId]]:
    """Return who takes orders on a node with all its claims' volumes, by name."""
    source = world.cloud.make_volume()
    snapshot = world.cloud.ec2.create_snapshot(source, "")
    world.use_policy(tmp_path, POLICY.replace("SNAPSHOT", snapshot.id))
    node = world.add_node(1)
    claimed = (await node.settle()).claimed
    return Clerk(node, policy_path=tmp_path / "policy.yaml"), dict(claimed)


@pytest.mark.parametrize(
    ("order", "name", "words", "says", "place"),
    [
        ("modify", "ckpt", {"iops": 6000}, "says iops: 3000", "classes.fast.iops (PATH, line 4)"),
        (
            "modify",
            "ckpt",
            {"throughput": 250},
            "says throughput: 125",
            "classes.fast.throughput (PATH, line 4)",
        ),
        ("modify", "ckpt", {"type": "gp2"}, "says type: gp3", "classes.fast.type (PATH, line 4)"),
        ("modify", "dense", {"iops": 600}, "iops_per_gib: 100, which are 500 IOPS", "(PATH, line 5)"),
        ("modify", "plain", {"type": "gp2"}, "says type: gp3", "classes.plain.type (PATH, line 6)"),
        ("expand", "ckpt", {"size": "9GiB"}, "says size: 8GiB", "volumes[0].claim.size (PATH, line 9)"),
    ],
)
async def test_order_that_would_be_undone_is_refused(
    world: World, tmp_path: Path, order: str, name: str, words: dict[str, Any], says: str, place: str
) -> None:
    """Nothing is asked of AWS, and the refusal says what to change instead, in which line."""
    clerk, claimed = await prepare(world, tmp_path)
    with pytest.raises(RefusedError) as raised:
        await clerk.order(order, volume=claimed[name], **words)
    error = raised.value
    assert says in error.message
    assert place.replace("PATH", str(tmp_path / "policy.yaml")) in str(error.hint)
    assert (error.exit_code, error.reason) == (ExitCode.REFUSED, Reason.DRIFTED)
    assert world.aws.calls["ModifyVolume"] == 0


async def test_order_that_the_policy_leaves_open_is_carried_out(world: World, tmp_path: Path) -> None:
    """What the class does not say is not undone; nor is what brings a volume nearer to it."""
    clerk, claimed = await prepare(world, tmp_path)
    await clerk.order("modify", volume=claimed["plain"], iops=4000)
    await clerk.order("expand", volume=claimed["plain"], size="9GiB")
    volume = world.cloud.volumes[claimed["ckpt"]]
    volume.iops, volume.size = 6000, 5  # as somebody else has left it
    await clerk.order("modify", volume=claimed["ckpt"], iops=3000)
    await clerk.order("expand", volume=claimed["ckpt"], size="6GiB")
    assert (volume.iops, volume.size) == (3000, 6)
    stranger = world.cloud.make_volume()
    await clerk.order("modify", volume=stranger, type="gp3")
    assert world.cloud.volumes[claimed["plain"]].iops == 4000


async def test_file_that_says_something_else_by_now_is_named_without_a_line(
    world: World, tmp_path: Path
) -> None:
    """A line of another file than the one in force would lead astray."""
    clerk, claimed = await prepare(world, tmp_path)
    path = tmp_path / "policy.yaml"
    path.write_text("# first\n" + path.read_text("utf-8").replace("iops: 3000", "iops: 4000"), "utf-8")
    with pytest.raises(RefusedError) as raised:
        await clerk.order("modify", volume=claimed["ckpt"], iops=6000)
    assert f"classes.fast.iops ({path})" in str(raised.value.hint)


async def test_volume_that_is_going_to_be_deleted_is_not_attached(world: World, tmp_path: Path) -> None:
    """It would be detached and deleted when its time has come: its entry has to come back first."""
    clerk, claimed = await prepare(world, tmp_path)
    volume = claimed["ckpt"]
    await clerk.order("detach", volume=volume)
    clerk.node.policy = replace(clerk.node.policy, volumes=clerk.node.policy.volumes[1:])
    with pytest.raises(RefusedError, match="has no entry any more") as raised:
        await clerk.order("attach", volume=volume)
    assert f"match: {{volume_id: {volume}}}" in str(raised.value.hint)
    assert world.aws.calls["AttachClusterNodeVolume"] == 3


async def test_wanted_volume_may_be_detached(world: World, tmp_path: Path) -> None:
    """It stays away: taking a volume away for a repair is not undone."""
    clerk, claimed = await prepare(world, tmp_path)
    await clerk.order("detach", volume=claimed["ckpt"])
    findings = await clerk.node.look(3)
    assert "detached by hand" in findings.endings["ckpt"].message
    await clerk.order("attach", volume=claimed["ckpt"])
    assert claimed["ckpt"] in clerk.node.hands.list_devices()
