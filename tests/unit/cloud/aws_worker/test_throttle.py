from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest

from agent.cloud.aws.call import Call
from agent.cloud.aws.calls import DescribeVolumes, ModifyVolume
from agent.cloud.aws_worker.throttle import AT_ONCE, Pacer
from agent.cloud.errors.explain import CloudError, Failure, explain_failure
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from bench.fleet import Way, run_way
from bench.limits import JumpingLoop

RNG = random.Random(1)  # noqa: S311 - jitter
CHANGE = ModifyVolume(VolumeId("vol-0123456789abcdef0"), size_gib=2)


class Service:
    """Throttles the first calls, and notes when and how many at once it was asked."""

    def __init__(self, throttled: int, code: str = "RequestLimitExceeded") -> None:
        self.left = throttled
        self.code = code
        self.times_s: list[float] = []
        self.most_at_once = 0
        self._now = 0

    async def ask(self, call: Call[object] = CHANGE) -> str:
        self.times_s.append(anyio.current_time())
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await anyio.sleep(0.1)
        self._now -= 1
        if self.left > 0:
            self.left -= 1
            raise explain_failure(Failure(call.service, call.operation, self.code, "no"))
        return "yes"


def play(story: object) -> None:
    """Run an async function on a clock that jumps."""
    anyio.run(story, backend_options={"loop_factory": JumpingLoop})  # type: ignore[arg-type]  # a test's shorthand


def test_throttled_call_is_asked_again_ever_later() -> None:
    """A call that was throttled is asked again after pauses that double, until it is served."""
    service = Service(4)

    async def story() -> None:
        assert await Pacer(RNG).make(CHANGE, service.ask) == "yes"

    play(story)
    pauses = [after - before for before, after in zip(service.times_s, service.times_s[1:], strict=False)]
    assert len(pauses) == 4
    assert all(0.5 * 2**n <= pause - 0.1 <= 1.5 * 2**n for n, pause in enumerate(pauses))


def test_other_errors_are_not_asked_again() -> None:
    """What AWS refuses for another reason is the caller's to decide about."""
    service = Service(1, "InvalidParameterValue")

    async def story() -> None:
        with pytest.raises(CloudError):
            await Pacer().make(CHANGE, service.ask)

    play(story)
    assert len(service.times_s) == 1


@pytest.mark.parametrize(("call", "asked"), [(DescribeVolumes(), 3), (CHANGE, 1)], ids=["look", "change"])
@pytest.mark.parametrize("failed", [2, 8])
def test_failure_is_asked_again_where_that_may_be_repeated(
    call: Call[object], asked: int, failed: int
) -> None:
    """Where AWS fails, a call that may be repeated is made a few times in seconds, others once."""
    service = Service(failed, "InternalError")

    async def story() -> None:
        with suppress(CloudError):
            await Pacer(RNG, attempts_at_failure=3).make(call, service.ask)
        assert anyio.current_time() < 5

    play(story)
    assert len(service.times_s) == asked


def test_what_is_refused_for_another_reason_was_let_through() -> None:
    """A refusal of a call that AWS had time for shortens the pause as an answer does; silence does not."""

    async def count_pause_s(code: str) -> float:
        pacer, throttling, refusing = Pacer(RNG, attempts=2), Service(8), Service(8, code)
        for _ in range(4):
            with suppress(CloudError):
                await pacer.make(CHANGE, throttling.ask)
        for _ in range(8):
            with suppress(CloudError):
                await pacer.make(CHANGE, refusing.ask)
        began = anyio.current_time()
        await pacer.make(CHANGE, Service(0).ask)
        return anyio.current_time() - began

    async def story() -> None:
        assert await count_pause_s("IncorrectState") < 1
        assert await count_pause_s("EndpointConnectionError") > 1

    play(story)


def test_what_is_dropped_in_its_turn_costs_no_pause() -> None:
    """Calls that nobody waits for any longer would have those behind them wait until nobody does either."""
    throttling, last = Service(8), Service(0)

    async def drop() -> str:
        raise AgentError("Nobody waits for it.")

    async def story() -> None:
        pacer = Pacer(RNG, attempts=2)
        for _ in range(4):
            with suppress(CloudError):
                await pacer.make(CHANGE, throttling.ask)
        began = anyio.current_time()
        for _ in range(100):
            with suppress(AgentError):
                await pacer.make(CHANGE, drop)
        await pacer.make(CHANGE, last.ask)
        await pacer.make(CHANGE, last.ask)
        first_s, second_s = (one - began for one in last.times_s)
        assert first_s <= 1.5 * 8
        assert second_s > first_s + 1  # each that is asked is paused for as before

    play(story)


def test_throttling_ends_as_an_error() -> None:
    """A limit that does not lift is told, after as many attempts as allowed."""
    service = Service(100)

    async def story() -> None:
        with pytest.raises(CloudError, match="limits how often"):
            await Pacer(attempts=3).make(CHANGE, service.ask)

    play(story)
    assert len(service.times_s) == 3


def test_what_one_call_learns_holds_for_all() -> None:
    """Calls go out together until one is throttled; then one at a time, and describing is not slowed."""
    free, limited = Service(0), Service(AT_ONCE)

    async def story() -> None:
        pacer = Pacer(RNG)
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(pacer.make, CHANGE, free.ask)
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(pacer.make, CHANGE, limited.ask)
            await anyio.sleep(0.15)
            began = anyio.current_time()
            await pacer.make(DescribeVolumes(), free.ask)
            assert anyio.current_time() - began < 0.2

    play(story)
    assert free.most_at_once == AT_ONCE
    first, second = limited.times_s[AT_ONCE : AT_ONCE + 2]
    assert first > 0.5
    assert second >= first + 0.1


def test_more_go_out_together_one_by_one_after_throttling() -> None:
    """All at once would spend what AWS lets through in a moment, and throttle most of themselves again."""
    service, again = Service(1), Service(0)

    async def story() -> None:
        pacer = Pacer(RNG, at_once=12)
        await pacer.make(CHANGE, service.ask)
        for number in (2, 4, 8, 12):
            again.most_at_once = 0
            async with anyio.create_task_group() as tasks:
                for _ in range(number):
                    tasks.start_soon(pacer.make, CHANGE, again.ask)
            assert again.most_at_once == number

        again.most_at_once = 0
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(pacer.make, CHANGE, again.ask)
        assert again.most_at_once == 12

    play(story)
    assert len(again.times_s) == 46


def test_soon_after_throttling_few_go_out_together() -> None:
    service, again = Service(1), Service(0)

    async def story() -> None:
        pacer = Pacer(RNG, at_once=12)
        await pacer.make(CHANGE, service.ask)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(pacer.make, CHANGE, again.ask)

    play(story)
    assert again.most_at_once == 2


def test_fleet_is_served_near_the_least_time() -> None:
    """A fleet that boots at once is served soon after its limits allow; asking for each volume costs more."""
    ours = run_way(40, Way("ours"))
    naive = run_way(40, Way("naive", is_batched=False))
    assert ours.all_served_s < 120
    assert ours.calls_per_node < naive.calls_per_node
