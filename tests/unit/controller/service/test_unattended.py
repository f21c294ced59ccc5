"""What waits here when its asker has gone is not begun after another replica has answered the contrary."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import anyio
import pytest

from agent.cloud.aws import calls, making_calls
from agent.cloud.aws.call import Call, Change, Within
from agent.cloud.aws.calls import AttachVolume, DescribeVolumes, DetachVolume, ModifyVolume
from agent.controller.attaching.attachments import AskedOfVolumes, Attachments
from agent.controller.calls import GIB, AttachCall, ExpandCall, ModifyCall, Pairs, Performance, SizeRange
from agent.controller.service.controller import LIMIT_S
from agent.controller.service.unattended import begin_only_while_waited_for, queue_before_turn
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from agent.csi.service.join import Joining, is_waited_for
from tests.unit.controller.making_stand_in import Ec2
from tests.unit.controller.stand_in import NODE, OTHER, VOLUME, StandIn, run_until

pytestmark = pytest.mark.anyio
T = TypeVar("T")
ATTACH = AttachCall(VOLUME, NODE)


class Replica:
    """A controller whose sidecars may hang up, and whose calls wait for their turn as long as a test says."""

    def __init__(self, cloud: StandIn, joining: Joining) -> None:
        self._cloud = cloud
        self.joining = joining
        self.is_turn = anyio.Event()
        self.is_turn.set()
        self.waiting = 0
        """How many calls wait for their turn."""
        locks: defaultdict[VolumeId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._attachments = Attachments(
            begin_only_while_waited_for(self._make),
            AskedOfVolumes(cloud.find, cloud.find_checks),
            locks.__getitem__,
            "us-gov-west-1",
            cloud.patience(),
            window_s=0.0,
        )

    async def _make(self, call: Call[T], /, *, within: Within = nullcontext) -> T:
        if isinstance(call, Change):
            self.waiting += 1
            await self.is_turn.wait()
            self.waiting -= 1
        return await self._cloud.make(call, within=within)

    async def attach(self) -> Pairs:
        return await self._join("attach", partial(self._attachments.attach, ATTACH))

    async def detach(self) -> None:
        await self._join("detach", partial(self._attachments.detach, VOLUME, NODE))

    async def _join(self, key: str, begin: Callable[[], Awaitable[T]]) -> T:
        return await self.joining.join(key, begin, lambda: "still at it")

    async def attach_in_time(self) -> AgentError | Pairs | None:
        """Return what is answered as long as the attacher waits; None: it takes longer."""
        answers: list[AgentError | Pairs] = []
        until_s = self._cloud.time_s + LIMIT_S

        async def ask() -> None:
            try:
                answers.append(await self.attach())
            except AgentError as error:
                answers.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await run_until(lambda: bool(answers) or self._cloud.time_s >= until_s)
            tasks.cancel_scope.cancel()
        return answers[0] if answers else None

    async def is_left(
        self, ask: Callable[[], Coroutine[Any, Any, object]], is_due: Callable[[], bool]
    ) -> None:
        """Ask, and hang up as soon as it is due, as a sidecar does that loses its lease."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await run_until(is_due)
            tasks.cancel_scope.cancel()
        assert self.joining.is_busy


@pytest.fixture
def cloud() -> StandIn:
    cloud = StandIn()
    cloud.add()
    return cloud


def list_holders(cloud: StandIn) -> list[str]:
    volume = cloud.describe(VOLUME)
    assert volume is not None
    return [str(one.instance_id) for one in volume.attachments]


async def test_a_volume_that_becomes_free_too_late_is_not_attached(cloud: StandIn) -> None:
    """The pod is gone by then, and the other replica has answered that no node has the volume."""
    cloud.detach_s = 1e9
    cloud.hold(OTHER).ends_s = 200.0
    async with Joining() as joining, Joining() as others:
        first, second = Replica(cloud, joining), Replica(cloud, others)
        await first.is_left(first.attach, lambda: cloud.looks > 1)
        await second.detach()
        await run_until(lambda: not joining.is_busy)
    assert cloud.time_s > 200.0
    assert [type(one) for one in cloud.made] == [DetachVolume]
    assert list_holders(cloud) == []


