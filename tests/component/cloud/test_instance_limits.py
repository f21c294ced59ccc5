"""The limits of the node's instance type, asked of the emulated AWS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.cloud.aws.call import Call
from agent.core.errors import RefusedError
from agent.core.model import Attachments, Provisioned, Reason, VolumeId
from agent.core.replace import replace
from tests.aws.faults import Fault, deny, throttle
from tests.aws.world import NodeUnderTest, World
from tests.component.cloud.test_ec2 import add_instance
from tests.component.cloud.test_orders import Clerk

POLICY = """
classes: {fast: {type: gp3}}
volumes:
""" + "".join(
    f"  - {{name: v{number}, claim: {{class: fast, size: 1GiB}}, block: {{}}}}\n" for number in range(3)
)
PAID = """
classes: {fast: {type: gp3, iops: 16000, throughput: 1000}}
volumes:
  - {name: one, claim: {class: fast, size: 40GiB}, block: {}}
"""


def name_type(node: NodeUnderTest, instance_type: str = "m5.xlarge") -> NodeUnderTest:
    node.identity = replace(node.identity, instance_type=instance_type)
    return node


def allow(node: NodeUnderTest, most: int, kind: str = "dedicated") -> None:
    """Have AWS tell another limit than the type has."""

    def spoil(call: Call[Any], answer: dict[str, Any]) -> None:
        if call.operation == "DescribeInstanceTypes":
            ebs = answer["InstanceTypes"][0]["EbsInfo"]
            ebs |= {"MaximumEbsAttachments": most, "AttachmentLimitType": kind}

    node.spoil = spoil


async def test_it_is_asked_once(world: World, tmp_path: Path) -> None:
    """However often is looked, and whatever the policy becomes, one call tells it for the process."""
    world.use_policy(tmp_path, POLICY)
    node = name_type(world.add_node(1))
    await node.settle()
    await node.look(5)
    places = node.loop.findings.places
    assert places is not None
    assert places.count(()) == Attachments("m5.xlarge", 3, 27, is_shared=True)
    world.use_policy(tmp_path, POLICY.replace("v2", "v3"))
    node.policy = world.policy
    await node.look(3)
    assert world.aws.calls["DescribeInstanceTypes"] == 1


async def test_unknown_node_asks_nothing(world: World, tmp_path: Path) -> None:
    """Where no source names the instance type there is nothing to ask about."""
    world.use_policy(tmp_path, POLICY)
    await world.add_node(1).settle()
    assert world.aws.calls["DescribeInstanceTypes"] == 0


async def test_what_has_no_room_is_not_made(world: World, tmp_path: Path) -> None:
    """No volume is made, and billed, that this instance has no place for; the others are here."""
    world.use_policy(tmp_path, POLICY)
    node = name_type(world.add_node(1))
    allow(node, 2)
    findings = await node.look(8)
    assert len(world.cloud.volumes) == 2
    (ending,) = findings.endings.values()
    assert ending.reason is Reason.ATTACHMENT_LIMIT
    assert "m5.xlarge takes 2" in ending.message
    assert world.aws.calls["AttachClusterNodeVolume"] == 2
    assert findings.places is not None
    assert findings.places.count(()) == Attachments("m5.xlarge", 2, 2, is_shared=False)


async def test_what_has_no_room_is_not_attached(world: World, tmp_path: Path) -> None:
    """A volume that is there waits for a place without a call, and comes once one is free."""
    first, second = world.cloud.make_volume(), world.cloud.make_volume()
    entry = "  - {{name: {}, match: {{volume_id: {}}}, block: {{}}}}\n"
    world.use_policy(tmp_path, "volumes:\n" + entry.format("a", first))
    node = name_type(world.add_node(1))
    allow(node, 1)
    await node.settle()
    world.use_policy(tmp_path, "volumes:\n" + entry.format("b", second))
    node.policy = world.policy
    findings = await node.look(3)
    assert findings.endings["b"].reason is Reason.ATTACHMENT_LIMIT
    assert world.aws.calls["AttachClusterNodeVolume"] == 1
    world.cloud.volumes[first].drop(str(node.identity.instance_id))
    world.devices.detach(first, str(node.identity.instance_id))
    findings = await node.look(3)
    assert not findings.endings
    assert world.aws.calls["AttachClusterNodeVolume"] == 2


async def test_ec2s_own_refusal_has_the_same_reason(world: World, tmp_path: Path) -> None:
    """Interfaces take places that nobody here counts: AWS refuses, and it is told in the same word."""
    world.use_policy(tmp_path, POLICY)
    node = name_type(add_instance(world), "m5.large")
    world.cloud.attachment_limit = 3  # the root volume is one
    allow(node, 4, "shared")
    findings = await node.look(6)
    (ending,) = findings.endings.values()
    assert ending.reason is Reason.ATTACHMENT_LIMIT
    assert "Volume attachment limit exceeded" in ending.message
    assert world.aws.calls["DescribeInstanceTypes"] == 1


async def test_little_room_is_tried_and_logged(world: World, tmp_path: Path) -> None:
    """What may have no room is tried all the same, and the log says so once for each volume."""
    world.use_policy(tmp_path, POLICY)
    node = name_type(world.add_node(1))
    allow(node, 3, "shared")
    with capture_logs() as logs:
        findings = await node.settle()
    assert not findings.endings
    warned = [entry for entry in logs if entry["event"] == "cloud.little_room"]
    assert len(warned) == 1
    assert "2 of 3 attachments" in warned[0]["why"]


async def test_faster_than_the_instance_is_a_notice(world: World, tmp_path: Path) -> None:
    """The volume is used, and its entry says what the instance has no use for."""
    world.use_policy(tmp_path, PAID)
    node = name_type(world.add_node(1))
    findings = await node.settle()
    assert not findings.endings
    notice = findings.notices["one"]
    assert notice.reason is Reason.FASTER_THAN_INSTANCE
    assert "1000 MiB/s" in notice.message
    assert "593 MB/s at most, for half an hour a day, and 143 at all times" in notice.message
    (remark,) = findings.remarks
    assert remark == (
        "one: The volume is given 16000 IOPS, and m5.xlarge does 18750 IOPS at most, for half an hour a day, "
        "and 6000 at all times."
    )


async def test_denied_is_silent(world: World, tmp_path: Path) -> None:
    """Without the permission all goes on as without limits, and the log says nothing."""
    world.use_policy(tmp_path, PAID)
    world.aws.faults.add(deny("DescribeInstanceTypes", "ec2:DescribeInstanceTypes"))
    node = name_type(world.add_node(1))
    with capture_logs() as logs:
        findings = await node.settle()
        await node.look(10)
    assert findings.places is None
    assert not findings.notices
    assert not [entry for entry in logs if entry["log_level"] == "warning"]
    assert world.aws.calls["DescribeInstanceTypes"] <= 2, "it rests"


async def test_unknown_type_is_asked_about_once(world: World, tmp_path: Path) -> None:
    """A type that EC2 does not know is none in an hour either."""
    world.use_policy(tmp_path, PAID)
    node = name_type(world.add_node(1), "p99.48xlarge")
    findings = await node.settle()
    for _ in range(4):
        node.time_s += 3600
        await node.look()
    assert findings.places is None
    assert world.aws.calls["DescribeInstanceTypes"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"InstanceTypes": [{"InstanceType": "m5.xlarge", "EbsInfo": {"MaximumEbsAttachments": "27"}}]},
        {"InstanceTypes": [{"InstanceType": "m5.xlarge"}]},
        {"InstanceTypes": [{"EbsInfo": {}}]},
        {"InstanceTypes": [None]},
        {"InstanceTypes": "m5.xlarge"},
        {"InstanceTypes": []},
        {"InstanceTypes": [{"InstanceType": "t3.nano", "EbsInfo": {"MaximumEbsAttachments": 1}}]},
    ],
)
async def test_malformed_answer_limits_nothing(world: World, tmp_path: Path, answer: dict[str, Any]) -> None:
    """What cannot be read, or is about another type, keeps no volume away."""
    world.use_policy(tmp_path, PAID)
    node = name_type(world.add_node(1))

    def spoil(call: Call[Any], told: dict[str, Any]) -> None:
        if call.operation == "DescribeInstanceTypes":
            told.clear()
            told.update(answer)

    node.spoil = spoil
    findings = await node.settle()
    assert findings.places is None
    assert not findings.endings
    assert not findings.notices


@pytest.mark.parametrize("fault", [throttle("DescribeInstanceTypes")], ids=["throttled"])
async def test_failure_passes(world: World, tmp_path: Path, fault: Fault) -> None:
    """What fails once is asked again, and keeps nothing waiting."""
    world.use_policy(tmp_path, PAID)
    world.aws.faults.add(fault)
    node = name_type(world.add_node(1))
    await node.settle()
    for _ in range(3):
        node.time_s += 900
        await node.look()
    assert node.loop.findings.places is not None


# -- Orders by hand ------------------------------------------------------------------------------------------


async def test_attaching_by_hand_is_warned_of_and_aws_is_asked(world: World) -> None:
    """That there is no place is told with the numbers; whether it is so, EC2 says."""
    node = name_type(world.add_node(1))
    allow(node, 1)
    clerk = Clerk(node)
    first, second = world.cloud.make_volume(), world.cloud.make_volume(iops=17000)
    said = await clerk.order("attach", volume=first)
    assert not [text for text in said if "no room" in text]
    said = await clerk.order("attach", volume=second)
    assert f"no room for {second}: 1 volumes are attached, and m5.xlarge takes 1." in said[0]
    assert "17000 IOPS, and m5.xlarge does 18750 IOPS at most, for half an hour a day, and 6000" in said[1]
    assert said[-1] == f"{second} is here."
    assert await clerk.order("attach", volume=second) == [f"{second} is here."]


async def test_attaching_by_hand_with_little_room_is_warned_of(world: World) -> None:
    """Where an interface may have the last place, that is told."""
    node = name_type(world.add_node(1))
    allow(node, 1, "shared")
    said = await Clerk(node).order("attach", volume=world.cloud.make_volume())
    assert "may have no room" in said[0]
    assert "0 of 1 attachments, which network interfaces may share" in said[0]


async def test_making_by_hand_is_warned_of(world: World) -> None:
    """A volume is made as it was asked for: it may be for another instance."""
    node = name_type(world.add_node(1))
    allow(node, 1)
    clerk = Clerk(node)
    await clerk.order("attach", volume=world.cloud.make_volume())
    said = await clerk.order("create", size="40GiB", type="gp3", iops=20000)
    assert "no room for the new volume" in said[0]
    assert "20000 IOPS, and m5.xlarge does 18750 IOPS at most" in said[1]
    assert clerk.answer["volume_id"] in world.cloud.volumes


async def test_volumes_here_count_for_the_speed_of_a_new_one(world: World) -> None:
    """What is too fast only together is told of both."""
    node = name_type(world.add_node(1))
    clerk = Clerk(node)
    clerk.board.provisioned = {VolumeId("vol-0123456789abcdef0"): Provisioned(16000, 125)}
    said = await clerk.order("create", size="40GiB", type="gp3", iops=5000)
    assert "The node's volumes are given 21000 IOPS together" in said[0]


async def test_restoring_makes_nothing_that_surely_has_no_room(world: World) -> None:
    """Otherwise it would be billed, and be of no use; one with a name may be here already, and goes on."""
    node = name_type(world.add_node(1))
    allow(node, 1)
    clerk = Clerk(node)
    volume = world.cloud.make_volume()
    snapshot = world.cloud.ec2.create_snapshot(volume, "").id
    said = await clerk.order("restore", snapshot=snapshot, name="copy")
    made = clerk.answer["volume_id"]
    assert said[-1].startswith(f"{made} holds what {snapshot} does.")
    with pytest.raises(RefusedError, match=r"m5\.xlarge takes 1") as raised:
        await clerk.order("restore", snapshot=snapshot)
    assert raised.value.reason is Reason.ATTACHMENT_LIMIT
    assert len(world.cloud.volumes) == 2
    await clerk.order("restore", snapshot=snapshot, name="copy")
    assert clerk.answer["volume_id"] == made


async def test_orders_go_on_where_limits_are_not_told(world: World) -> None:
    """Without the permission nothing is said, and nothing refused."""
    world.aws.faults.add(deny("DescribeInstanceTypes", "ec2:DescribeInstanceTypes"))
    volume = world.cloud.make_volume()
    said = await Clerk(name_type(world.add_node(1))).order("attach", volume=volume)
    assert said == [said[0], f"{volume} is here."]
    assert said[0].startswith("Asking AWS to attach")
