"""The controller's attaching and snapshots, against an AWS that refuses as AWS does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from agent.cloud.aws.call import Make
from agent.cloud.aws_worker.client import CloudClient
from agent.controller.attaching.attachments import AskedOfVolumes, Attachments
from agent.controller.calls import (
    AttachCall,
    NodeId,
    NoSuchThingError,
    SnapshotCall,
    SnapshotLock,
    SnapshotQuery,
)
from agent.controller.describing.describing import Describing
from agent.controller.patience import Patience
from agent.controller.snapshots.cluster_snapshots import ClusterSnapshots
from agent.controller.turns import Turns
from agent.controller.volumes.listing import Listing
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from tests.aws.checks import StatusOfVolume
from tests.aws.cloud import CLUSTER_ID, OTHER_ZONE, REGION
from tests.aws.faults import Fault, Kind, deny
from tests.aws.resources import NEVER
from tests.aws.world import World
from tests.component.cloud.test_ec2 import add_instance


class Controller:
    """What the controller composes, on one client."""

    def __init__(self, make: Make, world: World) -> None:
        async def sleep(pause_s: float) -> None:
            world.time_s += pause_s
            await asyncio.sleep(0)

        describing, turns = Describing(make, window_s=0.01), Turns()
        patience = Patience(lambda: world.time_s, sleep)
        asked = AskedOfVolumes(describing.find_volume, describing.find_checks)
        attachments = Attachments(make, asked, turns.take, REGION, patience, 0.01)
        self.attach, self.detach = attachments.attach, attachments.detach
        self.listing = Listing(attachments.sights, describing.list_volumes)
        self.snapshots = ClusterSnapshots(make, describing, turns.take, "prod", patience)


@pytest.fixture
async def controller(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Controller]:
    """Return one that asks AWS in a thread, or by a worker's process where a test says so."""
    world.cloud.pace.clock = lambda: world.time_s
    if not getattr(request, "param", False):
        yield Controller(world.add_node(99).make, world)
        return
    async with CloudClient(world.settings()) as client:
        yield Controller(client.make, world)


@pytest.fixture(params=["EC2", "HyperPod"])
def nodes(world: World, request: pytest.FixtureRequest) -> tuple[NodeId, NodeId]:
    """Two nodes, of the account or of a cluster."""
    if request.param == "EC2":
        return NodeId(instance_of(world)), NodeId(instance_of(world))
    added = [str(world.add_node(number).identity.instance_id) for number in (1, 2)]
    return NodeId(added[0], CLUSTER_ID), NodeId(added[1], CLUSTER_ID)


def instance_of(world: World) -> str:
    return str(add_instance(world).identity.instance_id)


def list_holders(world: World, volume_id: str) -> list[tuple[str, str]]:
    return [(one.holder, one.state) for one in world.cloud.volumes[volume_id].emulated]


@pytest.mark.parametrize("controller", [True], indirect=True, ids=["by a worker"])
async def test_a_volume_goes_from_node_to_node(
    world: World, controller: Controller, nodes: tuple[NodeId, NodeId]
) -> None:
    """It is refused where another node has it, and listed at the node that has it."""
    world.cloud.pace.attach_s = world.cloud.pace.detach_s = 4.0
    volume = VolumeId(world.cloud.make_volume())
    one, other = nodes
    told = await controller.attach(AttachCall(volume, one))
    assert list_holders(world, volume) == [(one.instance_id, "attached")]
    assert dict(told)["devicePath"].startswith("/dev/")
    with pytest.raises(RefusedError, match=str(one)):
        await controller.attach(AttachCall(volume, other))
    page = await controller.listing.list_volumes(None, None)
    assert {held.volume.volume_id: held.nodes for held in page.entries}[volume] == (one,)
    await controller.detach(volume, one)
    await controller.detach(volume, one)
    assert list_holders(world, volume) == []
    await controller.attach(AttachCall(volume, other))
    assert list_holders(world, volume) == [(other.instance_id, "attached")]


