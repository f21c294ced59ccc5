"""The controller's volumes from their making to their end, against an AWS that refuses as AWS does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest

from agent.cloud.aws.call import Make
from agent.cloud.aws_worker.client import CloudClient
from agent.controller.calls import (
    GIB,
    CopySource,
    CreateCall,
    DiffersError,
    ExpandCall,
    ModifyCall,
    Performance,
    SizeRange,
)
from agent.controller.describing.describing import Describing
from agent.controller.patience import Patience
from agent.controller.turns import Turns
from agent.controller.volumes.cluster_volumes import ClusterVolumes
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from agent.core.replace import replace
from tests.aws.cloud import OTHER_ZONE, REGION, ZONE
from tests.aws.faults import Fault, Kind
from tests.aws.world import World

IN_ZONE, IN_OTHER = ((("topology.kubernetes.io/zone", zone),) for zone in (ZONE, OTHER_ZONE))
CALL = CreateCall("pvc-1", SizeRange(5 * GIB), requisite=(IN_ZONE, IN_OTHER), preferred=(IN_ZONE, IN_OTHER))


def start(make: Make, world: World) -> ClusterVolumes:
    """Return the volumes of a controller that has just begun."""

    async def sleep(pause_s: float) -> None:
        world.time_s += pause_s
        await asyncio.sleep(0)

    patience = Patience(lambda: world.time_s, sleep)
    return ClusterVolumes(make, Describing(make, window_s=0.01), Turns(), REGION, "prod", patience=patience)


@pytest.fixture
def make(world: World) -> Make:
    """Return what asks AWS in a thread."""
    world.cloud.pace.clock = lambda: world.time_s
    return world.add_node(99).make


@pytest.fixture
async def by_worker(world: World) -> AsyncIterator[Make]:
    world.cloud.pace.clock = lambda: world.time_s
    async with CloudClient(world.settings()) as client:
        yield client.make


async def test_a_volume_from_its_making_to_its_end(world: World, by_worker: Make) -> None:
    """By a worker's process, as the program has it; AWS takes its time, and nothing is left."""
    world.cloud.pace.create_s = world.cloud.pace.modify_s = 5.0
    volumes = start(by_worker, world)
    made = await volumes.create(replace(CALL, requisite=(), preferred=()))
    volume_id = made.volume.volume_id
    assert made.volume.state == "available"
    assert dict(made.volume.tags)["kubernetes.io/cluster/prod"] == "owned"
    class_ = ModifyCall(volume_id, Performance(iops=4000), (("team", "b"),))
    size, _ = await asyncio.gather(
        volumes.expand(ExpandCall(volume_id, SizeRange(9 * GIB))), volumes.modify(class_)
    )
    assert size == 9 * GIB
    assert len(world.cloud.volumes[volume_id].modifications) == 1
    (listed,) = (await volumes.list_volumes(None, None)).entries
    assert (listed.volume.size_gib, listed.volume.iops) == (9, 4000)
    assert ("team", "b") in listed.volume.tags
    await volumes.delete(volume_id)
    assert not world.cloud.volumes


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
@pytest.mark.parametrize("operation", ["CreateVolume", "ModifyVolume", "CreateTags", "DeleteVolume"])
async def test_a_lost_answer_changes_nothing_of_what_comes_of_it(
    world: World, make: Make, operation: str, lag_s: float
) -> None:
    """Asked again, by the same controller or the next; descriptions lag meanwhile."""
    world.cloud.pace.lag_s = lag_s
    world.cloud.pace.optimize_s = 60.0
    world.aws.faults.add(Fault(operation, Kind.LOST_ANSWER))

    async def ask_until_done() -> None:
        for _ in range(6):
            volumes = start(make, world)
            with suppress(AgentError):
                volume_id = (await volumes.create(CALL)).volume.volume_id
                await volumes.expand(ExpandCall(volume_id, SizeRange(9 * GIB)))
                await volumes.modify(ModifyCall(volume_id, tags=(("team", "b"),)))
                return
        raise AssertionError("it never became so")

    await ask_until_done()
    ((volume_id, volume),) = world.cloud.volumes.items()
    assert len(world.cloud.made) == 1
    assert len(volume.modifications) == 1
    for _ in range(3):
        with suppress(AgentError):
            await start(make, world).delete(VolumeId(volume_id))
    assert not world.cloud.volumes


async def test_a_full_zone_is_passed_over_and_a_quota_is_not(world: World, make: Make) -> None:
    world.cloud.full_zones.add(ZONE)
    made = await start(make, world).create(CALL)
    assert (made.volume.zone, made.topology) == (OTHER_ZONE, IN_OTHER)
    world.cloud.volume_quota = 1
    with pytest.raises(AgentError, match="quota"):
        await start(make, world).create(replace(CALL, name="pvc-2"))
    world.cloud.volume_quota = None
    world.cloud.full_zones.add(OTHER_ZONE)
    with pytest.raises(AgentError, match="not enough capacity"):
        await start(make, world).create(replace(CALL, name="pvc-2"))
    assert len(world.cloud.volumes) == 1


