"""Since when a volume that is to be deleted was seen free: any doubt makes its last snapshot an old one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.cloud.state.free_volumes import UNSEEN_LIMIT, FreeVolumes
from agent.core.model import VolumeId
from agent.core.replace import replace

VOLUME = VolumeId("vol-0123456789abcdef0")
NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
MARKS = (
    ("ebs-agent:delete-after", "2026-11-01T11:00:00Z"),
    ("ebs-agent:unheld", "2026-10-01T00:00:00Z 2026-11-01T00:00:00Z"),
)
FREE = CloudVolume(VOLUME, "available", 5, "gp3", "us-west-2a", tags=MARKS)
ATTACHED = replace(FREE, attachments=(CloudAttachment("attached", "i-0fedcba9876543210"),))


def begin() -> FreeVolumes:
    volumes = FreeVolumes()
    assert volumes.see(FREE, NOW) is None
    volumes.note_begun(VOLUME, "snap-1")
    return volumes


def test_snapshot_counts_as_long_as_the_volume_is_seen_free() -> None:
    """For hours and days, as snapshots take, while looks come and the mark is written anew."""
    volumes, now = begin(), NOW
    seen_anew = replace(
        FREE, tags=(MARKS[0], ("ebs-agent:unheld", "2026-10-01T00:00:00Z 2026-11-02T00:00:00Z"))
    )
    for volume in [FREE, seen_anew] * 200:
        now += UNSEEN_LIMIT
        assert volumes.see(volume, now) == "snap-1"


@pytest.mark.parametrize(
    "between",
    [
        ATTACHED,
        replace(FREE, state="in-use"),
        replace(FREE, tags=()),
        replace(FREE, tags=(("ebs-agent:delete-after", "2027-01-01T11:00:00Z"), MARKS[1])),
        replace(FREE, tags=(MARKS[0], ("ebs-agent:unheld", "2026-11-01T00:00:00Z 2026-11-01T00:00:00Z"))),
    ],
    ids=["attached", "in use", "wanted again", "another time", "free anew"],
)
def test_use_ends_it(between: CloudVolume) -> None:
    """Whatever was seen of it in between: that it is free again, and as before, does not bring it back."""
    volumes = begin()
    volumes.see(between, NOW)
    assert volumes.see(FREE, NOW) is None


def test_device_that_is_here_ends_it() -> None:
    """The node's own eyes count before what AWS describes."""
    volumes = begin()
    assert volumes.see(FREE, NOW, is_here=True) is None
    assert volumes.see(FREE, NOW) is None


@pytest.mark.parametrize(
    "passed", [UNSEEN_LIMIT + timedelta(seconds=1), -UNSEEN_LIMIT - timedelta(seconds=1)]
)
def test_time_in_which_nobody_looked_ends_it(passed: timedelta) -> None:
    """So does a clock that was set by as much."""
    assert begin().see(FREE, NOW + passed) is None


def test_snapshot_of_an_unseen_volume_is_not_kept() -> None:
    """What was begun after the volume was forgotten is not told of it later."""
    volumes = begin()
    volumes.forget(VOLUME)
    volumes.note_begun(VOLUME, "snap-2")
    assert volumes.see(FREE, NOW) is None


def test_those_with_a_snapshot_are_to_be_watched() -> None:
    """Of the others nothing is kept that could be lost."""
    volumes = FreeVolumes()
    volumes.see(FREE, NOW)
    assert not volumes.list_begun()
    volumes.note_begun(VOLUME, "snap-1")
    assert volumes.list_begun() == {VOLUME}
    volumes.see(ATTACHED, NOW)
    assert not volumes.list_begun()
