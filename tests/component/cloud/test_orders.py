from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.cloud.orders.context import OrderContext
from agent.cloud.orders.routes import ORDERS
from agent.cloud.orders.runner import Follower
from agent.cloud.plan.decisions import AttachApi, NodeView
from agent.cloud.view.describe_all import describe_known
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import VolumeId
from agent.policy import PolicyFile
from agent.report.board.board import Board
from tests.aws.cloud import OTHER_ZONE
from tests.aws.faults import Fault, Kind, deny
from tests.aws.world import NodeUnderTest, World
from tests.waiting import until


class Clerk:
    """Takes orders for a node, and keeps what was told of each."""

    def __init__(
        self, node: NodeUnderTest, api: AttachApi = AttachApi.HYPERPOD, policy_path: Path | None = None
    ) -> None:
        self.api = api
        self.policy_path = policy_path
        self.noted: list[VolumeId] = []
        """Volumes of which it was written down that a person took them away."""
        self.said: list[str] = []
        self.percents: list[float] = []
        self.answer: dict[str, Any] = {}
        """What came of the last order."""
        self.node = node
        self.board = Board()
        self.context = self._make_context()

    def _make_context(self) -> OrderContext:
        follower = Follower(
            self.node.make, self.node.hands, self._tell, self._note, self.node.record, pause_s=0.01
        )
        policy, path = self.node.policy, self.policy_path
        file = None if path is None else PolicyFile(path)
        return OrderContext(follower, self._view, self.board, self._keep, lambda: policy, file)

    async def _note(self, volume_id: VolumeId) -> None:
        assert volume_id not in self.node.hands.released, "noted before it is let go"
        self.noted.append(volume_id)

    async def _tell(self, text: str | None, percent: float | None = None) -> None:
        if text is not None:
            self.said.append(text)
        if percent is not None:
            self.percents.append(percent)

    def _view(self) -> NodeView:
        devices = frozenset(self.node.hands.list_devices())
        return NodeView(self.node.identity, self.api, devices)

    def _keep(self, volume_id: VolumeId) -> None:
        self.node.hands.released.discard(volume_id)

    async def order(self, order: str, **words: object) -> list[str]:
        """Carry an order out, and return what was told."""
        self.said.clear()
        self.answer = await ORDERS[order](self._make_context(), words)
        return list(self.said)


async def test_attach_and_detach(world: World) -> None:
    """Attaching ends when the device is here, detaching when it is gone; both may be asked for twice."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    assert (await clerk.order("attach", volume=volume))[-1] == f"{volume} is here."
    assert clerk.answer == {"volume_id": volume}
    assert await clerk.order("attach", volume=volume) == [f"{volume} is here."]
    assert (await clerk.order("detach", volume=volume))[-1] == f"{volume} is detached."
    assert clerk.noted == [volume]
    assert await clerk.order("detach", volume=volume) == [f"{volume} is detached."]
    assert world.aws.calls["AttachClusterNodeVolume"] == world.aws.calls["DetachClusterNodeVolume"] == 1


async def test_orders_that_no_api_carries_out_are_refused_at_once(world: World) -> None:
    """With attach_api: none nobody waits for a call that is never made; detaching lets go first."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node, AttachApi.NONE)
    with anyio.fail_after(20):
        with pytest.raises(RefusedError, match="attach_api is none"):
            await clerk.order("attach", volume=volume)
        await Clerk(node).order("attach", volume=volume)
        with pytest.raises(RefusedError, match="detach it by hand"):
            await clerk.order("detach", volume=volume)
    assert volume in node.hands.released


async def test_attach_by_hand_and_the_loop_do_not_race(world: World) -> None:
    """A released volume is the policy's again when it is here, not before: the loop would attach it too."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    node.hands.released.add(volume)
    clerk = Clerk(node)
    world.devices.delay = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(clerk.order, "attach", volume=volume))
        await until(lambda: world.aws.calls["AttachClusterNodeVolume"] or None)
        assert volume in node.hands.released
        world.devices.catch_up()
    assert volume not in node.hands.released


async def test_detach_of_a_volume_in_use(world: World) -> None:
    """A volume in use is refused with who uses it; --force takes it all the same."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    await clerk.order("attach", volume=volume)
    node.hands.busy.add(volume)
    with pytest.raises(RefusedError, match="pid 4711") as raised:
        await clerk.order("detach", volume=volume)
    assert raised.value.exit_code is ExitCode.REFUSED
    assert "--force" in str(raised.value.hint)
    assert world.aws.calls["DetachClusterNodeVolume"] == 0
    await clerk.order("detach", volume=volume, force=True)
    assert world.aws.calls["DetachClusterNodeVolume"] == 1


