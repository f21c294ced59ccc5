"""Locks of snapshots: asked for once, whichever controller did, since AWS refuses some the second time."""

from __future__ import annotations

import pytest

from agent.cloud.aws.calls import LockSnapshot
from agent.cloud.aws.snapshot_models import DescribeLockedSnapshots, HeldLock
from agent.cloud.errors.explain import CloudError
from agent.controller.calls import SnapshotCall, SnapshotLock
from agent.controller.snapshots.protect import is_enough
from agent.core.replace import replace
from tests.unit.controller.snapshots_stand_in import SnapshotStandIn
from tests.unit.controller.stand_in import VOLUME
from tests.unit.controller.test_snapshots import start

CALL = SnapshotCall("snapshot-0b5c1a52", VOLUME)
LOCKED = replace(CALL, lock=SnapshotLock("governance", 7))
COOLING_OFF = replace(CALL, lock=SnapshotLock("compliance", 7, cool_off_hours=1))
END = "2027-01-01T00:00:00Z"


@pytest.fixture
def cloud() -> SnapshotStandIn:
    return SnapshotStandIn()


@pytest.mark.parametrize("call", [COOLING_OFF, LOCKED], ids=["cooling off", "plain"])
async def test_a_controller_started_since_finds_the_lock(cloud: SnapshotStandIn, call: SnapshotCall) -> None:
    """It asks for no other one, which AWS refuses once the cooling-off period has passed."""
    taken = await start(cloud).take(call)
    for hours in (0.5, 1.5):
        cloud.time_s += hours * 3600
        assert (await start(cloud).take(call)).snapshot_id == taken.snapshot_id
    assert len([one for one in cloud.made if isinstance(one, LockSnapshot)]) == 1


async def test_a_role_of_before_locks_as_before(cloud: SnapshotStandIn) -> None:
    """Where it may not be asked what is locked, it is locked once more, and nothing is undone for that."""
    taken = await start(cloud).take(COOLING_OFF)
    cloud.refusals["DescribeLockedSnapshots"] = ["UnauthorizedOperation"]
    assert (await start(cloud).take(COOLING_OFF)).snapshot_id == taken.snapshot_id
    assert [type(one) for one in cloud.made[-2:]] == [DescribeLockedSnapshots, LockSnapshot]


async def test_where_aws_does_not_answer_how_it_is_locked_nothing_is_done(cloud: SnapshotStandIn) -> None:
    cloud.refusals["LockSnapshot"] = ["InternalError"]
    controller = start(cloud)
    cloud.refusals["DescribeLockedSnapshots"] = ["InternalError"]
    for kind in (LockSnapshot, DescribeLockedSnapshots):
        with pytest.raises(CloudError):
            await controller.take(LOCKED)
        assert isinstance(cloud.made[-1], kind)
    await controller.take(LOCKED)
    assert cloud.locked == set(cloud.kept)


@pytest.mark.parametrize(
    ("held", "wanted", "is_locked"),
    [
        (HeldLock("", "governance", 7), SnapshotLock("governance", 7), True),
        (HeldLock("", "governance", 8), SnapshotLock("governance", 7), True),
        (HeldLock("", "governance", 6), SnapshotLock("governance", 7), False),
        (HeldLock("", "governance", 7), SnapshotLock("compliance", 7), False),
        (HeldLock("", "compliance", 7), SnapshotLock("governance", 7), True),
        (HeldLock("", "compliance", 7), SnapshotLock("compliance", 7, None, 24), True),
        (HeldLock("", "compliance-cooloff", 7), SnapshotLock("compliance", 7, None, 24), True),
        (HeldLock("", "compliance-cooloff", 6), SnapshotLock("compliance", 7, None, 24), False),
        (HeldLock("", "expired", 7), SnapshotLock("compliance", 7), True),
        (HeldLock("", "expired", 1), SnapshotLock("compliance", 7), False),
        (HeldLock("", "new to us", 7), SnapshotLock("governance", 7), False),
        (HeldLock("", "governance", None, END), SnapshotLock("governance", 7), False),
        (HeldLock("", "governance", 9, END), SnapshotLock("governance", None, END), True),
        (
            HeldLock("", "governance", 9, END),
            SnapshotLock("governance", None, "2027-01-01T00:00:00.9Z"),
            True,
        ),
        (
            HeldLock("", "governance", 9, END),
            SnapshotLock("governance", None, "2027-01-01T01:00:00+01:00"),
            True,
        ),
        (HeldLock("", "governance", 9, END), SnapshotLock("governance", None, "2027-01-01T00:01:00Z"), False),
        (HeldLock("", "governance", 9), SnapshotLock("governance", None, END), False),
    ],
)
def test_a_lock_that_protects_no_less_is_as_wanted(
    held: HeldLock, wanted: SnapshotLock, *, is_locked: bool
) -> None:
    """By mode and by end; one that has ended has done what was wanted of it."""
    assert is_enough(held, wanted) is is_locked
