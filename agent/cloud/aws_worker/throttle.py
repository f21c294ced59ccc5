"""How fast this node asks: what one call learns about AWS's limits holds for all calls of its kind.

Limits are an account's, shared by every node. While nothing is throttled, calls go out several at a time and
at once. After a throttled one they go out singly, with a pause that doubles, and halves again with each that
is let through, be it to be refused; without a pause, each of those lets one more go out together. Pauses are
drawn at random, so that nodes that booted together do not ask together. Nothing else repeats a call: what
botocore did of itself would count against the limits unseen.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio

from agent.cloud.aws.call import Call, Change
from agent.cloud.errors.explain import CloudError, is_let_through, is_throttled
from agent.core.errors import AgentError

T = TypeVar("T")

AT_ONCE = 4
"""Calls of one kind that a node has under way together, and requests that its worker makes together."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""What each of a thousand nodes that boot at once waits at most for. Twice as long leaves the limit unused
while the last of them pause, half as long costs a third more calls for 3 % of the time (make bench)."""
ATTEMPTS = 8


@dataclass
class _Lane:
    """Calls that share one of AWS's buckets: those that describe, and those that change."""

    at_once: int
    """How many go out together while nothing is throttled."""
    limiter: anyio.CapacityLimiter = field(init=False)
    pause_s: float = 0.0
    has_paused: bool = False
    """The pause is over, and no call has followed it."""
    slowed_at_s: float = float("-inf")

    def __post_init__(self) -> None:
        self.limiter = anyio.CapacityLimiter(self.at_once)

    def slow_down(self, asked_at_s: float, now_s: float) -> None:
        """Take note of a throttled call; of several that were under way together, only the first counts."""
        if asked_at_s < self.slowed_at_s:
            return
        self.slowed_at_s = now_s
        self.pause_s = min(max(FIRST_PAUSE_S, self.pause_s * 2), LONGEST_PAUSE_S)
        self.limiter.total_tokens = 1

    def speed_up(self) -> None:
        self.pause_s = self.pause_s / 2 if self.pause_s > FIRST_PAUSE_S else 0.0
        if not self.pause_s:
            self.limiter.total_tokens = min(self.limiter.total_tokens + 1, self.at_once)


class Pacer:
    """Makes calls no faster than AWS lets this node."""

    def __init__(
        self,
        rng: random.Random | None = None,
        attempts: int = ATTEMPTS,
        *,
        attempts_at_failure: int = 1,
        at_once: int = AT_ONCE,
    ) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._attempts = attempts
        self._attempts_at_failure = attempts_at_failure
        self._at_once = at_once
        self._lanes: dict[bool, _Lane] = {}

    async def make(self, call: Call[Any], ask: Callable[[], Awaitable[T]]) -> T:
        """Return what ``ask`` answers, asking again while AWS throttles it, which means it did nothing.

        A call that may be repeated is asked again where AWS failed, too; of others only a look can tell what
        became of them.
        """
        if call.is_repeatable:
            ask = partial(self._repeat, ask)
        lane = self._lanes.setdefault(isinstance(call, Change), _Lane(self._at_once))
        for _ in range(self._attempts - 1):
            answer = await self._try(lane, ask)
            if not isinstance(answer, CloudError):
                return answer
        async with lane.limiter:
            return await ask()

    async def _repeat(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again, soon and a few times, while AWS fails or cannot be reached."""
        for failures in range(self._attempts_at_failure - 1):
            try:
                return await ask()
            except CloudError as error:
                if not error.is_transient:
                    raise
            await anyio.sleep(self._rng.uniform(0.0, FIRST_PAUSE_S) * 2.0**failures)
        return await ask()

    async def _try(self, lane: _Lane, ask: Callable[[], Awaitable[T]]) -> T | CloudError:
        """Ask once, in turn and after the pause; returns the error of a call that was throttled.

        Where it is not asked after all, as what nobody wants any longer, the next call does not pause anew.
        """
        async with lane.limiter:
            if lane.pause_s and not lane.has_paused:
                await anyio.sleep(self._rng.uniform(0.5, 1.5) * lane.pause_s)
            has_paused, lane.has_paused = lane.pause_s > 0, False
            asked_at_s = anyio.current_time()
            try:
                answer = await ask()
            except CloudError as error:
                if not is_throttled(error.code):
                    if is_let_through(error.code):
                        lane.speed_up()
                    raise
                lane.slow_down(asked_at_s, anyio.current_time())
                return error
            except AgentError:  # not AWS's word
                lane.has_paused = has_paused
                raise
            lane.speed_up()
            return answer
