"""Room for another volume on an instance."""

from __future__ import annotations

import pytest

from agent.cloud.aws.instance_types import InstanceLimits
from agent.cloud.limits.attachment_room import count_attachments, find_little_room, find_no_room, list_places
from agent.core.model import Reason, VolumeId

SHARED = InstanceLimits("m5d.xlarge", attachments=27, is_shared=True, store_disks=1)
DEDICATED = InstanceLimits("p5.48xlarge", attachments=64, is_shared=False, store_disks=8)


@pytest.mark.parametrize(
    ("limits", "attached", "coming", "is_refused"),
    [
        (None, 500, 0, False),
        (InstanceLimits("x.large"), 500, 0, False),
        (InstanceLimits("x.large", attachments=0), 500, 0, False),
        (SHARED, 26, 0, False),
        (SHARED, 27, 0, True),
        (SHARED, 26, 1, True),
        (SHARED, 40, 0, True),
        (DEDICATED, 63, 0, False),
        (DEDICATED, 64, 0, True),
    ],
)
def test_only_what_surely_has_no_room_is_refused(
    limits: InstanceLimits | None, attached: int, coming: int, *, is_refused: bool
) -> None:
    """What is not known is no limit, and whatever else may take places of a shared one is no ground."""
    refusal = find_no_room("attach vol-1 to i-1", attached, limits, coming)
    assert (refusal is not None) is is_refused
    if refusal is not None:
        assert limits is not None
        assert refusal.reason is Reason.ATTACHMENT_LIMIT
        assert f"{limits.instance_type} takes {limits.attachments}" in refusal.message
        assert "Detach a volume" in str(refusal.hint)


@pytest.mark.parametrize(
    ("limits", "attached", "is_told"),
    [
        (None, 26, False),
        (SHARED, 24, False),
        (SHARED, 25, True),
        (SHARED, 26, True),
        (SHARED, 27, False),
        (DEDICATED, 63, False),
    ],
)
def test_what_may_have_no_room_is_told(
    limits: InstanceLimits | None, attached: int, *, is_told: bool
) -> None:
    """An interface and the instance store's disks may take the last places; a refusal needs no warning."""
    assert (find_little_room(attached, limits) is not None) is is_told


def test_places_are_told_in_words() -> None:
    """As status shows them; of an instance whose limit is not known there is nothing to show."""
    places = count_attachments(3, SHARED)
    assert places is not None
    assert places.describe() == "3 of 27 attachments"
    assert count_attachments(3, InstanceLimits("x.large")) is None


def test_what_came_since_aws_was_asked_has_a_place_as_well() -> None:
    """A volume is one, whoever knows of it, and takes its place before AWS is asked again."""
    told, new = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0fedcba9876543210")
    places = list_places(frozenset({told}), SHARED)
    assert places is not None
    assert [places.count(here).used for here in ((), (told,), (told, new))] == [1, 1, 2]
    assert list_places(frozenset({told}), None) is None
    assert list_places(frozenset({told}), InstanceLimits("x.large")) is None
