"""Volumes that grow and change class: one modification for what comes together, and none for nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from agent.cloud.aws.calls import CreateTags, DeleteTags, ModifyVolume
from agent.controller.calls import (
    GIB,
    ExpandCall,
    ModifyCall,
    NoSuchThingError,
    Performance,
    SizeError,
    SizeRange,
)
from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from agent.core.replace import replace
from tests.unit.controller.making_stand_in import Ec2
from tests.unit.controller.stand_in import KilledError

Asked = ExpandCall | ModifyCall


def ask(ec2: Ec2, *calls: Asked) -> list[Any]:
    """Return what each call is answered, asked all at once of a controller that has just begun."""

    async def run() -> list[Any]:
        volumes = ec2.start()
        asked = (volumes.expand(one) if isinstance(one, ExpandCall) else volumes.modify(one) for one in calls)
        return list(await asyncio.gather(*asked, return_exceptions=True))

    return asyncio.run(run())


def expand(volume_id: VolumeId, gib: int, limit_gib: int | None = None) -> ExpandCall:
    return ExpandCall(volume_id, SizeRange(gib * GIB, None if limit_gib is None else limit_gib * GIB))


def test_size_and_class_in_one_patch_are_one_modification() -> None:
    """And IOPS by the GiB go by the size that is to be."""
    ec2 = Ec2()
    volume_id = ec2.add(tags=(("old", "1"), ("team", "a")))
    modify = ModifyCall(volume_id, Performance("io2", iops_per_gib=50), (("team", "b"),), ("old", "none"))
    assert ask(ec2, modify, expand(volume_id, 20)) == [None, 20 * GIB]
    assert ec2.changes == [
        ModifyVolume(volume_id, 20, "io2", 1000),
        CreateTags(volume_id, (("team", "b"),)),
        DeleteTags(volume_id, ("old",)),
    ]


def test_what_is_so_already_costs_no_modification() -> None:
    ec2 = Ec2()
    volume_id = ec2.add(tags=(("team", "a"),))
    modify = ModifyCall(volume_id, Performance("gp3", 3000, throughput_mib=125), (("team", "a"),), ("none",))
    assert ask(ec2, expand(volume_id, 10), expand(volume_id, 3), modify) == [10 * GIB, 10 * GIB, None]
    assert ec2.changes == []


def test_the_size_is_told_once_it_can_be_used_and_not_only_when_all_is_done() -> None:
    ec2 = Ec2(modify_s=7.0, optimize_s=10_000.0)
    volume_id = ec2.add()
    assert ask(ec2, expand(volume_id, 20)) == [20 * GIB]
    assert ec2.time_s >= 1007
    assert ec2.volumes[volume_id].size_gib == 20


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
def test_a_lost_answer_costs_no_second_modification(lag_s: float) -> None:
    """Who asked is not even told of it: what came of the call is described in a moment."""
    ec2 = Ec2(lost={0}, lag_s=lag_s)
    volume_id = ec2.add()
    assert ask(ec2, expand(volume_id, 20)) == [20 * GIB]
    assert ec2.changes == [ModifyVolume(volume_id, 20)]


def test_a_call_that_did_nothing_is_an_error_once_that_is_sure() -> None:
    ec2 = Ec2(refusals={"ModifyVolume": [("ReadTimeoutError", "no answer")]})
    volume_id = ec2.add()
    (answer,) = ask(ec2, expand(volume_id, 20))
    assert isinstance(answer, AgentError)
    assert "did not answer" in answer.message
    assert ask(ec2, expand(volume_id, 20)) == [20 * GIB]


def test_the_next_controller_finds_the_modification_under_way() -> None:
    """However many ask it."""
    ec2 = Ec2(kill=(0, True))
    volume_id = ec2.add()
    (died,) = ask(ec2, expand(volume_id, 20))
    assert isinstance(died, KilledError)
    assert ask(ec2, expand(volume_id, 20), expand(volume_id, 20)) == [20 * GIB, 20 * GIB]
    assert ec2.changes == [ModifyVolume(volume_id, 20)]


@pytest.mark.parametrize("lag_s", [0.0, 5.0, 9.0])
def test_a_modification_that_was_over_before_it_was_described_is_not_spent_twice(lag_s: float) -> None:
    """Neither by the controller after the one that died, nor by another that has never been asked before."""
    ec2 = Ec2(kill=(0, True), lag_s=lag_s, modify_s=0.5, optimize_s=0.5)
    volume_id = ec2.add()

    async def run() -> int:
        standby = ec2.start()
        ec2.time_s += 1000  # it is long there, and others were asked
        with suppress(KilledError):
            await ec2.start().expand(expand(volume_id, 20))
        return await standby.expand(expand(volume_id, 20))

    assert asyncio.run(run()) == 20 * GIB
    assert ec2.changes == [ModifyVolume(volume_id, 20)]


def test_a_host_of_aws_that_knows_less_than_another_has_nothing_asked_for_again() -> None:
    ec2 = Ec2(modify_s=0.5, optimize_s=0.5)
    volume_id = ec2.add()

    async def run() -> list[int]:
        volumes = ec2.start()
        first = await volumes.expand(expand(volume_id, 20))
        ec2.volumes[volume_id] = replace(ec2.volumes[volume_id], size_gib=10)
        ec2.lag_s = 8.0
        return [first, await volumes.expand(expand(volume_id, 20))]

    assert asyncio.run(run()) == [20 * GIB, 20 * GIB]
    assert ec2.changes == [ModifyVolume(volume_id, 20)]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (ExpandCall(VolumeId("vol-0"), SizeRange(70_000 * GIB)), SizeError),
        (ExpandCall(VolumeId("vol-0"), SizeRange(20 * GIB + 1, 20 * GIB + 2)), SizeError),
        (ExpandCall(VolumeId("vol-0"), SizeRange(5 * GIB, 9 * GIB)), SizeError),
        (ModifyCall(VolumeId("vol-0"), Performance("st1")), SizeError),
        (ModifyCall(VolumeId("vol-0"), Performance(iops=1)), InvalidValueError),
        (ModifyCall(VolumeId("vol-0"), Performance("gp2", throughput_mib=200)), InvalidValueError),
        (ModifyCall(VolumeId("vol-0"), tags=(("CSIVolumeName", "x"),)), InvalidValueError),
        (ModifyCall(VolumeId("vol-0"), removed_tags=("ebs-agent:made-by",)), InvalidValueError),
        (ModifyCall(VolumeId("vol-0"), tags=(("k" * 129, "x"),)), InvalidValueError),
    ],
)
def test_what_cannot_be_changes_nothing_and_troubles_nobody_else(call: Asked, kind: type[Exception]) -> None:
    ec2 = Ec2()
    volume_id = ec2.add()
    wrong = replace(call, volume_id=volume_id)
    (answer,) = ask(ec2, wrong)
    assert isinstance(answer, kind)
    assert volume_id in str(answer)
    assert ec2.changes == []
    other: Asked = expand(volume_id, 12)
    if isinstance(call, ExpandCall):
        other = ModifyCall(volume_id, Performance(iops=4000))
    answers = ask(ec2, wrong, other)
    assert isinstance(answers[0], kind)
    assert not isinstance(answers[1], BaseException)
    assert len(ec2.changes) == 1


def test_what_aws_refuses_of_two_is_asked_for_one_by_one() -> None:
    """A class that AWS does not take is no reason to give up an expansion."""
    ec2 = Ec2(refusals={"ModifyVolume": [("InvalidParameterCombination", "not so")]})
    volume_id = ec2.add()
    answers = ask(ec2, ModifyCall(volume_id, Performance(iops=4000)), expand(volume_id, 20))
    assert answers[1] == 20 * GIB
    assert ec2.changes[:2] == [ModifyVolume(volume_id, 20, None, 4000), ModifyVolume(volume_id, 20)]
    assert isinstance(answers[0], AgentError)
    assert answers[0].reason is Reason.WAITING_FOR_CLOUD


def test_a_volume_that_is_being_modified_is_left_alone() -> None:
    ec2 = Ec2()
    volume_id = ec2.add()
    ask(ec2, expand(volume_id, 20))
    (answer,) = ask(ec2, expand(volume_id, 30))
    assert isinstance(answer, AgentError)
    assert answer.reason is Reason.WAITING_FOR_CLOUD
    assert "optimizing, 40 % done" in answer.message
    ec2.time_s += 100
    assert ask(ec2, expand(volume_id, 30)) == [30 * GIB]


def test_a_cool_down_is_told_with_its_time_and_sets_no_tags() -> None:
    words = "You've reached the maximum modification rate. Wait at least 6 hours between modifications."
    ec2 = Ec2(refusals={"ModifyVolume": [("VolumeModificationRateExceeded", words)]})
    volume_id = ec2.add()
    (answer,) = ask(ec2, ModifyCall(volume_id, Performance(iops=4000), (("team", "b"),)))
    assert isinstance(answer, AgentError)
    assert answer.reason is Reason.WAITING_FOR_CLOUD
    assert "6 hours" in answer.message
    assert len(ec2.changes) == 1


def test_a_modification_that_fails_is_told() -> None:
    ec2 = Ec2(fails_modifications=True)
    volume_id = ec2.add()
    (answer,) = ask(ec2, expand(volume_id, 20))
    assert isinstance(answer, AgentError)
    assert "out of luck" in answer.message
    ec2.fails_modifications = False
    ec2.modified.clear()
    assert ask(ec2, expand(volume_id, 20)) == [20 * GIB]


def test_a_volume_that_is_not_there_is_not_found() -> None:
    ec2 = Ec2()
    (answer,) = ask(ec2, expand(VolumeId("vol-00000000000000009"), 20))
    assert isinstance(answer, NoSuchThingError)


def test_two_classes_at_once_are_asked_for_one_after_the_other() -> None:
    """Neither is told that it is so because the other one is."""
    ec2 = Ec2()
    volume_id = ec2.add()
    calls = [ModifyCall(volume_id, Performance(iops=iops)) for iops in (4000, 5000)]
    first, second = ask(ec2, *calls)
    assert first is None
    assert isinstance(second, AgentError)
    assert ec2.changes == [ModifyVolume(volume_id, iops=4000)]


def test_tags_that_are_denied_do_not_fail_an_expansion() -> None:
    ec2 = Ec2(refusals={"CreateTags": [("UnauthorizedOperation", "no")]})
    volume_id = ec2.add()
    answers = ask(ec2, ModifyCall(volume_id, tags=(("team", "b"),)), expand(volume_id, 20))
    assert isinstance(answers[0], AgentError)
    assert answers[0].reason is Reason.PERMISSION_DENIED
    assert answers[1] == 20 * GIB


def test_a_volume_that_one_answer_does_not_have_grows_all_the_same() -> None:
    """That it is not there would end the expansion for good, and hosts of AWS lag behind one another."""
    ec2 = Ec2()
    volume_id = ec2.add()
    ec2.lag_s, ec2.made_at_s[volume_id] = 5.0, ec2.time_s
    assert ask(ec2, expand(volume_id, 20)) == [20 * GIB]


RATIO = (("ebs.csi.aws.com/AllowAutoIOPSIncreaseOnModify", "true"), ("ebs.csi.aws.com/IOPSPerGb", "500"))


@pytest.mark.parametrize(
    ("facts", "iops"),
    [
        ({"tags": RATIO, "iops": 5000}, 10_000),
        ({"tags": RATIO, "iops": 12_000}, 12_000),
        (
            {"tags": (("ebs.csi.aws.com/AllowAutoIOPSIncreaseOnModify", "false"), RATIO[1]), "iops": 5000},
            5000,
        ),
        ({"tags": RATIO[1:], "iops": 5000}, 5000),
        ({"tags": (RATIO[0], ("ebs.csi.aws.com/IOPSPerGb", "many")), "iops": 5000}, 5000),
        ({"tags": RATIO, "iops": 1000, "type": "io1"}, 1000),
        ({"tags": RATIO, "iops": 100, "type": "gp2", "throughput": None}, 100),
    ],
    ids=["raised", "never lowered", "not followed", "not said", "nonsense", "as many as the type has", "gp2"],
)
def test_iops_follow_the_size_where_the_class_said_so(facts: dict[str, Any], iops: int) -> None:
    """By the tags that AWS's driver writes, too: an expansion comes without the class."""
    ec2 = Ec2()
    volume_id = ec2.add(**facts)
    ask(ec2, expand(volume_id, 20))
    (change,) = ec2.changes
    assert isinstance(change, ModifyVolume)
    assert (facts["iops"] if change.iops is None else change.iops) == iops


def test_a_class_of_the_same_moment_says_more_than_the_ratio() -> None:
    ec2 = Ec2()
    volume_id = ec2.add(tags=RATIO, iops=5000)
    ask(ec2, expand(volume_id, 20), ModifyCall(volume_id, Performance(iops=4000)))
    assert ec2.changes == [ModifyVolume(volume_id, 20, None, 4000)]
