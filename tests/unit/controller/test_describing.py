"""Many who ask, one call: who gets which answer, and whose trouble is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar, cast

import pytest

from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import DescribeSnapshots, DescribeVolumes, DescribeVolumesModifications
from agent.cloud.aws.models import CloudSnapshot, CloudVolume, Modification
from agent.cloud.aws.volume_status import CheckedVolume, DescribeVolumeStatus
from agent.cloud.aws.zones import DescribeAvailabilityZones, Zone
from agent.cloud.errors.explain import CloudError, Failure, explain_failure
from agent.controller.describing.batches import MOST_AT_ONCE, OneAtATime
from agent.controller.describing.describing import Describing
from agent.core.errors import AgentError
from agent.core.model import AwsChecks, VolumeId
from agent.core.replace import replace
from tests.unit.controller.stand_in import run_until

T = TypeVar("T")

VOLUMES = [VolumeId(f"vol-{number:017x}") for number in range(450)]
KNOWN = CloudVolume(VOLUMES[0], "available", 1, "gp3", "us-west-2a")


class Answers:
    """Stands in for AWS: answers each call by ``answer``, and keeps it."""

    def __init__(self, answer: Callable[[Call[Any]], Any]) -> None:
        self.answer = answer
        self.made: list[Call[Any]] = []

    async def make(self, call: Call[T], /, *, within: Within = nullcontext) -> T:
        async with within():
            await asyncio.sleep(0)
            self.made.append(call)
            return cast("T", self.answer(call))

    def describe(self) -> Describing:
        return Describing(self.make, window_s=0.0)


def list_values(call: Call[Any]) -> tuple[str, ...]:
    if isinstance(call, (DescribeVolumesModifications, DescribeVolumeStatus)):
        return call.volume_ids
    assert isinstance(call, (DescribeVolumes, DescribeSnapshots))
    (filtered,) = call.filters
    return filtered[1]


def answer_volumes(call: Call[Any]) -> Sequence[CloudVolume]:
    return [replace(KNOWN, volume_id=VolumeId(one)) for one in list_values(call) if one != VOLUMES[7]]


def test_all_who_ask_together_are_answered_by_one_call() -> None:
    """Each gets its own volume; None only who asked for what the answer does not have."""
    aws = Answers(answer_volumes)

    async def run() -> list[CloudVolume | None]:
        describing = aws.describe()
        asked = [*VOLUMES[:100], *VOLUMES[:100]]
        return list(await asyncio.gather(*(describing.find_volume(one) for one in asked)))

    found = asyncio.run(run())
    assert [None if one is None else one.volume_id for one in found[:9]] == [
        *VOLUMES[:7],
        None,
        VOLUMES[8],
    ]
    assert found[:100] == found[100:]
    assert len(aws.made) == 1


def test_no_call_asks_for_more_than_a_filter_takes() -> None:
    aws = Answers(answer_volumes)

    async def run() -> int:
        describing = aws.describe()
        found = await asyncio.gather(*(describing.find_volume(one) for one in VOLUMES))
        return sum(one is not None for one in found)

    assert asyncio.run(run()) == len(VOLUMES) - 1
    assert [len(list_values(call)) for call in aws.made] == [MOST_AT_ONCE, MOST_AT_ONCE, 50]


def test_an_answer_is_never_older_than_the_question() -> None:
    """Who asks while a call is under way is answered by the next one."""
    states = iter(("creating", "available"))

    async def run() -> list[CloudVolume | None]:
        is_asked, go_on = asyncio.Event(), asyncio.Event()
        aws = Answers(lambda _: [replace(KNOWN, state=next(states))])

        async def make(call: Call[T], /, *, within: Within = nullcontext) -> T:
            answer = await aws.make(call, within=within)
            if not is_asked.is_set():
                is_asked.set()
                await go_on.wait()
            return answer

        describing = Describing(make, window_s=0.0)
        first = asyncio.create_task(describing.find_volume(KNOWN.volume_id))
        await is_asked.wait()
        second = asyncio.create_task(describing.find_volume(KNOWN.volume_id))
        found = await second
        go_on.set()
        return [await first, found]

    assert [None if one is None else one.state for one in asyncio.run(run())] == ["creating", "available"]


def test_who_leaves_takes_the_answer_from_nobody() -> None:
    aws = Answers(answer_volumes)

    async def run() -> CloudVolume | None:
        describing = aws.describe()
        leaving = asyncio.create_task(describing.find_volume(VOLUMES[0]))
        staying = asyncio.create_task(describing.find_volume(VOLUMES[1]))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    found = asyncio.run(run())
    assert found is not None
    assert found.volume_id == VOLUMES[1]


def test_an_entry_that_cannot_be_read_is_an_error_for_who_asked_for_it_alone() -> None:
    def answer(call: Call[Any]) -> Sequence[CloudVolume | Unread]:
        found = answer_volumes(call)
        return [Unread(one.volume_id, "is odd") if one.volume_id == VOLUMES[3] else one for one in found]

    aws = Answers(answer)

    async def run() -> list[CloudVolume | BaseException | None]:
        describing = aws.describe()
        asked = (describing.find_volume(one) for one in VOLUMES[:6])
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(run())
    assert isinstance(found[3], CloudError)
    assert VOLUMES[3] in found[3].message
    assert [isinstance(one, CloudVolume) for one in found] == [True, True, True, False, True, True]
    assert len(aws.made) == 1


@pytest.mark.parametrize("bad", [0, 5, 8])
def test_trouble_without_a_name_is_found_by_halves(bad: int) -> None:
    """A name's volume that cannot be read may be anybody's of the batch: all others are answered."""
    names = [f"pvc-{number}" for number in range(9)]

    def answer(call: Call[Any]) -> Sequence[CloudVolume | Unread]:
        return [
            Unread(None, "is odd") if name == names[bad] else replace(KNOWN, tags=(("CSIVolumeName", name),))
            for name in list_values(call)
        ]

    aws = Answers(answer)

    async def run() -> list[tuple[CloudVolume, ...] | BaseException]:
        describing = aws.describe()
        asked = (describing.find_volumes_named(name) for name in names)
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(run())
    assert [isinstance(one, CloudError) for one in found] == [number == bad for number in range(9)]
    assert [len(one) for one in found if isinstance(one, tuple)] == [1] * 8
    assert len(aws.made) < 10


def test_an_answer_that_cannot_be_read_at_all_is_found_by_halves() -> None:
    def answer(call: Call[Any]) -> Sequence[Modification]:
        assert isinstance(call, DescribeVolumesModifications)
        if VOLUMES[2] in call.volume_ids:
            raise CloudError("odd", code="NotUnderstood")
        return [Modification(one, "completed") for one in call.volume_ids]

    aws = Answers(answer)

    async def run() -> list[Modification | BaseException | None]:
        describing = aws.describe()
        asked = (describing.find_modification(one) for one in VOLUMES[:5])
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [isinstance(one, Modification) for one in asyncio.run(run())] == [True, True, False, True, True]


def test_what_fails_the_call_is_told_to_all_and_asked_anew_by_the_next() -> None:
    fails = iter((True, False))

    def answer(call: Call[Any]) -> Sequence[CloudVolume]:
        if next(fails):
            raise explain_failure(Failure("ec2", "DescribeVolumes", "UnauthorizedOperation", "no"))
        return answer_volumes(call)

    async def run() -> None:
        describing = Answers(answer).describe()
        asked = (describing.find_volume(one) for one in VOLUMES[:3])
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(one, AgentError) for one in found] == [True] * 3
        assert await describing.find_volume(VOLUMES[0]) is not None

    asyncio.run(run())


def test_snapshots_are_asked_for_as_volumes_are() -> None:
    snapshot = CloudSnapshot("snap-0123456789abcdef0", VOLUMES[0], "completed", "2026-01-01")

    def answer(call: Call[Any]) -> Sequence[CloudSnapshot]:
        assert isinstance(call, DescribeSnapshots)
        tags = (("CSIVolumeSnapshotName", "nightly"),)
        return [replace(snapshot, tags=tags)] if call.filters else [snapshot, snapshot]

    async def run() -> None:
        describing = Answers(answer).describe()
        assert await describing.find_snapshot(snapshot.snapshot_id) is not None
        assert await describing.find_snapshot("snap-00000000000000000") is None
        assert len(await describing.find_snapshots_named("nightly")) == 1
        assert len(await describing.list_snapshots()) == 2

    asyncio.run(run())


def test_zones_are_asked_for_once() -> None:
    aws = Answers(lambda _: (Zone("us-west-2a", "usw2-az2"),))

    async def run() -> None:
        describing = aws.describe()
        await asyncio.gather(describing.list_zones(), describing.list_zones())
        assert await describing.list_zones() == (Zone("us-west-2a", "usw2-az2"),)

    asyncio.run(run())
    assert aws.made == [DescribeAvailabilityZones()]


def test_a_long_list_is_never_asked_for_twice_at_once() -> None:
    """Who comes while one is read shares the next one with all others who do."""

    async def run() -> tuple[list[int], int]:
        asked, at_once, go_on = 0, [0], asyncio.Event()

        async def ask() -> int:
            nonlocal asked
            asked += 1
            number = asked
            at_once.append(at_once[-1] + 1)
            await go_on.wait()
            at_once.append(at_once[-1] - 1)
            return number

        lists = OneAtATime(ask)
        tasks = [asyncio.create_task(lists.find())]
        await run_until(lambda: asked == 1)
        tasks += [asyncio.create_task(lists.find()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        go_on.set()
        found = await asyncio.gather(tasks[0], *tasks[2:])
        return list(found), max(at_once)

    assert asyncio.run(run()) == ([1, 2, 2], 1)


def test_a_volume_that_is_gone_fails_the_checks_of_no_other() -> None:
    """EC2 refuses the whole question about AWS's checks for one volume that it does not know."""
    gone = f"The volume '{VOLUMES[7]}' does not exist."
    failure = Failure("ec2", "DescribeVolumeStatus", "InvalidVolume.NotFound", gone)

    def answer(call: Call[Any]) -> Any:
        if VOLUMES[7] in list_values(call):
            raise explain_failure(failure)
        return [CheckedVolume(VolumeId(one), AwsChecks("ok")) for one in list_values(call)]

    async def run() -> list[Any]:
        describing = Answers(answer).describe()
        asked = (describing.find_checks(one) for one in VOLUMES[:20])
        return list(await asyncio.gather(*asked, return_exceptions=True))

    found = asyncio.run(run())
    assert [one for one in found if not isinstance(one, AgentError)] == [AwsChecks("ok")] * 19
    assert isinstance(found[7], CloudError)