@pytest.mark.parametrize("deed", ["Attach", "Detach"])
async def test_a_lost_answer_is_looked_up_though_descriptions_lag(
    world: World, controller: Controller, nodes: tuple[NodeId, NodeId], deed: str
) -> None:
    world.cloud.pace.lag_s = 6.0
    volume = VolumeId(world.cloud.make_volume())
    world.time_s += 10
    suffix = "Volume" if nodes[0].cluster_id is None else "ClusterNodeVolume"
    world.aws.faults.add(Fault(f"{deed}{suffix}", Kind.LOST_ANSWER))
    await controller.attach(AttachCall(volume, nodes[0]))
    assert list_holders(world, volume) == [(nodes[0].instance_id, "attached")]
    await controller.detach(volume, nodes[0])
    assert list_holders(world, volume) == []


async def test_a_copy_is_held_back_until_it_is_whole(
    world: World, controller: Controller, nodes: tuple[NodeId, NodeId]
) -> None:
    """It takes no place on the node before."""
    volume = VolumeId(world.cloud.make_volume(source_volume_id=world.cloud.make_volume()))
    call = AttachCall(volume, nodes[0], is_initialized_first=True)
    status = world.cloud.checks.by_volume[volume] = StatusOfVolume(progress=12, left_s=600)
    with pytest.raises(AgentError, match=f"{volume} has 12 % of its content, .* in 10 min"):
        await controller.attach(call)
    assert list_holders(world, volume) == []
    status.progress = 100
    await controller.attach(call)
    assert list_holders(world, volume) == [(nodes[0].instance_id, "attached")]


async def test_what_is_stuck_is_taken_back(
    world: World, controller: Controller, nodes: tuple[NodeId, NodeId]
) -> None:
    volume = VolumeId(world.cloud.make_volume())
    world.cloud.pace.attach_s = NEVER
    with pytest.raises(AgentError, match="did not get there"):
        await controller.attach(AttachCall(volume, nodes[0]))
    world.cloud.pace.attach_s = 0.0
    await controller.attach(AttachCall(volume, nodes[0]))
    assert list_holders(world, volume) == [(nodes[0].instance_id, "attached")]


async def test_a_volume_in_use_stays_where_it_is(
    world: World, controller: Controller, nodes: tuple[NodeId, NodeId]
) -> None:
    volume = VolumeId(world.cloud.make_volume())
    await controller.attach(AttachCall(volume, nodes[0]))
    world.cloud.volumes[volume].emulated[0].is_busy = True
    with pytest.raises(AgentError, match=f"in use at {nodes[0]}"):
        await controller.detach(volume, nodes[0])
    assert (await controller.listing.find(volume)).nodes == (nodes[0],)
    with pytest.raises(RefusedError):
        await controller.attach(AttachCall(volume, nodes[1]))


async def test_limit_zone_and_missing_node_are_told_as_such(
    world: World, controller: Controller, nodes: tuple[NodeId, NodeId]
) -> None:
    far, near = (VolumeId(world.cloud.make_volume(zone=zone)) for zone in (OTHER_ZONE, "us-west-2a"))
    missing = NodeId("i-00000000000000bad", nodes[0].cluster_id)
    with pytest.raises(AgentError) as wrong_zone:
        await controller.attach(AttachCall(far, nodes[0]))
    with pytest.raises(NoSuchThingError, match=str(missing)):
        await controller.attach(AttachCall(near, missing))
    world.cloud.attachment_limit = 0
    with pytest.raises(AgentError) as no_room:
        await controller.attach(AttachCall(near, nodes[0]))
    reasons = [caught.value.reason for caught in (wrong_zone, no_room)]
    assert reasons == [Reason.WRONG_ZONE, Reason.ATTACHMENT_LIMIT]


