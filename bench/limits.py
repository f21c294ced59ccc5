"""EC2's limits on an account, and a clock for them that jumps from event to event."""

from __future__ import annotations

import asyncio
import selectors
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from agent.cloud.aws.call import Call, Change

DESCRIBE_BUCKET = (100.0, 20.0)
CHANGE_BUCKET = (50.0, 5.0)
"""(calls, calls per second). Source: the EC2 developer guide, "Request throttling", sizes for non-mutating
and for mutating actions. SageMaker documents none for its attach, which ends in EC2's."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer in place of waiting for it."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector(self))

    @override
    def time(self) -> float:
        return self._now_s

    def jump(self, seconds: float) -> None:
        self._now_s += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left to happen")
        self._loop.jump(max(0.0, timeout))
        return super().select(0)


@dataclass
class Bucket:
    """EC2's limit on calls of one kind, for the whole account."""

    capacity: float
    per_s: float
    tokens: float
    filled_at_s: float = 0.0

    def take(self, now_s: float) -> bool:
        self.tokens = min(self.capacity, self.tokens + (now_s - self.filled_at_s) * self.per_s)
        self.filled_at_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Gate:
    """What EC2 lets through: two buckets for the whole account; ``raised``: of so many times their size."""

    def __init__(self, raised: float = 1.0) -> None:
        self.describes = _make_bucket(DESCRIBE_BUCKET, raised)
        self.changes = _make_bucket(CHANGE_BUCKET, raised)
        self.throttled = 0

    def admit(self, call: Call[Any], now_s: float) -> bool:
        bucket = self.changes if isinstance(call, Change) else self.describes
        is_admitted = bucket.take(now_s)
        self.throttled += not is_admitted
        return is_admitted


def _make_bucket(documented: tuple[float, float], raised: float) -> Bucket:
    capacity, per_s = (one * raised for one in documented)
    return Bucket(capacity, per_s, capacity)
