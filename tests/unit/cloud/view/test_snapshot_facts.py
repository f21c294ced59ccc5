"""How a volume's scheduled snapshots are, from nothing but what AWS describes of them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from agent.cloud.aws.models import CloudSnapshot, CloudVolume
from agent.cloud.view.snapshot_facts import find_facts
from agent.core.model import VolumeId
from agent.policy.entries import SnapshotsEntry
from agent.policy.values.build import build_section

VOLUME = VolumeId("vol-0123456789abcdef0")
MADE = "2026-11-23T07:30:00.000Z"
EVERY_SIX_HOURS = build_section(SnapshotsEntry, {"schedule": "0 */6 * * *", "freeze": True})


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, 23, tzinfo=timezone.utc) + timedelta(hours=hour, minutes=minute)


def snap(hour: int, state: str = "completed", *, late_s: int = 20, frozen: str = "yes") -> CloudSnapshot:
    """Return a snapshot of the minute ``hour`` o'clock that began ``late_s`` seconds after it."""
    tick, begun = at(hour), at(hour) + timedelta(seconds=late_s)
    tags = (("ebs-agent:tick", f"{tick:%Y-%m-%dT%H:%MZ}"), ("ebs-agent:frozen", frozen))
    return CloudSnapshot(f"snap-{hour}-{state}", VOLUME, state, begun.isoformat(), tags=tags)


@pytest.mark.parametrize(
    ("snapshots", "newest", "due"),
    [
        ([], None, at(12)),
        ([snap(12, "pending")], None, at(12)),
        ([snap(12, "error"), snap(18, "pending")], None, at(12)),
        ([snap(12), snap(18, "pending")], at(12), at(18)),
        ([snap(12), snap(18), snap(24, "error")], at(18), at(24)),
        # An old volume with a new schedule has lacked nothing before the first one was begun.
        ([snap(36, "pending")], None, at(36)),
        # AWS's clock is a little behind that of the node.
        ([snap(12, late_s=-20)], at(12), at(18)),
        # A node's clock once was a month ahead: what is due is told by AWS's.
        ([snap(12, late_s=-30 * 86400)], at(12) - timedelta(days=30), at(18) - timedelta(days=30)),
        # Taken long after its minute: the next one is the next one.
        ([snap(12, late_s=5 * 3600)], at(17), at(18)),
        # Begun too late to be consistent: it serves nothing.
        ([snap(12), snap(18, frozen="no")], at(12), at(18)),
    ],
)
def test_newest_and_next(snapshots: list[CloudSnapshot], newest: datetime | None, due: datetime) -> None:
    """The newest completed one is told by AWS's clock, and the next one is due at the minute after it."""
    volume = CloudVolume(VOLUME, "in-use", 5, "gp3", "us-west-2a", created_at=MADE)
    facts = find_facts("ckpt", EVERY_SIX_HOURS, volume, snapshots)
    assert facts.due_at == due
    rounded = facts.last_completed_at and facts.last_completed_at.replace(second=0)
    assert rounded == newest or (newest and rounded == newest - timedelta(minutes=1))


def test_what_cannot_be_told_is_not() -> None:
    """A volume whose times nobody tells has none; only those that failed at AWS have failed."""
    volume = CloudVolume(VOLUME, "in-use", 5, "gp3", "us-west-2a", created_at="")
    facts = find_facts("ckpt", EVERY_SIX_HOURS, volume, [])
    assert (facts.last_completed_at, facts.due_at, facts.completed, facts.failed) == (None, None, 0, ())
    taken = [snap(12, "error"), snap(18), snap(24, "pending"), snap(30, frozen="no")]
    facts = find_facts("ckpt", EVERY_SIX_HOURS, volume, taken)
    assert (facts.completed, facts.failed) == (1, ("snap-12-error",))


def test_time_without_a_zone_is_utc() -> None:
    """AWS tells its times in UTC; one that does not say so is no reason to fall over."""
    volume = CloudVolume(VOLUME, "in-use", 5, "gp3", "us-west-2a", created_at="2026-11-23T07:30:00")
    assert find_facts("ckpt", EVERY_SIX_HOURS, volume, []).due_at == at(12)
