"""What is decided about scheduled snapshots, from what is described of them and the time of day."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cloud.aws.calls import EnableFastSnapshotRestores, LockSnapshot
from agent.cloud.aws.models import CloudSnapshot, CloudVolume
from agent.cloud.plan.snapshot_schedule import (
    find_tick,
    is_locked,
    mark_locked,
    plan_fast_restores,
    plan_locks,
    plan_retention,
    plan_snapshot,
)
from agent.core.model import VolumeId
from agent.core.replace import replace
from agent.policy.entries import SnapshotsEntry
from agent.policy.values.build import build_section
from agent.policy.values.cron import Schedule

VOLUME = VolumeId("vol-0123456789abcdef0")
FREE = CloudVolume(VOLUME, "available", 5, "gp3", "us-west-2a", iops=3000, throughput=125)
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("last", "now", "tick"),
    [
        (NOON, NOON, None),
        (NOON, NOON + timedelta(minutes=59), None),
        (NOON, NOON + timedelta(minutes=60), NOON + timedelta(hours=1)),
        (NOON, NOON + timedelta(hours=5, minutes=3), NOON + timedelta(hours=5)),
        (NOON - timedelta(days=9), NOON, NOON),
        (None, NOON, NOON),
        (NOON + timedelta(days=2), NOON, None),
    ],
)
def test_tick_that_is_due(last: datetime | None, now: datetime, tick: datetime | None) -> None:
    """The newest minute passed over is due, once, however long the node was off."""
    assert find_tick(Schedule.parse("0 * * * *"), last, now) == tick


def snap(number: int, tick: int, state: str = "completed") -> CloudSnapshot:
    tags = (("ebs-agent:tick", f"2026-11-23T{tick:02}:00Z"),)
    return CloudSnapshot(f"snap-{number}", VOLUME, state, f"{number:03}", tags=tags)


@pytest.mark.parametrize(
    ("keep", "taken", "going"),
    [
        (None, [snap(1, 1), snap(2, 2)], []),
        (1, [snap(1, 1)], []),
        (1, [snap(1, 1), snap(2, 2)], ["snap-1"]),
        (1, [snap(1, 5), snap(2, 6), snap(3, 5)], ["snap-1", "snap-2"]),
        (2, [snap(1, 1), snap(2, 2), snap(3, 3)], ["snap-1"]),
        (1, [snap(1, 1), snap(2, 2, "pending")], []),
        (1, [snap(1, 1), snap(2, 2, "error")], []),
        (1, [snap(1, 1, "error"), snap(2, 2)], ["snap-1"]),
        (2, [snap(1, 1), snap(2, 2), snap(3, 2)], ["snap-3"]),
        (1, [snap(1, 1, "error"), snap(2, 2, "error")], []),
    ],
)
def test_retention(keep: int | None, taken: list[CloudSnapshot], going: list[str]) -> None:
    """Only completed ones count, and the newest completed one always stays."""
    assert [call.snapshot_id for call in plan_retention(keep, taken)] == going


@given(
    st.lists(st.tuples(st.integers(0, 23), st.sampled_from(["completed", "pending", "error"]))),
    st.integers(1, 5),
)
def test_retention_keeps_enough(taken: list[tuple[int, str]], keep: int) -> None:
    """After retention, as many completed ticks are left as were wanted, or as there were."""
    snapshots = [snap(number, tick, state) for number, (tick, state) in enumerate(taken)]
    going = {call.snapshot_id for call in plan_retention(keep, snapshots)}
    completed = [one for one in snapshots if one.state == "completed"]
    ticks = [tick for tick, _ in groupby(one.tag("ebs-agent:tick") for one in completed)]
    left = [one.tag("ebs-agent:tick") for one in completed if one.snapshot_id not in going]
    assert left == ticks[-keep:]


def unproven(number: int, tick: int, state: str = "completed") -> CloudSnapshot:
    one = snap(number, tick, state)
    return replace(one, tags=(*one.tags, ("ebs-agent:frozen", "no")))


@pytest.mark.parametrize(
    ("proven", "late", "going"),
    [
        ([], [unproven(1, 1)], []),
        ([], [unproven(1, 1), unproven(2, 2), unproven(3, 3)], ["snap-1"]),
        ([snap(2, 2)], [unproven(1, 1)], ["snap-1"]),
        ([snap(2, 2, "pending")], [unproven(1, 1)], []),
        ([snap(2, 2, "error")], [unproven(1, 1)], []),
        ([snap(1, 1)], [unproven(2, 2)], []),
        ([snap(2, 2)], [unproven(1, 1, "pending")], []),
        ([snap(2, 2)], [unproven(1, 1, "error")], ["snap-1"]),
    ],
)
def test_unproven_ones_stay_until_a_proven_one_has_followed(
    proven: list[CloudSnapshot], late: list[CloudSnapshot], going: list[str]
) -> None:
    """A snapshot that may not be consistent is better than none, and worse than a newer one that is."""
    assert [call.snapshot_id for call in plan_retention(2, proven, late)] == going
    assert plan_retention(None, proven, late) == ()


def test_which_is_newest_is_told_by_the_clock_of_aws() -> None:
    """A tick of a node whose clock ran ahead does not make an old snapshot the newest."""
    ahead, newer = snap(1, 23), snap(2, 2)
    assert [call.snapshot_id for call in plan_retention(1, [ahead, newer])] == [ahead.snapshot_id]


def make_entry(**words: object) -> SnapshotsEntry:
    return build_section(SnapshotsEntry, {"schedule": "0 * * * *", **words})


def test_snapshot_that_failed_or_is_of_a_time_to_come_is_no_snapshot() -> None:
    """What is due is due, as if they were not there; one that is pending is waited for."""
    own = (("ebs-agent:made-by", "ebs-agent"), ("ebs-agent:volume", VOLUME), ("ebs-agent:schedule", "data"))
    volume = replace(FREE, created_at="2026-11-22T00:00:00+00:00")

    def find_due(*taken: CloudSnapshot) -> str | None:
        marked = [replace(one, tags=(*one.tags, *own)) for one in taken]
        call = plan_snapshot("data", make_entry(), volume, marked, NOON)
        return None if call is None else dict(call.tags)["ebs-agent:tick"]

    assert find_due(snap(1, 11)) == find_due(snap(1, 11), snap(2, 12, "error")) == "2026-11-23T12:00Z"
    assert find_due(snap(1, 11), snap(2, 20)) == "2026-11-23T12:00Z"
    assert find_due(snap(1, 12)) is None
    assert find_due(snap(1, 11, "pending")) is None


def test_locks() -> None:
    """Each completed snapshot is locked once, and counts as locked until AWS says, or the policy does."""
    entry = make_entry(lock={"mode": "governance", "duration": "7d"})
    first = snap(1, 1)
    (call,) = plan_locks(entry, [first, snap(2, 2, "pending"), snap(3, 3, "error")])
    assert call == LockSnapshot("snap-1", "governance", 7)
    assert plan_locks(make_entry(), [first]) == ()
    for end in (None, "2026-11-30T12:00:00Z"):
        noted = replace(first, tags=(*first.tags, *mark_locked(call, end, NOON).tags))
        assert plan_locks(entry, [noted]) == ()
        assert is_locked(noted, NOON + timedelta(days=6, hours=23))
        assert not is_locked(noted, NOON + timedelta(days=7))
    assert not is_locked(first, NOON)


FAST = "ebs-agent:fast-restore"


@pytest.mark.parametrize(
    ("words", "noted", "switches"),
    [
        ({}, {}, []),
        ({"fast_restore_zones": ["us-west-2a"]}, {}, ["make snap-3 fast to restore in us-west-2a"]),
        (
            {"fast_restore_zones": ["us-west-2a"], "fast_restore_count": 2},
            {3: "us-west-2a"},
            ["make snap-2 fast to restore in us-west-2a"],
        ),
        (
            {"fast_restore_zones": ["us-west-2a"]},
            {2: "us-west-2a", 3: "us-west-2a"},
            ["end fast restores of snap-2 in us-west-2a"],
        ),
        (
            {"fast_restore_zones": ["us-west-2b"]},
            {3: "us-west-2a"},
            ["end fast restores of snap-3 in us-west-2a"],
        ),
        ({}, {3: "us-west-2a,us-west-2b"}, ["end fast restores of snap-3 in us-west-2a, us-west-2b"]),
        ({}, {1: "off", 3: "off"}, []),
        (
            {"fast_restore_zones": ["us-west-2a"]},
            {3: "us-west-2a", 5: "us-west-2a"},
            ["end fast restores of snap-5 in us-west-2a"],
        ),
    ],
)
def test_fast_restores(words: dict[str, Any], noted: dict[int, str], switches: list[str]) -> None:
    """The newest completed ones are fast where the policy says, and no others for any longer; one by one."""
    described = [snap(1, 1), snap(2, 2), snap(3, 3), snap(4, 4, "pending"), unproven(5, 5)]
    taken = [
        replace(one, tags=(*one.tags, (FAST, noted[number]))) if number in noted else one
        for number, one in enumerate(described, 1)
    ]
    planned = plan_fast_restores(make_entry(**words), taken[:4], taken[4:])
    assert [call.describe() for call, _ in planned] == switches
    for call, note in planned:
        is_on = isinstance(call, EnableFastSnapshotRestores)
        assert dict(note.tags)[FAST] == (",".join(call.zones) if is_on else "off")
