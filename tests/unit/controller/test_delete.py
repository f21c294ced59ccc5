"""Volumes that go: never one that is attached, or that nobody marked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.cloud.aws.calls import DeleteVolume
from agent.controller.calls import CreateCall, SizeRange
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.replace import replace
from tests.unit.controller.making_stand_in import Ec2
from tests.unit.controller.stand_in import NODE, KilledError, run_until

OURS = (("ebs-agent:made-by", "ebs-agent"),)
DRIVERS = (("CSIVolumeName", "pvc-1"), ("ebs.csi.aws.com/cluster", "true"))


def delete(ec2: Ec2, volume_id: VolumeId) -> None:
    asyncio.run(ec2.start().delete(volume_id))


@pytest.mark.parametrize("tags", [OURS, DRIVERS])
def test_a_volume_of_either_mark_is_deleted_once(tags: Any) -> None:
    ec2 = Ec2()
    volume_id = ec2.add(tags=tags)

    async def run() -> None:
        volumes = ec2.start()
        await asyncio.gather(volumes.delete(volume_id), volumes.delete(volume_id))
        await volumes.delete(volume_id)

    asyncio.run(run())
    assert ec2.volumes == {}
    assert ec2.changes == [DeleteVolume(volume_id)]


def test_of_a_volume_that_was_deleted_here_no_attachment_is_waited_for() -> None:
    ec2 = Ec2()
    volume_id = ec2.add(tags=OURS)

    async def run() -> float:
        volumes = ec2.start()
        await volumes.delete(volume_id)
        began_s = ec2.time_s
        await volumes.detach(volume_id, NODE)
        return ec2.time_s - began_s

    assert asyncio.run(run()) == 0.0
    assert ec2.changes == [DeleteVolume(volume_id)]


@pytest.mark.parametrize(
    "tags",
    [
        (),
        (("Name", "db"),),
        DRIVERS[:1],
        DRIVERS[1:],
        (("CSIVolumeName", "x"), ("ebs.csi.aws.com/cluster", "false")),
        (("ebs-agent:made-by", "somebody"),),
    ],
)
def test_a_volume_made_by_hand_is_not_deleted_and_its_way_out_is_told(tags: Any) -> None:
    ec2 = Ec2()
    with pytest.raises(RefusedError, match="was not made for Kubernetes") as raised:
        delete(ec2, ec2.add(tags=tags))
    assert "ebs-agent:made-by=ebs-agent" in str(raised.value.hint)
    assert ec2.changes == []


@pytest.mark.parametrize("state", ["attached", "attaching", "busy"])
def test_a_volume_that_a_node_has_is_not_deleted(state: str) -> None:
    ec2 = Ec2()
    volume_id = ec2.add(tags=OURS)
    ec2.hold(volume_id, state)
    with pytest.raises(RefusedError, match=f"is {state} to i-0123456789abcdef0"):
        delete(ec2, volume_id)
    assert ec2.changes == []


def test_a_volume_that_leaves_its_node_is_waited_for() -> None:
    ec2 = Ec2()
    volume_id = ec2.add(tags=OURS)
    ec2.hold(volume_id, "detaching")

    async def run() -> None:
        deleting = asyncio.create_task(ec2.start().delete(volume_id))
        await run_until(lambda: ec2.time_s > 1005)
        assert ec2.changes == []
        ec2.release(volume_id)
        await deleting

    asyncio.run(run())
    assert ec2.changes == [DeleteVolume(volume_id)]


def test_a_volume_that_does_not_leave_its_node_is_told() -> None:
    ec2 = Ec2()
    volume_id = ec2.add(tags=OURS)
    ec2.hold(volume_id, "detaching")
    with pytest.raises(RefusedError, match="still detaching from i-0123456789abcdef0"):
        delete(ec2, volume_id)
    assert ec2.changes == []


def test_an_attachment_that_aws_does_not_describe_yet_keeps_the_volume() -> None:
    """AWS refuses the call then, and the volume is not taken for gone."""
    ec2 = Ec2(refusals={"DeleteVolume": [("VolumeInUse", "it is attached")]})
    volume_id = ec2.add(tags=OURS)
    with pytest.raises(AgentError, match="attached"):
        delete(ec2, volume_id)
    delete(ec2, volume_id)
    assert ec2.volumes == {}


@pytest.mark.parametrize("is_done", [False, True])
def test_a_deletion_that_was_cut_short_is_done_by_the_next(*, is_done: bool) -> None:
    ec2 = Ec2(kill=(0, is_done))
    volume_id = ec2.add(tags=OURS)
    with pytest.raises(KilledError):
        delete(ec2, volume_id)
    delete(ec2, volume_id)
    assert ec2.volumes == {}


def test_a_volume_just_made_is_deleted_though_it_is_not_described_yet() -> None:
    """By the controller that made it, and by the next one."""
    for is_restarted in (False, True):
        ec2 = Ec2(lag_s=8.0, make_s=0.0)

        async def run(ec2: Ec2 = ec2, *, is_restarted: bool = is_restarted) -> None:
            volumes = ec2.start()
            making = asyncio.create_task(volumes.create(CreateCall("pvc-1", SizeRange())))
            await run_until(lambda: bool(ec2.volumes))
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            (volume_id,) = ec2.volumes
            await (ec2.start() if is_restarted else volumes).delete(volume_id)

        asyncio.run(run())
        assert ec2.volumes == {}


def test_a_volume_that_is_deleted_is_not_found_under_its_name() -> None:
    """Though AWS describes it for a while: the name is another volume's then."""
    ec2 = Ec2()

    async def run() -> None:
        volumes = ec2.start()
        first = await volumes.create(CreateCall("pvc-1", SizeRange()))
        kept = ec2.volumes[first.volume.volume_id]
        await volumes.delete(first.volume.volume_id)
        ec2.volumes[kept.volume_id] = kept
        ec2.tokens.clear()
        second = await volumes.create(CreateCall("pvc-1", SizeRange()))
        assert second.volume.volume_id != kept.volume_id

    asyncio.run(run())


@pytest.mark.parametrize("tags", [OURS, DRIVERS])
def test_a_volume_of_another_cluster_is_not_deleted(tags: Any) -> None:
    """One that was restored from another's backup names that one's volumes."""
    ec2 = Ec2()
    others = ec2.add(tags=(*tags, ("kubernetes.io/cluster/prod", "owned")))
    with pytest.raises(RefusedError, match="is cluster prod's") as raised:
        asyncio.run(ec2.start("drill").delete(others))
    assert "kubernetes.io/cluster/drill=owned" in str(raised.value.hint)
    assert ec2.changes == []
    ec2.volumes[others] = replace(
        ec2.volumes[others], tags=(*ec2.volumes[others].tags, ("kubernetes.io/cluster/drill", "owned"))
    )
    asyncio.run(ec2.start("drill").delete(others))
    assert ec2.volumes == {}


def test_a_volume_of_no_cluster_is_deleted_for_any() -> None:
    ec2 = Ec2()
    asyncio.run(ec2.start("prod").delete(ec2.add(tags=DRIVERS)))
    assert ec2.volumes == {}


def test_a_volume_of_the_nodes_policy_is_not_deleted() -> None:
    """The agents of the nodes make volumes, too, and mark them as theirs."""
    ec2 = Ec2()
    volume_id = ec2.add(tags=(*OURS, ("ebs-agent:claim", "scratch")))
    with pytest.raises(RefusedError, match="made for 'scratch' of the nodes' policy"):
        delete(ec2, volume_id)
    assert ec2.changes == []