async def test_volume_that_cannot_be_flushed_is_not_to_be_forced(world: World) -> None:
    """Nobody is in the way: what is told is the error, and not how to lose what was not flushed."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    await clerk.order("attach", volume=volume)
    node.hands.broken.add(volume)
    with pytest.raises(AgentError, match="could not be flushed") as raised:
        await clerk.order("detach", volume=volume)
    assert raised.value.exit_code is ExitCode.FAILED
    assert "--force" not in str(raised.value.hint)
    assert world.aws.calls["DetachClusterNodeVolume"] == 0


async def test_attach_that_cannot_be(world: World) -> None:
    """What waiting does not change ends the order at once: another zone, another holder, nothing there."""
    node = world.add_node(1)
    clerk = Clerk(node)
    far = VolumeId(world.cloud.make_volume(zone=OTHER_ZONE))
    with pytest.raises(RefusedError, match="us-west-2b"):
        await clerk.order("attach", volume=far)
    taken = VolumeId(world.cloud.make_volume())
    await Clerk(world.add_node(2)).order("attach", volume=taken)
    with pytest.raises(RefusedError, match="i-00000000000000002"):
        await clerk.order("attach", volume=taken)
    with pytest.raises(AgentError, match="AWS knows no vol-0123456789abcdef0"):
        await clerk.order("attach", volume="vol-0123456789abcdef0")


async def test_create(world: World) -> None:
    """A volume made by hand lies in this zone and carries the agent's mark, and no claim's."""
    node = world.add_node(1)
    clerk = Clerk(node)
    said = await clerk.order("create", size="3GiB", iops=4000, name="scratch")
    (volume,) = world.cloud.volumes.values()
    assert said[-1] == f"{volume.id} is available in us-west-2a."
    assert clerk.answer == {"volume_id": volume.id}
    tags = {tag["key"]: tag["value"] for tag in volume.get_tags()}
    assert tags == {
        "ebs-agent:made-by": "ebs-agent",
        "ebs-agent:cluster": "abcde01234yz",
        "ebs-agent:order": "scratch",
        "Name": "scratch",
    }


async def test_name_is_one_volume(world: World) -> None:
    """Asking again for a name, also when the answer was lost, goes on with the volume there is."""
    clerk = Clerk(world.add_node(1))
    world.aws.faults.add(Fault("CreateVolume", Kind.LOST_ANSWER))
    await clerk.order("create", size="3GiB", name="scratch")
    await clerk.order("create", size="3GiB", name="scratch")
    assert len(world.cloud.made) == 1
    await clerk.order("create", size="3GiB")
    await clerk.order("create", size="3GiB")
    assert len(world.cloud.made) == 3


async def test_name_of_a_deleted_volume_is_free(world: World) -> None:
    """A volume that was deleted, whose token AWS remembers, does not stand in the way of a new one."""
    clerk = Clerk(world.add_node(1))
    await clerk.order("create", size="3GiB", name="scratch")
    world.cloud.ec2.delete_volume(world.cloud.made[0])
    await clerk.order("create", size="3GiB", name="scratch")
    assert list(world.cloud.volumes) == world.cloud.made[1:]


async def test_name_is_never_another_volume(world: World) -> None:
    """A name that is a volume of another size, type, numbers or key is refused, and nothing is made."""
    clerk = Clerk(world.add_node(1))
    await clerk.order("create", size="3GiB", name="scratch")
    for words in (
        {"size": "500GiB"},
        {"size": "3GiB", "type": "gp2"},
        {"size": "3GiB", "iops": 4000},
        {"size": "3GiB", "throughput": 250},
        {"size": "3GiB", "encrypted": True},
    ):
        with pytest.raises(RefusedError, match="not what was asked for"):
            await clerk.order("create", name="scratch", **words)
    assert len(world.cloud.made) == 1


async def test_name_asked_for_differently_before_it_is_described(world: World) -> None:
    """Where descriptions lag behind, the token tells that the name was asked for with other parameters."""
    clerk = Clerk(world.add_node(1))
    world.cloud.pace.lag_s = 60.0
    await clerk.order("create", size="3GiB", name="scratch")
    with pytest.raises(RefusedError, match="other parameters"):
        await clerk.order("create", size="4GiB", name="scratch")
    assert len(world.cloud.made) == 1


async def test_name_is_of_one_cluster(world: World) -> None:
    """Another cluster's volume of the same name is another volume; one that says no cluster is refused."""
    marks = {"ebs-agent:made-by": "ebs-agent", "ebs-agent:order": "scratch"}
    world.cloud.make_volume(3, tags={**marks, "ebs-agent:cluster": "zzzzz01234yz"})
    clerk = Clerk(world.add_node(1))
    await clerk.order("create", size="3GiB", name="scratch")
    assert len(world.cloud.made) == 1
    other = world.cloud.make_volume(3, tags={**marks, "ebs-agent:order": "old"})
    with pytest.raises(RefusedError, match=other):
        await clerk.order("create", size="3GiB", name="old")