async def test_zones_go_by_the_ids_that_aws_describes(world: World, make: Make) -> None:
    zones = {zone.name: zone.zone_id for zone in await Describing(make, window_s=0.0).list_zones()}
    term = (("topology.k8s.aws/zone-id", zones[OTHER_ZONE]),)
    made = await start(make, world).create(replace(CALL, requisite=(term,), preferred=(term,)))
    assert (made.volume.zone, made.topology) == (OTHER_ZONE, term)


async def test_a_name_is_made_anew_after_its_volume_is_deleted(world: World, make: Make) -> None:
    """Its token is used up."""
    for _ in range(3):
        volumes = start(make, world)
        await volumes.delete((await volumes.create(CALL)).volume.volume_id)
    assert len(set(world.cloud.made)) == 3
    assert not world.cloud.volumes


async def test_one_that_differs_is_refused(world: World, make: Make) -> None:
    await start(make, world).create(CALL)
    with pytest.raises(DiffersError, match="has 5 GiB"):
        await start(make, world).create(replace(CALL, size=SizeRange(6 * GIB)))


async def test_a_volume_that_vanishes_names_its_key(world: World, make: Make) -> None:
    key = f"arn:aws:kms:{REGION}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    world.cloud.broken_keys.add(key)
    with pytest.raises(AgentError, match="took it back") as raised:
        await start(make, world).create(replace(CALL, is_encrypted=True, kms_key_id=key))
    assert key in str(raised.value.hint)


async def test_a_copy_is_made_of_another_claim(world: World, make: Make) -> None:
    source = (await start(make, world).create(CALL)).volume.volume_id
    call = replace(CALL, name="pvc-2", source=CopySource(volume_id=source))
    made = await start(make, world).create(call)
    again = await start(make, world).create(call)
    assert made.volume.volume_id == again.volume.volume_id != source
    assert len(world.cloud.volumes) == 2


async def test_a_fifth_modification_of_a_day_is_told_with_its_time(world: World, make: Make) -> None:
    """AWS takes four within any 24 hours, and says when it takes the next."""
    begun = world.now
    volumes = start(make, world)
    volume_id = (await volumes.create(CALL)).volume.volume_id
    for size_gib in range(6, 10):
        assert await volumes.expand(ExpandCall(volume_id, SizeRange(size_gib * GIB))) == size_gib * GIB
        world.now += timedelta(hours=1)
    with pytest.raises(
        AgentError, match=f"again at {begun + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
    ) as raised:
        await volumes.expand(ExpandCall(volume_id, SizeRange(10 * GIB)))
    assert raised.value.reason is Reason.WAITING_FOR_CLOUD
    assert await volumes.expand(ExpandCall(volume_id, SizeRange(9 * GIB))) == 9 * GIB
    world.now = begun + timedelta(days=1)
    assert await volumes.expand(ExpandCall(volume_id, SizeRange(10 * GIB))) == 10 * GIB
    with pytest.raises(AgentError, match="modify it again at 20"):
        await volumes.expand(ExpandCall(volume_id, SizeRange(11 * GIB)))


async def test_a_limit_of_modifications_without_a_time_gets_one(world: World, make: Make) -> None:
    """A day after the last of them AWS takes the next for certain, whatever it says, or does not."""
    volumes = start(make, world)
    volume_id = (await volumes.create(CALL)).volume.volume_id
    await volumes.expand(ExpandCall(volume_id, SizeRange(6 * GIB)))
    world.aws.faults.add(Fault("ModifyVolume", code="VolumeModificationRateExceeded", message="Too many."))
    (modification,) = world.cloud.volumes[volume_id].modifications
    last = modification.start_time + timedelta(days=1)
    with pytest.raises(AgentError) as raised:
        await volumes.expand(ExpandCall(volume_id, SizeRange(7 * GIB)))
    assert f"{last:%Y-%m-%dT%H:%M:%S}" in (raised.value.hint or "")


async def test_what_nobody_marked_or_a_node_has_stays(world: World, make: Make) -> None:
    by_hand = VolumeId(world.cloud.make_volume())
    with pytest.raises(RefusedError, match="was not made for Kubernetes"):
        await start(make, world).delete(by_hand)
    assert by_hand in world.cloud.volumes


async def test_being_throttled_is_waited_for(world: World, by_worker: Make) -> None:
    world.aws.faults.add(
        Fault("CreateVolume", code="RequestLimitExceeded", message="Request limit exceeded.", status=503)
    )
    made = await start(by_worker, world).create(CALL)
    assert made.volume.volume_id in world.cloud.volumes
