"""Volumes on their way to nodes: in every state, with answers lost, and killed at any call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from agent.cloud.aws.calls import AttachClusterNodeVolume, AttachVolume, DetachVolume
from agent.controller.attaching.attach import STUCK_S
from agent.controller.attaching.attachments import AskedOfVolumes, Attachments
from agent.controller.calls import AttachCall, NodeId, NoSuchThingError
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from tests.unit.controller.stand_in import HYPERPOD, NODE, OTHER, VOLUME, KilledError, StandIn, run_until


class Controller:
    """One controller, from its start to its death."""

    def __init__(self, cloud: StandIn) -> None:
        locks: defaultdict[VolumeId, asyncio.Lock] = defaultdict(asyncio.Lock)
        asked = AskedOfVolumes(cloud.find, cloud.find_checks)
        attachments = Attachments(
            cloud.make, asked, locks.__getitem__, "us-gov-west-1", cloud.patience(), window_s=0.0
        )
        self.attach, self.detach = attachments.attach, attachments.detach


@pytest.fixture
def cloud() -> StandIn:
    cloud = StandIn()
    cloud.add()
    return cloud


def name_states(cloud: StandIn) -> dict[str, str]:
    volume = cloud.describe(VOLUME)
    assert volume is not None
    return {str(one.instance_id): one.state for one in volume.attachments}


@pytest.mark.parametrize("node", [NODE, HYPERPOD], ids=["EC2", "HyperPod"])
async def test_a_volume_is_attached_once_it_is_described_so(cloud: StandIn, node: NodeId) -> None:
    told = await Controller(cloud).attach(AttachCall(VOLUME, node))
    assert name_states(cloud) == {node.instance_id: "attached"}
    kind = AttachVolume if node is NODE else AttachClusterNodeVolume
    assert [type(call) for call in cloud.made] == [kind]
    by_id = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
    assert told == (("devicePath", "/dev/sdf" if node is NODE else by_id),)


@pytest.mark.parametrize("node", [NODE, HYPERPOD], ids=["EC2", "HyperPod"])
async def test_one_that_is_attached_costs_a_look_only(cloud: StandIn, node: NodeId) -> None:
    cloud.hold(node)
    await Controller(cloud).attach(AttachCall(VOLUME, node, is_read_only=True))
    assert (cloud.made, cloud.looks) == ([], 1)


async def test_an_attachment_that_is_under_way_is_joined(cloud: StandIn) -> None:
    cloud.hold(NODE).began_s = cloud.time_s
    await Controller(cloud).attach(AttachCall(VOLUME, NODE))
    assert not cloud.made
    assert name_states(cloud) == {NODE.instance_id: "attached"}


@pytest.mark.parametrize("holder", [OTHER, HYPERPOD], ids=str)
@pytest.mark.parametrize("state", ["attached", "attaching", "busy"])
async def test_a_volume_is_never_taken_from_a_node(cloud: StandIn, holder: NodeId, state: str) -> None:
    """Who has it is named by the ID that its CSINode has."""
    held = cloud.hold(holder)
    held.is_busy = state == "busy"
    cloud.attach_s = 1e9 if state == "attaching" else cloud.attach_s
    with pytest.raises(RefusedError, match=f"{state} to {holder}") as caught:
        await Controller(cloud).attach(AttachCall(VOLUME, NODE))
    assert caught.value.reason is Reason.ATTACHED_ELSEWHERE
    assert not cloud.made


async def test_a_volume_that_leaves_another_node_is_waited_for(cloud: StandIn) -> None:
    cloud.hold(OTHER).ends_s = cloud.time_s + 2
    await Controller(cloud).attach(AttachCall(VOLUME, NODE))
    assert name_states(cloud) == {NODE.instance_id: "attached"}
    assert len(cloud.made) == 1


async def test_one_that_does_not_leave_is_told_of(cloud: StandIn) -> None:
    cloud.detach_s = 1e9
    cloud.hold(OTHER).ends_s = cloud.time_s + 1e8
    with pytest.raises(AgentError, match=f"detaching from {OTHER}") as caught:
        await Controller(cloud).attach(AttachCall(VOLUME, NODE))
    assert caught.value.reason is Reason.WAITING_FOR_CLOUD


async def test_multi_attach_goes_to_several_nodes_and_nothing_else_does(cloud: StandIn) -> None:
    cloud.hold(OTHER)
    with pytest.raises(RefusedError) as caught:
        await Controller(cloud).attach(AttachCall(VOLUME, NODE, is_multi_node=True))
    assert caught.value.reason is Reason.MULTI_ATTACH
    cloud.add(is_multi_attach=True)
    cloud.hold(OTHER)
    with pytest.raises(RefusedError):  # its claim says one node
        await Controller(cloud).attach(AttachCall(VOLUME, NODE))
    await Controller(cloud).attach(AttachCall(VOLUME, NODE, is_multi_node=True))
    assert name_states(cloud) == {OTHER.instance_id: "attached", NODE.instance_id: "attached"}


@pytest.mark.parametrize(
    ("facts", "kind"),
    [({"state": "deleting"}, NoSuchThingError), ({"state": "error"}, AgentError)],
    ids=["being deleted", "broken"],
)
async def test_what_cannot_be_attached_is_not_asked_for(
    facts: dict[str, Any], kind: type[AgentError]
) -> None:
    cloud = StandIn()
    cloud.add(**facts)
    with pytest.raises(kind, match=VOLUME):
        await Controller(cloud).attach(AttachCall(VOLUME, NODE))
    assert not cloud.made


async def test_a_volume_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NoSuchThingError, match=VOLUME):
        await Controller(StandIn()).attach(AttachCall(VOLUME, NODE))


@pytest.mark.parametrize("node", [NODE, HYPERPOD], ids=str)
async def test_a_node_that_is_not_there_is_not_found(cloud: StandIn, node: NodeId) -> None:
    cloud.gone_nodes.add(node)
    with pytest.raises(NoSuchThingError, match=f"no node {node}"):
        await Controller(cloud).attach(AttachCall(VOLUME, node))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("AttachmentLimitExceeded", Reason.ATTACHMENT_LIMIT),
        ("InvalidVolume.ZoneMismatch", Reason.WRONG_ZONE),
        ("UnauthorizedOperation", Reason.PERMISSION_DENIED),
        ("InvalidVolume.NotFound", Reason.NOT_ATTACHED),
    ],
)
async def test_what_aws_refuses_is_told_at_once(cloud: StandIn, code: str, reason: Reason) -> None:
    cloud.refusals["AttachVolume"] = [(code, "words")]
    with pytest.raises(AgentError) as caught:
        await Controller(cloud).attach(AttachCall(VOLUME, NODE))
    assert caught.value.reason is reason
    assert len(cloud.made) == 1


@pytest.mark.parametrize("lag_s", [0.0, 10.0])
@pytest.mark.parametrize("node", [NODE, HYPERPOD], ids=["EC2", "HyperPod"])
async def test_a_lost_answer_is_looked_up(cloud: StandIn, node: NodeId, lag_s: float) -> None:
    cloud.lost.add(0)
    cloud.lag_s = lag_s
    await Controller(cloud).attach(AttachCall(VOLUME, node))
    assert name_states(cloud) == {node.instance_id: "attached"}
    assert len(cloud.held[VOLUME]) == 1


async def test_a_stuck_attachment_is_taken_back_and_tried_anew(cloud: StandIn) -> None:
    cloud.attach_s = 1e9
    controller = Controller(cloud)
    with pytest.raises(AgentError, match="did not get there") as caught:
        await controller.attach(AttachCall(VOLUME, NODE))
    assert caught.value.reason is Reason.CLOUD_ERROR
    assert STUCK_S <= cloud.time_s < STUCK_S + 20
    assert [type(call) for call in cloud.made] == [AttachVolume, DetachVolume]
    cloud.attach_s = 3.0
    await controller.attach(AttachCall(VOLUME, NODE))
    assert name_states(cloud) == {NODE.instance_id: "attached"}


async def test_volumes_that_come_at_once_never_share_a_name() -> None:
    cloud = StandIn()
    volumes = [cloud.add(VolumeId(f"vol-{number:017x}")) for number in range(20)]
    controller = Controller(cloud)
    await asyncio.gather(*(controller.attach(AttachCall(one, NODE)) for one in volumes))
    assert len(set(cloud.list_names(NODE))) == len(volumes)
    assert len(cloud.made) == len(volumes)  # and none was refused


async def test_one_question_is_about_many_instances() -> None:
    """Where many nodes start at once, their names are asked for together."""
    cloud = StandIn()
    nodes = [NodeId(f"i-{number:017x}") for number in range(50)]
    volumes = [cloud.add(VolumeId(f"vol-{number:017x}")) for number in range(50)]
    controller = Controller(cloud)
    calls = (controller.attach(AttachCall(one, node)) for one, node in zip(volumes, nodes, strict=True))
    await asyncio.gather(*calls)
    assert cloud.questions == 1
    assert len(cloud.made) == 50


async def test_two_replicas_come_to_names_of_their_own() -> None:
    cloud = StandIn()
    volumes = [cloud.add(VolumeId(f"vol-{number:017x}")) for number in range(12)]
    replicas = [Controller(cloud), Controller(cloud)]
    calls = [replicas[number % 2].attach(AttachCall(one, NODE)) for number, one in enumerate(volumes)]
    await asyncio.gather(*calls)
    assert len(set(cloud.list_names(NODE))) == len(volumes)


async def test_names_of_volumes_that_left_are_given_again(cloud: StandIn) -> None:
    controller = Controller(cloud)
    for _ in range(100):  # more often than there are names
        await controller.attach(AttachCall(VOLUME, NODE))
        await controller.detach(VOLUME, NODE)
    assert not name_states(cloud)


@pytest.mark.parametrize("node", [NODE, HYPERPOD], ids=["EC2", "HyperPod"])
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [0, 1])
async def test_killed_at_any_call_the_next_controller_ends_it(
    cloud: StandIn, node: NodeId, number: int, *, is_after: bool
) -> None:
    """Attached and detached, with a death around each call: the next one asks for the same, and has it."""
    cloud.kill = (number, is_after)
    cloud.lag_s = 2.0
    has_died = False
    for deed in ("attach", "detach"):
        for _ in range(2):
            controller = Controller(cloud)
            try:
                if deed == "attach":
                    await controller.attach(AttachCall(VOLUME, node))
                    assert name_states(cloud) == {node.instance_id: "attached"}
                else:
                    await controller.detach(VOLUME, node)
                    assert not name_states(cloud)
            except KilledError:
                has_died = True
            else:
                break
    assert has_died
    cloud.time_s += 1000
    assert not name_states(cloud)


async def test_a_detach_does_not_overtake_a_newer_attach(cloud: StandIn) -> None:
    """Asked while the volume is still leaving, the attach comes after it, and its attachment stays."""
    cloud.hold(NODE)
    controller = Controller(cloud)
    leaving = asyncio.create_task(controller.detach(VOLUME, NODE))
    await run_until(lambda: bool(cloud.made))
    coming = asyncio.create_task(controller.attach(AttachCall(VOLUME, NODE)))
    await asyncio.gather(leaving, coming)
    assert [type(call) for call in cloud.made] == [DetachVolume, AttachVolume]
    assert name_states(cloud) == {NODE.instance_id: "attached"}


async def test_an_attachment_that_has_ended_is_not_taken_for_the_new_one(cloud: StandIn) -> None:
    """A description that lags behind shows the last attachment to the very node again."""
    cloud.hold(NODE)
    controller = Controller(cloud)
    await controller.detach(VOLUME, NODE)
    cloud.lag_s = cloud.time_s + 1  # a host that is further behind answers now
    coming = asyncio.create_task(controller.attach(AttachCall(VOLUME, NODE)))
    await run_until(lambda: cloud.looks > 1 and bool(cloud.made[1:]))
    cloud.lag_s = 0.0
    await coming
    assert [type(call) for call in cloud.made] == [DetachVolume, AttachVolume]
