"""Volumes that nobody holds any more: deleted by themselves where their claim says so, and only in time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from agent.cloud.plan.claims.orphan_expiry import SEEN_EVERY, SEEN_LIMIT
from agent.policy import Policy, tell_expiring
from agent.policy.reading import load_policy
from tests.aws.cloud import CLUSTER_ARN
from tests.aws.faults import deny
from tests.aws.world import Crash, NodeUnderTest, World, is_crash

DAY = timedelta(days=1)
CLAIM = """
classes: {{fast: {{type: gp3}}}}
volumes:
  - {{name: ckpt, claim: {{class: fast, size: 5GiB, on_delete: {rule}{limit}}}, block: {{}}}}
"""


def write(rule: str = "delete", limit: str | None = "7d") -> str:
    return CLAIM.format(rule=rule, limit="" if limit is None else f", delete_unheld_after: {limit}")


async def begin(
    world: World, tmp_path: Path, rule: str = "delete", limit: str | None = "7d"
) -> tuple[str, NodeUnderTest]:
    """Return a volume whose node is gone, and another node, which has what it needs."""
    world.use_policy(tmp_path, write(rule, limit))
    first = world.add_node(8, f"hyperpod-i-{8:017x}")
    left = world.add_node(1, f"hyperpod-i-{1:017x}")
    await first.settle()
    volume = (await left.settle()).claimed["ckpt"]
    world.cloud.remove_node(str(left.identity.instance_id))
    world.devices.here.pop(str(left.identity.instance_id))
    return volume, first


async def pass_days(node: NodeUnderTest, days: float, step: float = 0.5) -> None:
    """Let days pass, with looks in each half."""
    for _ in range(round(days / step)):
        node.now += step * DAY
        node.time_s += step * 86400
        await node.look(2)


@pytest.mark.parametrize("rule", ["delete", "snapshot"])
async def test_volume_nobody_holds_goes_in_time(world: World, tmp_path: Path, rule: str) -> None:
    """It is told when from the first look on, deleted then and not before, as an event, once."""
    volume, node = await begin(world, tmp_path, rule)
    await pass_days(node, 1)
    (call,) = node.loop.findings.calls
    assert (call.operation, call.volume_id) == ("DeleteVolume", volume)
    assert call.at is not None
    while call.at - node.now > DAY:
        await pass_days(node, 0.5)
        assert volume in world.cloud.volumes
    await pass_days(node, 1.5)
    assert volume not in world.cloud.volumes
    assert len(world.cloud.volumes) == 1, "the one that is held stays"
    assert [about for name, about in node.events if name == "volume.deleted"] == [volume]
    assert len(world.cloud.ec2.snapshots) == (rule == "snapshot")
    assert not node.loop.findings.calls


@pytest.mark.parametrize(("rule", "limit"), [("delete", None), ("snapshot", None), ("retain", None)], ids=str)
async def test_nothing_goes_unless_the_claim_says_so(
    world: World, tmp_path: Path, rule: str, limit: str | None
) -> None:
    """Without a limit no volume of a claim is marked or deleted, however long nobody holds it."""
    volume, node = await begin(world, tmp_path, rule, limit)
    await pass_days(node, 30, 1)
    assert volume in world.cloud.volumes
    assert "ebs-agent:unheld" not in read_tags(world, volume)


def read_tags(world: World, volume: str) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in world.cloud.volumes[volume].get_tags()}


@pytest.mark.parametrize(
    "tags",
    [
        {"ebs-agent:on-delete": "retain"},
        {"ebs-agent:node": "compute-1"},
        {"ebs-agent:node": f"hyperpod-i-{8:017x}"},
        {"ebs-agent:made-by": "somebody"},
        {"ebs-agent:cluster": "zzzzz01234yz"},
        {"ebs-agent:group": "other"},
        {"ebs-agent:claim": "other"},
    ],
    ids=["made to be retained", "lasting name", "holder lives", "not ours", "cluster", "group", "claim"],
)
async def test_what_is_not_proven_stays(world: World, tmp_path: Path, tags: dict[str, str]) -> None:
    """A volume of which anything is in doubt is never marked, and never deleted."""
    volume, node = await begin(world, tmp_path)
    world.cloud.volumes[volume].add_tags(tags)
    await pass_days(node, 20, 1)
    assert volume in world.cloud.volumes
    assert "ebs-agent:unheld" not in read_tags(world, volume)


async def test_what_an_entry_names_stays(world: World, tmp_path: Path) -> None:
    """An entry that names it, or could mean it, keeps a volume whatever its claim says of others."""
    volume, node = await begin(world, tmp_path)
    named = f"  - {{name: kept, match: {{volume_id: {volume}, instance_group: login}}, block: {{}}}}\n"
    world.use_policy(tmp_path, write() + named)
    node.policy = world.policy
    await pass_days(node, 9)
    assert "ebs-agent:unheld" not in read_tags(world, volume)
    assert volume in world.cloud.volumes


async def test_nothing_goes_without_proof(world: World, tmp_path: Path) -> None:
    """Where AWS cannot be asked about the last holder, or shows it, nothing is marked or deleted."""
    volume, node = await begin(world, tmp_path)
    await pass_days(node, 6.5)
    world.aws.faults.add(deny("DescribeClusterNode", "sagemaker:DescribeClusterNode"))
    await pass_days(node, 3)
    assert volume in world.cloud.volumes
    assert node.loop.findings.claimed["ckpt"] in node.hands.list_devices()
    assert not node.loop.findings.endings


def call_by_hand(world: World, operation: str, volume: str) -> None:
    """Attach the volume to an instance without an agent, or detach it there."""
    instance = f"i-{15:017x}"
    if operation.startswith("Attach"):
        world.cloud.add_node(instance)
    words = {"ClusterArn": CLUSTER_ARN, "NodeId": instance, "VolumeId": volume}
    world.cloud.hyperpod.call(operation, words)


async def test_volume_that_was_used_in_between_begins_anew(world: World, tmp_path: Path) -> None:
    """Days in which nobody saw it free, since somebody had it, count for nothing."""
    volume, node = await begin(world, tmp_path)
    await pass_days(node, 6)
    call_by_hand(world, "AttachClusterNodeVolume", volume)
    await pass_days(node, SEEN_LIMIT / DAY + 1)
    call_by_hand(world, "DetachClusterNodeVolume", volume)
    await pass_days(node, 6)
    assert volume in world.cloud.volumes
    await pass_days(node, 3)
    assert volume not in world.cloud.volumes


async def test_volume_that_is_taken_over_is_no_longer_counted(world: World, tmp_path: Path) -> None:
    """A node that takes the volume over takes the mark off; a longer limit counts at once."""
    volume, node = await begin(world, tmp_path)
    await pass_days(node, 6.5)
    world.use_policy(tmp_path, write(limit="30d"))
    node.policy = world.policy
    await pass_days(node, 3)
    assert volume in world.cloud.volumes
    new = world.add_node(3, f"hyperpod-i-{3:017x}")
    assert (await new.settle()).claimed["ckpt"] == volume
    assert not read_tags(world, volume)["ebs-agent:unheld"]


async def test_node_that_needs_a_volume_deletes_none(world: World, tmp_path: Path) -> None:
    """A node that is still to get its own volume lets all others be: it may be about to take one."""
    volume, node = await begin(world, tmp_path)
    own = node.loop.findings.claimed["ckpt"]
    await pass_days(node, 6.5)
    world.cloud.volumes[own].hold([])
    world.cloud.volumes[own].add_tags({"ebs-agent:claim": "taken away"})
    world.aws.faults.add(deny("CreateVolume", "ec2:CreateVolume"))
    world.aws.faults.add(deny("AttachClusterNodeVolume", "sagemaker:AttachClusterNodeVolume"))
    await pass_days(node, 3)
    assert volume in world.cloud.volumes


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", ["CreateTags", "CreateSnapshot", "DeleteVolume"])
async def test_crash_on_the_way(world: World, tmp_path: Path, operation: str, *, is_after: bool) -> None:
    """Wherever the agent dies between the mark and the deletion, the volume goes in its time, not before."""
    volume, node = await begin(world, tmp_path, "snapshot")
    node.crash = Crash(operation, 1, is_after=is_after)
    began = node.now
    while volume in world.cloud.volumes:
        try:
            await pass_days(node, 0.5)
        except BaseException as error:
            if not is_crash(error):
                raise
            node.restart()
        assert node.now - began < 12 * DAY
    assert node.now - began >= 7 * DAY
    assert len(world.cloud.volumes) == 1
    assert world.cloud.ec2.snapshots, "a last snapshot is there"


async def test_quiet_node_asks_rarely(world: World, tmp_path: Path) -> None:
    """The search costs a settled node one more call in hours, and a volume one tag a day."""
    _, node = await begin(world, tmp_path)
    await pass_days(node, 1)
    world.aws.calls.clear()
    for _ in range(24):
        node.now += DAY / 24
        node.time_s += 3600
        await node.look()
    assert world.aws.calls["DescribeVolumes"] <= 24 + 10
    assert world.aws.calls["CreateTags"] <= 2
    assert SEEN_EVERY == DAY


def test_reload_tells_of_a_new_limit(tmp_path: Path) -> None:
    """That volumes are going to be deleted by themselves is told when a policy first says so, and no more."""

    def load(text: str) -> Policy:
        path = tmp_path / "policy.yaml"
        path.write_text("version: 1\n" + text, "utf-8")
        return load_policy(path, trust_owner=True)

    without, week, month = load(write(limit=None)), load(write()), load(write("snapshot", "30d"))
    (told,) = tell_expiring(without, week)
    assert "'ckpt'" in told
    assert "7 days" in told
    (told,) = tell_expiring(week, month)
    assert "30 days" in told
    assert "last snapshot" in told
    assert not tell_expiring(week, week)
    assert not tell_expiring(week, without)