async def test_whoever_asks_again_has_it_attached(cloud: StandIn) -> None:
    """To wait for the node that has the volume goes on meanwhile."""
    cloud.detach_s = 1e9
    cloud.hold(OTHER).ends_s = 200.0
    async with Joining() as joining:
        replica = Replica(cloud, joining)
        await replica.is_left(replica.attach, lambda: cloud.looks > 1)
        await replica.attach()
    assert list_holders(cloud) == [NODE.instance_id]


async def test_a_queued_attachment_is_dropped_when_its_turn_comes(cloud: StandIn) -> None:
    async with Joining() as joining, Joining() as others:
        first, second = Replica(cloud, joining), Replica(cloud, others)
        first.is_turn = anyio.Event()
        await first.is_left(first.attach, lambda: first.waiting > 0)
        await second.detach()
        first.is_turn.set()
        await run_until(lambda: not joining.is_busy)
    assert AttachVolume not in {type(one) for one in cloud.made}
    assert list_holders(cloud) == []


async def test_a_queued_detachment_does_not_take_the_volume_of_the_next_pod(cloud: StandIn) -> None:
    """The other replica has detached it, and attached it to the same node for another pod since."""
    cloud.hold(NODE)
    async with Joining() as joining, Joining() as others:
        first, second = Replica(cloud, joining), Replica(cloud, others)
        first.is_turn = anyio.Event()
        await first.is_left(first.detach, lambda: first.waiting > 0)
        await second.detach()
        await second.attach()
        first.is_turn.set()
        await run_until(lambda: not joining.is_busy)
    assert [type(one) for one in cloud.made] == [DetachVolume, AttachVolume]
    assert list_holders(cloud) == [NODE.instance_id]


async def test_an_attachment_that_comes_to_no_end_is_left_where_nobody_waits(cloud: StandIn) -> None:
    """It may be another's by now, which is not to be taken back."""
    cloud.attach_s = 1e9
    async with Joining() as joining:
        replica = Replica(cloud, joining)
        await replica.is_left(replica.attach, lambda: bool(cloud.made))
        await run_until(lambda: not joining.is_busy)
    assert [type(one) for one in cloud.made] == [AttachVolume]


@pytest.mark.parametrize("pause_s", [1.0, 16.0, 64.0, 300.0])
async def test_an_attachment_that_comes_to_no_end_is_taken_back_by_a_later_attempt(
    cloud: StandIn, pause_s: float
) -> None:
    """However rarely the attacher asks, and however often it takes: each attachment has a time of its own."""
    cloud.attach_s = 1e9
    told = []
    async with Joining() as joining:
        replica = Replica(cloud, joining)
        for _ in range(8):
            next_s = cloud.time_s + LIMIT_S + pause_s
            answer = await replica.attach_in_time()
            if answer is not None:
                told.append(str(answer))
                next_s = cloud.time_s + pause_s
            await run_until(lambda at_s=next_s: cloud.time_s >= at_s or not joining.is_busy)  # type: ignore[misc]
            cloud.time_s = max(cloud.time_s, next_s)
    assert [type(one) for one in cloud.made] == [AttachVolume, DetachVolume] * 4
    assert len(told) == 4
    assert all("did not get there" in one for one in told)


async def test_an_attachment_that_came_to_its_end_between_two_attempts_is_kept(cloud: StandIn) -> None:
    """Even where a host of AWS answers first that does not know of it yet."""
    cloud.attach_s = 110.0
    async with Joining() as joining:
        replica = Replica(cloud, joining)
        assert await replica.attach_in_time() is None
        await run_until(lambda: not joining.is_busy)
        cloud.time_s, cloud.lag_s = 114.0, 9.0
        assert isinstance(await replica.attach_in_time(), tuple)
    assert [type(one) for one in cloud.made] == [AttachVolume]
    assert list_holders(cloud) == [NODE.instance_id]


