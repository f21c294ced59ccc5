"""Snapshots of Kubernetes: one under each name whatever gets lost, and none deleted that is not its own."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pytest

from agent.cloud.aws.calls import (
    CreateSnapshot,
    DeleteSnapshot,
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    LockSnapshot,
)
from agent.cloud.aws.models import MADE_BY, TAG_MADE_BY, Tags
from agent.cloud.errors.explain import CloudError
from agent.controller.calls import DiffersError, SnapshotCall, SnapshotLock, SnapshotQuery
from agent.controller.name_tags import write_name
from agent.controller.snapshots.cluster_snapshots import ClusterSnapshots
from agent.controller.snapshots.known import LAG_S, REMEMBERED_S
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from agent.core.replace import replace
from tests.unit.controller.snapshots_stand_in import SnapshotStandIn
from tests.unit.controller.stand_in import VOLUME, KilledError

T = TypeVar("T")

NAME = "snapshot-0b5c1a52"
CALL = SnapshotCall(NAME, VOLUME)
FAST = replace(CALL, fast_restore_zones=("us-west-2a", "us-west-2b"), lock=SnapshotLock("governance", 7))
DRIVERS: Tags = (("CSIVolumeSnapshotName", NAME), ("ebs.csi.aws.com/cluster", "true"))
OURS: Tags = (("CSIVolumeSnapshotName", NAME), (TAG_MADE_BY, MADE_BY))


def start(cloud: SnapshotStandIn, cluster_id: str | None = None) -> ClusterSnapshots:
    """Begin a controller."""
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    return ClusterSnapshots(cloud.make, cloud, locks.__getitem__, cluster_id, cloud.patience())


@pytest.fixture
def cloud() -> SnapshotStandIn:
    return SnapshotStandIn()


async def test_a_snapshot_carries_the_marks_of_both_drivers(cloud: SnapshotStandIn) -> None:
    """And no tag of the class changes one of them."""
    asked = replace(CALL, tags=(("team", "a"), ("CSIVolumeSnapshotName", "mine"), (TAG_MADE_BY, "me")))
    taken = await start(cloud, "prod").take(asked)
    assert dict(cloud.kept[taken.snapshot_id].tags) == {
        "team": "a",
        "CSIVolumeSnapshotName": NAME,
        "ebs.csi.aws.com/cluster": "true",
        "kubernetes.io/cluster/prod": "owned",
        TAG_MADE_BY: MADE_BY,
    }


async def test_asked_again_it_is_the_same(cloud: SnapshotStandIn) -> None:
    """Of this process, of another one, and while it is not described."""
    cloud.lag_s = LAG_S - 1
    controller = start(cloud)
    first = await controller.take(CALL)
    assert (await controller.take(CALL)).snapshot_id == first.snapshot_id
    assert (await start(cloud).take(CALL)).snapshot_id == first.snapshot_id
    assert len(cloud.kept) == 1


async def test_one_of_awss_driver_is_found(cloud: SnapshotStandIn) -> None:
    made = cloud.add(volume_id=VOLUME, tags=DRIVERS)
    assert (await start(cloud).take(CALL)).snapshot_id == made.snapshot_id
    assert not cloud.made


@pytest.mark.parametrize(
    "name", ["x" * 1000, "\u5feb\u7167-1", "a\nb", "*"], ids=["long", "script", "lines", "wild"]
)
async def test_names_are_of_any_length_and_script(cloud: SnapshotStandIn, name: str) -> None:
    call = replace(CALL, name=name)
    first = await start(cloud).take(call)
    assert cloud.kept[first.snapshot_id].tag("CSIVolumeSnapshotName") == write_name(name)
    assert (await start(cloud).take(call)).snapshot_id == first.snapshot_id


async def test_a_name_that_is_taken_is_told_with_whose_it_is(cloud: SnapshotStandIn) -> None:
    controller = start(cloud)
    first = await controller.take(CALL)
    with pytest.raises(DiffersError, match=f"of {VOLUME}: {first.snapshot_id}"):
        await controller.take(replace(CALL, volume_id=VolumeId("vol-00000000000000001")))
    assert len(cloud.kept) == 1


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
async def test_a_lost_answer_makes_no_second_snapshot(cloud: SnapshotStandIn, lag_s: float) -> None:
    cloud.lost.add(0)
    cloud.lag_s = lag_s
    taken = await start(cloud).take(CALL)
    assert list(cloud.kept) == [taken.snapshot_id]


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
async def test_a_volume_that_is_not_known_yet_or_any_more_is_not_the_end(
    cloud: SnapshotStandIn, lag_s: float
) -> None:
    """It may be known to another host of AWS; or a lost call took its snapshot before it was deleted."""
    cloud.lag_s = lag_s
    cloud.refusals["CreateSnapshot"] = ["InvalidVolume.NotFound"]
    first = await start(cloud).take(CALL)
    cloud.refusals["CreateSnapshot"] = ["InvalidVolume.NotFound"] * 9
    assert (await start(cloud).take(CALL)).snapshot_id == first.snapshot_id
    assert len(cloud.kept) == 1
    with pytest.raises(CloudError, match="no such volume"):
        await start(cloud).take(replace(CALL, name="another"))


async def test_what_did_not_reach_aws_is_asked_anew_by_the_next_call(cloud: SnapshotStandIn) -> None:
    cloud.refusals["CreateSnapshot"] = ["InternalError"]
    controller = start(cloud)
    with pytest.raises(AgentError):
        await controller.take(CALL)
    await controller.take(CALL)
    assert len(cloud.kept) == 1


async def outlive(cloud: SnapshotStandIn, ask: Callable[[ClusterSnapshots], Awaitable[T]]) -> T:
    """Ask a controller for something, and the next one where that dies of it."""
    with suppress(KilledError):
        return await ask(start(cloud))
    return await ask(start(cloud))


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(4))
async def test_killed_at_any_call_there_is_one_snapshot_as_asked_for(
    cloud: SnapshotStandIn, number: int, *, is_after: bool
) -> None:
    """Taken, made fast, locked; then deleted, once the lock is off: with a death around each call."""
    cloud.kill = (number, is_after)
    cloud.lag_s = 2.0
    taken = await outlive(cloud, lambda controller: controller.take(FAST))
    assert list(cloud.kept) == [taken.snapshot_id]
    assert cloud.locked == {taken.snapshot_id}
    assert {zone for _, zone in cloud.fast} == {"us-west-2a", "us-west-2b"}
    cloud.locked.clear()
    await outlive(cloud, lambda controller: controller.delete(taken.snapshot_id))
    assert not cloud.kept
    assert not cloud.fast
    assert len(cloud.made) > number


async def test_two_replicas_agree_on_the_one_that_was_begun_first(cloud: SnapshotStandIn) -> None:
    one, other = start(cloud), start(cloud)
    taken = await asyncio.gather(one.take(CALL), other.take(CALL))
    assert {snapshot.snapshot_id for snapshot in taken} == {min(cloud.kept)}
    assert {(await start(cloud).take(CALL)).snapshot_id} == {min(cloud.kept)}
    assert not [call for call in cloud.made if isinstance(call, DeleteSnapshot)]


async def test_one_that_aws_failed_to_take_is_told_of(cloud: SnapshotStandIn) -> None:
    cloud.add(volume_id=VOLUME, tags=DRIVERS, state="error")
    with pytest.raises(AgentError, match="failed to take") as caught:
        await start(cloud).take(CALL)
    assert caught.value.reason is Reason.CLOUD_ERROR
    assert not cloud.made


async def test_protection_is_asked_for_once(cloud: SnapshotStandIn) -> None:
    controller = start(cloud)
    await controller.take(FAST)
    await controller.take(FAST)
    kinds = [type(call) for call in cloud.made]
    assert kinds == [CreateSnapshot, EnableFastSnapshotRestores, LockSnapshot]


async def test_what_cannot_be_fast_in_a_zone_is_not_kept(cloud: SnapshotStandIn) -> None:
    cloud.refused_zones.add("us-west-2b")
    with pytest.raises(AgentError, match="us-west-2b"):
        await start(cloud).take(FAST)
    assert not cloud.kept
    assert not cloud.fast


async def test_what_cannot_be_locked_is_not_kept(cloud: SnapshotStandIn) -> None:
    cloud.refusals["LockSnapshot"] = ["UnauthorizedOperation"]
    controller = start(cloud)
    with pytest.raises(AgentError) as caught:
        await controller.take(FAST)
    assert caught.value.reason is Reason.PERMISSION_DENIED
    assert not cloud.kept
    assert not cloud.fast
    cloud.lag_s = 5.0  # the one that was undone is still described
    taken = await controller.take(FAST)
    assert list(cloud.kept) == [taken.snapshot_id]
    assert cloud.locked == {taken.snapshot_id}


async def test_what_only_was_not_answered_is_kept_and_protected_later(cloud: SnapshotStandIn) -> None:
    cloud.refusals["LockSnapshot"] = ["InternalError", "RequestLimitExceeded"]
    controller = start(cloud)
    for _ in range(2):
        with pytest.raises(AgentError):
            await controller.take(FAST)
    assert len(cloud.kept) == 1
    await controller.take(FAST)
    assert cloud.locked == set(cloud.kept)


async def test_one_that_somebody_was_told_of_is_never_undone(cloud: SnapshotStandIn) -> None:
    await start(cloud).take(FAST)
    cloud.locked.clear()
    cloud.refusals["LockSnapshot"] = ["UnauthorizedOperation"]
    with pytest.raises(AgentError):
        await start(cloud).take(FAST)  # a new controller does not know what the last one has told
    assert len(cloud.kept) == 1


@pytest.mark.parametrize("tags", [OURS, DRIVERS], ids=["ours", "AWS's driver"])
async def test_a_snapshot_of_kubernetes_is_deleted(cloud: SnapshotStandIn, tags: Tags) -> None:
    made = cloud.add(tags=tags)
    controller = start(cloud)
    await controller.delete(made.snapshot_id)
    await controller.delete(made.snapshot_id)
    assert not cloud.kept


@pytest.mark.parametrize(
    "tags",
    [
        (),
        DRIVERS[:1],
        OURS[1:],
        DRIVERS[1:],
        (("CSIVolumeSnapshotName", NAME), ("ebs.csi.aws.com/cluster", "no")),
    ],
    ids=["none", "a name", "a schedule's", "no name", "denied"],
)
async def test_a_snapshot_without_the_marks_is_never_deleted(cloud: SnapshotStandIn, tags: Tags) -> None:
    made = cloud.add(tags=tags)
    with pytest.raises(RefusedError, match=made.snapshot_id) as caught:
        await start(cloud).delete(made.snapshot_id)
    assert "ebs.csi.aws.com/cluster=true" in str(caught.value.hint)
    assert not cloud.made


@pytest.mark.parametrize("state", ["locked", "in an image"])
async def test_what_aws_keeps_is_told_with_the_way_out(cloud: SnapshotStandIn, state: str) -> None:
    made = cloud.add(tags=DRIVERS)
    {"locked": cloud.locked, "in an image": cloud.in_images}[state].add(made.snapshot_id)
    with pytest.raises(RefusedError, match=made.snapshot_id) as caught:
        await start(cloud).delete(made.snapshot_id)
    assert caught.value.hint


async def test_a_locked_one_stays_fast(cloud: SnapshotStandIn) -> None:
    """What is not deleted is as it was."""
    controller = start(cloud)
    taken = await controller.take(FAST)
    with pytest.raises(RefusedError):
        await controller.delete(taken.snapshot_id)
    assert len(cloud.fast) == 2
    cloud.locked.clear()
    await controller.delete(taken.snapshot_id)
    assert isinstance(cloud.made[-2], DisableFastSnapshotRestores)
    assert not cloud.kept


@pytest.mark.parametrize("snapshot_id", ["snap-00000000000000000", "reallyfake", "", "snap-\u0661" * 3])
async def test_what_is_not_there_is_deleted(cloud: SnapshotStandIn, snapshot_id: str) -> None:
    await start(cloud).delete(snapshot_id)
    assert not cloud.made


async def test_one_that_is_not_described_yet_is_deleted(cloud: SnapshotStandIn) -> None:
    """Of this process, or of the one before it that was killed a moment ago."""
    for is_new in (False, True):
        cloud.lag_s = LAG_S - 1
        controller = start(cloud)
        taken = await controller.take(CALL)
        await (start(cloud) if is_new else controller).delete(taken.snapshot_id)
        assert not cloud.kept
        cloud.time_s += 100


async def test_one_deleted_by_somebody_is_taken_anew(cloud: SnapshotStandIn) -> None:
    controller = start(cloud)
    first = await controller.take(CALL)
    cloud.kept.clear()
    cloud.time_s += REMEMBERED_S + 1
    assert (await controller.take(CALL)).snapshot_id != first.snapshot_id


async def list_ids(controller: ClusterSnapshots, query: SnapshotQuery) -> list[str]:
    page = await controller.list_snapshots(query, None, None)
    assert page.next_token is None
    return [one.snapshot_id for one in page.entries]


async def test_lists_are_of_the_cluster_a_volume_or_one(cloud: SnapshotStandIn) -> None:
    cluster: Tags = (("kubernetes.io/cluster/prod", "owned"),)
    of_cluster = cloud.add(tags=cluster, volume_id=VOLUME).snapshot_id
    drivers = cloud.add(tags=DRIVERS).snapshot_id
    by_hand = cloud.add(volume_id=VOLUME).snapshot_id
    cloud.unread = 1
    assert await list_ids(start(cloud, "prod"), SnapshotQuery()) == [of_cluster]
    assert await list_ids(start(cloud), SnapshotQuery()) == [drivers]
    assert await list_ids(start(cloud), SnapshotQuery(source_volume_id=VOLUME)) == [of_cluster, by_hand]
    assert await list_ids(start(cloud), SnapshotQuery(snapshot_id=by_hand)) == [by_hand]
    assert await list_ids(start(cloud), SnapshotQuery(by_hand, "vol-1")) == []
    assert await list_ids(start(cloud), SnapshotQuery(snapshot_id="none")) == []


async def test_pages_are_of_any_size(cloud: SnapshotStandIn) -> None:
    wanted = [cloud.add(tags=DRIVERS).snapshot_id for _ in range(7)]
    for most in range(1, 9):
        controller = start(cloud)
        page = await controller.list_snapshots(SnapshotQuery(), most, None)
        found = [one.snapshot_id for one in page.entries]
        while page.next_token is not None:
            page = await controller.list_snapshots(SnapshotQuery(), most, page.next_token)
            found += [one.snapshot_id for one in page.entries]
        assert found == wanted


async def test_one_of_another_cluster_is_never_deleted(cloud: SnapshotStandIn) -> None:
    others = cloud.add(tags=(*DRIVERS, ("kubernetes.io/cluster/other", "owned")))
    controller = start(cloud, "prod")
    with pytest.raises(RefusedError, match="is cluster other's"):
        await controller.delete(others.snapshot_id)
    assert not cloud.made


async def test_one_that_is_not_described_yet_is_deleted_too(cloud: SnapshotStandIn) -> None:
    """Another replica took it: one look that does not find it is no proof that it is gone."""
    controller = start(cloud)
    cloud.time_s += 1000
    cloud.lag_s = 5.0
    made = cloud.add(tags=DRIVERS)
    cloud.taken_s[made.snapshot_id] = cloud.time_s
    await controller.delete(made.snapshot_id)
    assert made.snapshot_id not in cloud.kept