async def test_many_volumes_come_to_one_instance_at_once(world: World, controller: Controller) -> None:
    """Each under a name of its own, also where some are taken by what nobody can see."""
    instance_id = instance_of(world)
    mapping = world.cloud.ec2.get_instance(instance_id).block_device_mapping
    mapping["/dev/sdf"] = mapping["/dev/sdg"] = next(iter(mapping.values()))
    volumes = [VolumeId(world.cloud.make_volume()) for _ in range(10)]
    calls = [controller.attach(AttachCall(one, NodeId(instance_id))) for one in volumes]
    told = await asyncio.gather(*calls)
    names = {dict(one)["devicePath"] for one in told}
    assert len(names) == 10
    assert not names & {"/dev/sdf", "/dev/sdg"}


async def test_a_snapshot_is_taken_once_protected_listed_and_deleted(
    world: World, controller: Controller
) -> None:
    volume = VolumeId(world.cloud.make_volume())
    world.aws.faults.add(Fault("CreateSnapshot", Kind.LOST_ANSWER))
    call = SnapshotCall(
        "snapshot-1", volume, (), ("us-west-2a",), SnapshotLock("governance", None, "2027-01-01T00:00:00Z")
    )
    taken = await controller.snapshots.take(call)
    assert (await controller.snapshots.take(call)).snapshot_id == taken.snapshot_id
    page = await controller.snapshots.list_snapshots(SnapshotQuery(), 1, None)
    assert [one.snapshot_id for one in page.entries] == [taken.snapshot_id]
    assert page.next_token is None
    keeping = world.cloud.keeping
    assert set(keeping.locks) == {one for one, _ in keeping.fast} == {taken.snapshot_id}
    with pytest.raises(RefusedError, match="locked"):
        await controller.snapshots.delete(taken.snapshot_id)
    keeping.locks.clear()
    await controller.snapshots.delete(taken.snapshot_id)
    await controller.snapshots.delete(taken.snapshot_id)
    assert taken.snapshot_id not in world.cloud.ec2.snapshots
    assert not keeping.fast


async def test_a_controller_started_since_finishes_a_snapshot_that_is_locked(
    world: World, controller: Controller
) -> None:
    """It finds the lock; under a role that may not look it asks for another, which AWS refuses by then."""
    volume = VolumeId(world.cloud.make_volume())
    call = SnapshotCall("s", volume, (), (), SnapshotLock("compliance", 7, None, 1))
    taken = await controller.snapshots.take(call)
    world.now += timedelta(hours=2)
    next_one = Controller(world.add_node(98).make, world)
    world.aws.faults.add(deny("DescribeLockedSnapshots", "ec2:DescribeLockedSnapshots"))
    with pytest.raises(AgentError, match="cooling-off period"):
        await next_one.snapshots.take(call)
    world.aws.faults.clear()
    assert (await next_one.snapshots.take(call)).snapshot_id == taken.snapshot_id
    assert world.aws.calls["LockSnapshot"] == 2


async def test_a_snapshot_that_cannot_be_fast_leaves_nothing(world: World, controller: Controller) -> None:
    volume = VolumeId(world.cloud.make_volume())
    world.cloud.keeping.refused_zones.add("us-west-2b")
    before = set(world.cloud.ec2.snapshots)
    with pytest.raises(AgentError, match="us-west-2b"):
        await controller.snapshots.take(SnapshotCall("s", volume, (), ("us-west-2a", "us-west-2b")))
    assert set(world.cloud.ec2.snapshots) == before
    assert not world.cloud.keeping.fast


async def test_a_snapshot_of_somebody_else_stays(world: World, controller: Controller) -> None:
    volume = world.cloud.volumes[world.cloud.make_volume()]
    snapshot = world.cloud.ec2.create_snapshot(volume.id, "by hand")
    with pytest.raises(RefusedError, match=snapshot.id):
        await controller.snapshots.delete(snapshot.id)
    assert snapshot.id in world.cloud.ec2.snapshots
