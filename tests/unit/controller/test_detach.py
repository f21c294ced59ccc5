"""Volumes on their way off nodes: done when none is described, whatever AWS answers to the call."""

from __future__ import annotations

import pytest

from agent.cloud.aws.calls import AttachVolume, DetachClusterNodeVolume, DetachVolume
from agent.controller.calls import NodeId
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from tests.unit.controller.stand_in import HYPERPOD, NODE, OTHER, VOLUME, StandIn
from tests.unit.controller.test_attach import Controller, name_states


@pytest.fixture
def cloud() -> StandIn:
    cloud = StandIn()
    cloud.add()
    return cloud


@pytest.mark.parametrize("node", [NODE, HYPERPOD], ids=["EC2", "HyperPod"])
async def test_a_volume_has_left_when_none_is_described(cloud: StandIn, node: NodeId) -> None:
    cloud.hold(node)
    await Controller(cloud).detach(VOLUME, node)
    assert not name_states(cloud)
    kind = DetachVolume if node is NODE else DetachClusterNodeVolume
    assert [type(call) for call in cloud.made] == [kind]


@pytest.mark.parametrize("code", ["IncorrectState", "InvalidAttachment.NotFound", "InternalError"])
async def test_what_aws_answers_proves_nothing(cloud: StandIn, code: str) -> None:
    """An attachment that is described is not gone, in whatever words the call is refused."""
    cloud.hold(NODE)
    cloud.refusals["DetachVolume"] = [(code, "words"), (code, "words")]
    await Controller(cloud).detach(VOLUME, NODE)
    assert not name_states(cloud)
    assert len(cloud.made) == 3


async def test_one_that_stays_is_told_of(cloud: StandIn) -> None:
    cloud.hold(NODE).is_busy = True
    with pytest.raises(AgentError, match=f"busy and in use at {NODE}") as caught:
        await Controller(cloud).detach(VOLUME, NODE)
    assert caught.value.reason is Reason.WAITING_FOR_CLOUD
    assert name_states(cloud) == {NODE.instance_id: "busy"}


async def test_a_denial_is_told_where_the_volume_is_attached_and_nowhere_else(cloud: StandIn) -> None:
    denial = ("UnauthorizedOperation", "words")
    cloud.refusals["DetachVolume"] = [denial]
    await Controller(cloud).detach(VOLUME, NODE)
    cloud.hold(NODE)
    cloud.refusals["DetachVolume"] = [denial]
    with pytest.raises(AgentError) as caught:
        await Controller(cloud).detach(VOLUME, NODE)
    assert caught.value.reason is Reason.PERMISSION_DENIED


async def test_an_attachment_that_is_not_described_yet_is_ended(cloud: StandIn) -> None:
    """An earlier controller asked for it a moment ago, and what is described lags behind."""
    cloud.lag_s = 5.0
    await cloud.make(AttachVolume(NODE.instance_id, VOLUME, "/dev/sdf"))
    await Controller(cloud).detach(VOLUME, NODE)
    cloud.time_s += 100
    assert not name_states(cloud)


async def test_a_volume_that_is_gone_has_left(cloud: StandIn) -> None:
    await Controller(cloud).detach(VolumeId("vol-00000000000000000"), NODE)
    assert not cloud.made


@pytest.mark.parametrize("node", [NODE, HYPERPOD], ids=["EC2", "HyperPod"])
async def test_of_a_node_that_is_gone_the_attachment_is_looked_at(cloud: StandIn, node: NodeId) -> None:
    """It may be there for a while after the node is; then it has left, too."""
    code = "InvalidInstanceID.NotFound" if node is NODE else "ResourceNotFound"
    cloud.hold(node).ends_s = cloud.time_s + 20
    operation = "DetachVolume" if node is NODE else "DetachClusterNodeVolume"
    cloud.detach_s = 0.0
    cloud.refusals[operation] = [(code, "words")]
    await Controller(cloud).detach(VOLUME, node)
    assert cloud.time_s >= 20
    assert not name_states(cloud)


async def test_another_node_keeps_a_volume_with_multi_attach() -> None:
    cloud = StandIn()
    cloud.add(is_multi_attach=True)
    cloud.hold(NODE)
    cloud.hold(OTHER)
    await Controller(cloud).detach(VOLUME, NODE)
    assert name_states(cloud) == {OTHER.instance_id: "attached"}


async def test_without_a_node_it_leaves_all() -> None:
    cloud = StandIn()
    cloud.add(is_multi_attach=True)
    for node in (NODE, OTHER, HYPERPOD):
        cloud.hold(node)
    await Controller(cloud).detach(VOLUME, None)
    assert not name_states(cloud)
    assert len(cloud.made) == 3


async def test_what_leaves_already_is_waited_for(cloud: StandIn) -> None:
    cloud.hold(NODE).ends_s = cloud.time_s + 2
    await Controller(cloud).detach(VOLUME, NODE)
    assert not cloud.made
    assert not name_states(cloud)


async def test_one_answer_without_the_volume_is_no_proof(cloud: StandIn) -> None:
    """A host that lags does not know the volume, and a node has it."""
    cloud.hold(NODE)
    volume = cloud.kept.pop(VOLUME)

    def come_back() -> None:
        if cloud.looks == 1:
            cloud.kept[VOLUME] = volume

    cloud.on_sleep = come_back
    await Controller(cloud).detach(VOLUME, NODE)
    assert cloud.made
    assert not name_states(cloud)
