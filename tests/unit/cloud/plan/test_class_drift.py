from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from agent.cloud.aws.calls import ModifyVolume
from agent.cloud.aws.models import CloudVolume, Modification
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.cloud.plan.class_drift import find_shape_differences, find_tag_differences, tell_drift
from agent.cloud.plan.decisions import Do
from agent.cloud.plan.modify_volume import plan_modify, plan_tags
from agent.core.model import Difference, Reason, Remedy, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait

VOLUME = VolumeId("vol-0123456789abcdef0")
KEY = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NOON = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
WANTED = WantedVolume("ckpt", "abcde01234yz", "compute-1", "us-west-2a", "gp3", 8, iops=3000, throughput=125)
HERE = CloudVolume(VOLUME, "in-use", 8, "gp3", "us-west-2a", iops=3000, throughput=125, tags=WANTED.all_tags)


def find_differences(volume: CloudVolume, wanted: WantedVolume) -> tuple[Difference, ...]:
    """Return all differences, as the two tasks find them one after the other."""
    return (*find_shape_differences(volume, wanted), *find_tag_differences(volume, wanted))


@pytest.mark.parametrize(
    ("changed", "wanted", "told"),
    [
        ({}, {}, {}),
        ({"size_gib": 5}, {}, {"size": ("5GiB", "8GiB", Remedy.LATER)}),
        ({"size_gib": 9}, {}, {"size": ("9GiB", "8GiB", Remedy.NEVER_SMALLER)}),
        ({"size_gib": 9}, {"size_gib": None}, {}),
        ({"type": "gp2"}, {}, {"type": ("gp2", "gp3", Remedy.LATER)}),
        ({"iops": 6000}, {}, {"iops": ("6000", "3000", Remedy.LATER)}),
        ({"iops": None}, {}, {"iops": ("none", "3000", Remedy.LATER)}),
        ({"iops": 6000}, {"iops": None}, {}),
        ({"throughput": 250}, {}, {"throughput": ("250", "125", Remedy.LATER)}),
        ({}, {"is_encrypted": True}, {"encrypted": ("false", "true", Remedy.NEW_VOLUME)}),
        (
            {"is_encrypted": True},
            {"is_encrypted": False},
            {"encrypted": ("true", "false", Remedy.NEW_VOLUME)},
        ),
        ({"is_encrypted": True, "kms_key_id": KEY}, {}, {}),
        (
            {"is_encrypted": True, "kms_key_id": KEY},
            {"is_encrypted": True, "kms_key_id": "other"},
            {"kms_key_id": (KEY, "other", Remedy.NEW_VOLUME)},
        ),
        ({"is_encrypted": True, "kms_key_id": KEY}, {"is_encrypted": True, "kms_key_id": KEY[-36:]}, {}),
        ({"is_encrypted": True, "kms_key_id": KEY}, {"is_encrypted": True, "kms_key_id": "alias/k"}, {}),
        ({}, {"is_multi_attach": True}, {"multi_attach": ("false", "true", Remedy.NEW_VOLUME)}),
        ({"is_multi_attach": True}, {}, {"multi_attach": ("true", "false", Remedy.NEW_VOLUME)}),
        ({}, {"tags": (("tier", "b"),)}, {"tags": ("not set", "b", Remedy.LATER)}),
        ({}, {"snapshot_id": "snap-0123456789abcdef0", "initialization_rate_mib": 200}, {}),
    ],
)
def test_every_difference_is_found(
    changed: dict[str, Any], wanted: dict[str, Any], told: dict[str, tuple[str, str, Remedy]]
) -> None:
    """What the class says and the volume is not: what is, what should be, what becomes of it."""
    found = find_differences(replace(HERE, **changed), replace(WANTED, **wanted))
    assert {one.what: (one.found, one.wanted, one.remedy) for one in found} == told