async def test_restore(world: World) -> None:
    """A snapshot becomes a volume of its own that is attached here; asking again makes no second one."""
    clerk = Clerk(world.add_node(1))
    source = world.cloud.make_volume(3)
    snapshot, other = (world.cloud.ec2.create_snapshot(source, text).id for text in ("a", "b"))
    said = await clerk.order("restore", snapshot=snapshot, name="copy")
    (volume,) = world.cloud.made
    assert world.cloud.volumes[volume].snapshot_id == snapshot
    assert volume in clerk.node.hands.list_devices()
    assert f"volume_id: {volume}" in said[-1]
    assert clerk.answer == {"volume_id": volume, "snapshot_id": snapshot}
    assert await clerk.order("restore", snapshot=snapshot, name="copy")
    assert world.cloud.made == [volume]
    with pytest.raises(RefusedError, match=f"was made from {snapshot}"):
        await clerk.order("restore", snapshot=other, name="copy")
    with pytest.raises(AgentError, match="not an EBS snapshot ID"):
        await clerk.order("restore", snapshot="vol-0123456789abcdef0")


async def test_attach_while_descriptions_lag(world: World) -> None:
    """What AWS was asked and does not describe yet is not asked of it again."""
    world.cloud.pace.lag_s = 0.3
    clerk, volume = Clerk(world.add_node(1)), VolumeId(world.cloud.make_volume())
    world.devices.delay = True
    await until_described(clerk, volume)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(clerk.order, "attach", volume=volume))
        await until(lambda: "does not show it yet" in " ".join(clerk.said))
        world.devices.catch_up()
    assert world.aws.calls["AttachClusterNodeVolume"] == 1


async def test_attach_that_somebody_else_was_quicker_to_ask_for(world: World) -> None:
    """AWS's word that the volume is not in a state for it is looked into, and ends no order."""
    clerk, volume = Clerk(world.add_node(1)), VolumeId(world.cloud.make_volume())
    message = f"HyperPod - Ec2ErrCode: IncorrectState - {volume} is not 'available'."
    fault = Fault("AttachClusterNodeVolume", code="ValidationException", message=message, status=400)
    world.aws.faults.add(fault)
    said = await clerk.order("attach", volume=volume)
    assert "is not in a state for AttachClusterNodeVolume now" in said[1]
    assert said[-1] == f"{volume} is here."


async def until_described(clerk: Clerk, volume: VolumeId) -> None:
    with anyio.fail_after(20):
        while not await describe_known(clerk.node.make, [volume]):  # noqa: ASYNC110 - only asking tells
            await anyio.sleep(0.02)