@pytest.mark.parametrize("leaving", [{"expand"}, {"modify"}, {"expand", "modify"}], ids=sorted)
@pytest.mark.parametrize("first", ["expand", "modify"])
async def test_one_modification_of_two_is_made_while_one_of_them_waits(first: str, leaving: set[str]) -> None:
    """Whoever came first: the resizer asks for size and class apart."""
    ec2 = Ec2()
    volume_id = ec2.add()
    is_turn, waiting = anyio.Event(), anyio.Event()

    async def take_turn(call: Call[T], /, *, within: Within = nullcontext) -> T:
        if isinstance(call, Change):
            waiting.set()
            await is_turn.wait()
        return await ec2.make(call, within=within)

    volumes = ec2.start(make=begin_only_while_waited_for(take_turn))
    deeds: dict[str, Callable[[], Awaitable[object]]] = {
        "expand": partial(volumes.expand, ExpandCall(volume_id, SizeRange(20 * GIB))),
        "modify": partial(volumes.modify, ModifyCall(volume_id, Performance(iops=4000))),
    }
    answers = {}
    async with Joining() as joining, anyio.create_task_group() as stay:

        async def ask(name: str) -> None:
            answers[name] = await joining.join(name, deeds[name], lambda: "still at it")

        async with anyio.create_task_group() as leave:
            for name in sorted(deeds, key=lambda one: one != first):
                (leave if name in leaving else stay).start_soon(ask, name)
            await waiting.wait()
            leave.cancel_scope.cancel()
        is_turn.set()
        await run_until(lambda: not joining.is_busy)
    both = [ModifyVolume(volume_id, 20, iops=4000)]
    assert ec2.changes == ([] if leaving == set(deeds) else both)
    expected = {"expand": 20 * GIB, "modify": None}
    assert answers == {name: expected[name] for name in set(deeds) - leaving}


@pytest.mark.parametrize("is_waited", [True, False])
async def test_looks_are_for_everybody_and_deeds_for_who_waits(cloud: StandIn, *, is_waited: bool) -> None:
    make = begin_only_while_waited_for(cloud.make, lambda: is_waited)
    assert len(await make(DescribeVolumes())) == 1
    if is_waited:
        await make(AttachVolume(NODE.instance_id, VOLUME, "/dev/sdf"))
    else:
        with pytest.raises(AgentError, match=f"attach {VOLUME} to {NODE.instance_id}") as caught:
            await make(AttachVolume(NODE.instance_id, VOLUME, "/dev/sdf"))
        assert caught.value.reason is Reason.WAITING_FOR_CLOUD
    assert len(cloud.made) == is_waited


async def test_a_change_waits_before_its_turn_while_questions_keep_all_threads(cloud: StandIn) -> None:
    """So that it is dropped there: whoever asked for it has gone meanwhile."""
    is_answered, is_waited = anyio.Event(), True

    async def answer(call: Call[T], /, *, within: Within = nullcontext) -> T:
        async with within():
            await is_answered.wait()
            return await cloud.make(call)

    make = begin_only_while_waited_for(queue_before_turn(answer, 2), lambda: is_waited)

    async def attach() -> None:
        with pytest.raises(AgentError, match="Nobody waits"):
            await make(AttachVolume(NODE.instance_id, VOLUME, "/dev/sdf"))

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(make, DescribeVolumes())
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(attach)
        await anyio.wait_all_tasks_blocked()
        is_waited = False
        is_answered.set()
    assert cloud.made == []


async def test_what_is_part_of_no_work_is_waited_for() -> None:
    """As what the controller does of itself."""
    assert is_waited_for()


@pytest.mark.parametrize("module", [calls, making_calls], ids=lambda module: module.__name__)
def test_all_that_changes_something_is_known_as_that(module: object) -> None:
    """By its name in AWS's interface; the rest describes."""
    found = {one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Call)}
    named = {one for one in found if one.__module__ == getattr(module, "__name__", "")}
    looks = {one for one in named if one.__name__.startswith(("Describe", "List", "Get"))}
    assert named - looks
    assert all(issubclass(one, Change) for one in named - looks)