def test_all_differences_are_one_notice() -> None:
    """One sentence lists everything, and what becomes of each."""
    volume = replace(HERE, size_gib=9, tags=())
    wanted = replace(WANTED, is_encrypted=True, iops=4000)
    notice = tell_drift(volume, "ckpt", find_differences(volume, wanted))
    assert isinstance(notice, Refuse)
    assert notice.reason is Reason.DRIFTED
    for text in (
        "size is 9GiB, should be 8GiB (volumes never shrink)",
        "iops is 3000, should be 4000 (changed when AWS allows it)",
        "encrypted is false, should be true (only a new volume can have it)",
        "tags.Name is not set, should be ckpt compute-1",
        "1 more tags",
    ):
        assert text in notice.message
    assert "made from a snapshot" in str(notice.hint)
    assert "size it has" in str(notice.hint)


def test_what_keeps_it_from_being_changed_is_told_with_it() -> None:
    """AWS's words come after what differs, and have the reason."""
    volume = replace(HERE, iops=6000)
    why = Wait(Reason.WAITING_FOR_CLOUD, "AWS lets it rest.", "Nothing to do.")
    notice = tell_drift(volume, "ckpt", find_differences(volume, WANTED), why)
    assert isinstance(notice, Wait)
    assert (notice.reason, notice.hint) == (why.reason, why.hint)
    assert notice.message.endswith("should be 3000 (changed when AWS allows it). AWS lets it rest.")


UNDER_WAY = Modification(VOLUME, "optimizing", 40, target_size_gib=9, target_iops=4000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size_gib": 9, "iops": 4000}, None),
        ({"size_gib": 9, "iops": 4000, "throughput": 250}, Wait),
        ({"size_gib": 10, "iops": 4000}, Wait),
        ({"size_gib": 8, "iops": 4000}, Refuse),
        ({"size_gib": 9, "iops": 4000, "is_encrypted": True}, Refuse),
    ],
)
def test_volume_that_is_being_changed_is_no_defect(changes: dict[str, Any], expected: type | None) -> None:
    """What AWS is bringing about is not asked for again, and is not told as wrong; everything else is."""
    wanted = replace(WANTED, **changes)
    planned = plan_modify(HERE, wanted, UNDER_WAY, NOON)
    assert (None if planned is None else type(planned)) is expected


FAILED = Modification(
    VOLUME, "failed", target_iops=4000, started_at="2026-11-01T12:00:00+00:00", message="No capacity."
)


@pytest.mark.parametrize(
    ("iops", "waited", "is_asked"),
    [
        (4000, timedelta(hours=1), False),
        (4000, timedelta(hours=6), True),
        (4000, None, False),
        (5000, timedelta(hours=1), True),
    ],
)
def test_failed_modification_is_told_and_not_sent_at_every_look(
    iops: int, waited: timedelta | None, *, is_asked: bool
) -> None:
    """AWS takes four modifications in 24 hours: one that failed waits, and another one does not."""
    now = None if waited is None else NOON + waited
    planned = plan_modify(HERE, replace(WANTED, iops=iops), FAILED, now)
    if is_asked:
        assert planned == Do(ModifyVolume(VOLUME, iops=iops))
    else:
        assert isinstance(planned, Wait)
        assert planned.message.endswith("failed to modify vol-0123456789abcdef0: No capacity.")


def test_smaller_size_keeps_nothing_else_from_being_changed() -> None:
    """A size that cannot be is told; the IOPS of the same class are changed all the same."""
    wanted = replace(WANTED, size_gib=5, iops=4000)
    assert plan_modify(HERE, wanted, None) == Do(ModifyVolume(VOLUME, iops=4000))


@pytest.mark.parametrize("state", ["creating", "error", "deleting", "deleted"])
def test_volume_that_is_not_there_is_left_alone(state: str) -> None:
    """Nothing is changed about a volume that is being made, or going."""
    assert plan_modify(replace(HERE, state=state, iops=1), WANTED, None) is None
    gone = plan_tags(replace(HERE, state=state, tags=()), WANTED)
    assert (gone is None) is (state in {"deleting", "deleted"})