async def test_busy_volume_is_said_to_be_busy(world: World) -> None:
    """A volume AWS cannot take from the instance stays attached, and its state is told."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    await clerk.order("attach", volume=volume)
    (attachment,) = world.cloud.volumes[volume].emulated
    attachment.is_busy = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(clerk.order, "detach", volume=volume))
        await until(lambda: f"{volume} is busy from this node." in clerk.said)
        tasks.cancel_scope.cancel()
    assert world.aws.calls["DetachClusterNodeVolume"] == 1


async def test_detaching_is_waited_for(world: World) -> None:
    """A volume that is detaching is not detached, whatever the device says."""
    world.cloud.pace.detach_s = 0.3
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    await clerk.order("attach", volume=volume)
    said = await clerk.order("detach", volume=volume)
    assert f"{volume} is detaching from this node." in said
    assert not world.cloud.volumes[volume].emulated


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "needs something to change"),
        ({"type": "gp9"}, "'gp9' is no type"),
        ({"type": "gp2", "iops": 3000}, "IOPS of gp2"),
        ({"type": "io2", "throughput": 500, "iops": 3000}, "throughput of io2"),
        ({"type": "io2"}, "io2 volumes need iops"),
        ({"iops": 0}, "iops is not a number"),
        ({"throughput": "fast"}, "throughput is not a number"),
    ],
)
async def test_contradictory_modification_is_not_sent(
    world: World, words: dict[str, object], message: str
) -> None:
    """What contradicts itself is told before AWS is asked."""
    clerk, volume = Clerk(world.add_node(1)), VolumeId(world.cloud.make_volume())
    with pytest.raises(AgentError, match=message) as raised:
        await clerk.order("modify", volume=volume, **words)
    assert raised.value.exit_code is ExitCode.USAGE
    assert not world.aws.calls["ModifyVolume"]


async def test_expand_shows_progress_and_never_shrinks(world: World) -> None:
    """Expanding follows the modification until the size is usable; smaller is refused, equal is done."""
    world.cloud.pace.modify_s = 0.2
    world.cloud.pace.optimize_s = 60
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume(2))
    clerk = Clerk(node)
    said = await clerk.order("expand", volume=volume, size="5GiB")
    assert "being modified" in said[1]
    assert clerk.percents
    assert all(f"being modified, {percent} %." in " ".join(said) for percent in clerk.percents)
    assert said[-1] == f"{volume} is optimizing; the change is usable."
    with pytest.raises(RefusedError, match="never shrink"):
        await clerk.order("expand", volume=volume, size="1GiB")
    with pytest.raises(AgentError, match="whole GiB"):
        await clerk.order("expand", volume=volume, size="5121MiB")
    with pytest.raises(AgentError, match="gp3 volume has 1GiB to 64TiB"):
        await clerk.order("expand", volume=volume, size="65TiB")
    with pytest.raises(AgentError, match="is optimizing"):
        await clerk.order("expand", volume=volume, size="9GiB")
    assert world.aws.calls["ModifyVolume"] == 1


async def test_modification_that_changes_nothing_is_not_sent(world: World) -> None:
    """A class the volume has already costs no modification."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    assert "so already" in (await clerk.order("modify", volume=volume, type="gp3"))[0]
    assert world.aws.calls["ModifyVolume"] == 0
    await clerk.order("modify", volume=volume, iops=5000)
    assert world.cloud.volumes[volume].iops == 5000


async def test_snapshots_by_hand(world: World) -> None:
    """A snapshot is taken frozen, listed, and deleted only if the agent made it."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    foreign = world.cloud.ec2.create_snapshot(volume, "somebody's own").id
    said = await clerk.order("snapshot", volume=volume, wait=True)
    assert node.hands.freezes == 1
    taken = clerk.answer
    snapshot = taken["snapshot_id"]
    assert said[0].startswith(f"{snapshot} of {volume} has begun")
    assert (taken["state"], taken["frozen"], taken["made_by_agent"]) == ("completed", "yes", True)
    await clerk.order("snapshots", volume=volume)
    listed = clerk.answer["snapshots"]
    assert {one["snapshot_id"] for one in listed} == {snapshot, foreign}
    await clerk.order("snapshots")
    assert clerk.answer["snapshots"] == [one for one in listed if one["made_by_agent"]] == [taken]
    with pytest.raises(RefusedError, match="not made by the agent"):
        await clerk.order("delete-snapshot", snapshot=foreign)
    await clerk.order("delete-snapshot", snapshot=snapshot)
    assert list(world.cloud.ec2.snapshots) == [foreign]


async def test_freeze_ends_when_the_call_fails(world: World) -> None:
    """A snapshot AWS refuses leaves the filesystem thawed."""
    node, volume = world.add_node(1), VolumeId(world.cloud.make_volume())
    clerk = Clerk(node)
    world.aws.faults.add(deny("CreateSnapshot", "ec2:CreateSnapshot", times=1))
    with pytest.raises(AgentError, match="ec2:CreateSnapshot is missing"):
        await clerk.order("snapshot", volume=volume)
    assert node.hands.freezes == 0
    world.aws.faults.add(Fault("CreateSnapshot", code="SnapshotCreationPerVolumeRateExceeded", status=400))
    with pytest.raises(AgentError, match="some seconds after the last"):
        await clerk.order("snapshot", volume=volume)
    assert node.hands.freezes == 1
    assert not node.hands.is_frozen


async def test_orders_are_events(world: World) -> None:
    """What a person had done at AWS is told like what the policy has done, and by whom."""
    node = world.add_node(1)
    clerk = Clerk(node)
    await clerk.order("create", size="2GiB")
    volume = clerk.answer["volume_id"]
    await clerk.order("attach", volume=volume)
    await clerk.order("modify", volume=volume, iops=4000)
    await clerk.order("snapshot", volume=volume, freeze=False)
    await clerk.order("delete-snapshot", snapshot=clerk.answer["snapshot_id"])
    await clerk.order("detach", volume=volume)
    assert [name for name, _ in node.events] == [
        "volume.created",
        "volume.attached_by",
        "volume.modified",
        "snapshot.taken",
        "snapshot.deleted",
        "volume.detached_by",
    ]
    assert {about for _, about in node.events} == {volume}
    assert {fields["by"] for fields in node.told} == {"order"}
