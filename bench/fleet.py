"""A thousand nodes boot at once and share one rate-limited API: how long until all are served, and who waits.

The agents' own cloud loops run, on a clock that jumps from event to event; only AWS is simulated, by token
buckets of the sizes EC2 documents. Four ways: with and without asking for all volumes in one call, with and
without jitter.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import anyio
import structlog
from typing_extensions import override

from agent.cloud.call import Call
from agent.cloud.calls import AttachClusterNodeVolume, DescribeVolumes
from agent.cloud.errors import Failure, explain_failure
from agent.cloud.loop import CloudLoop
from agent.cloud.pace import Pacer
from agent.cloud.values import CloudAttachment, CloudVolume
from agent.cloud.whoami import CloudIdentity
from agent.model import VolumeId
from agent.policy import Policy
from agent.policy.entries import VolumeEntry

NODES = 1000
VOLUMES_PER_NODE = 4
DESCRIBE_BUCKET = (100.0, 20.0)
CHANGE_BUCKET = (50.0, 5.0)
"""(calls, calls per second). Source: the EC2 developer guide, "Request throttling", sizes for non-mutating
and for mutating actions. SageMaker documents none for its attach, which ends in EC2's."""
ANSWER_S = 0.15
ATTACH_S = 2.0
LIMIT_S = 4 * 3600.0
ZONE = "us-west-2a"


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


class Steady(random.Random):
    """Chance without chance: always the middle."""

    @override
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


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


@dataclass
class Api:
    """AWS, as far as this story goes: volumes, their attachments, and two buckets."""

    volumes: dict[VolumeId, CloudVolume] = field(default_factory=dict)
    describes: Bucket = field(default_factory=lambda: Bucket(*DESCRIBE_BUCKET, DESCRIBE_BUCKET[0]))
    changes: Bucket = field(default_factory=lambda: Bucket(*CHANGE_BUCKET, CHANGE_BUCKET[0]))
    served: Counter[str] = field(default_factory=Counter)
    throttled: int = 0

    def admit(self, call: Call[Any], now_s: float) -> bool:
        bucket = self.describes if isinstance(call, DescribeVolumes) else self.changes
        is_admitted = bucket.take(now_s)
        if is_admitted:
            self.served[call.operation] += 1
        else:
            self.throttled += 1
        return is_admitted


class SimulatedNode:
    """One node: its own loop, the worker's retries, and devices that follow attachments."""

    def __init__(self, api: Api, number: int, rng: random.Random, *, is_batched: bool) -> None:
        self._api = api
        self._pacer = Pacer(rng)
        self._is_batched = is_batched
        self.instance_id = f"i-{number:017x}"
        self.released: set[VolumeId] = set()
        self.devices: dict[VolumeId, str | None] = {}
        self.calls = 0
        self.ready_at_s: float | None = None
        self.own = [VolumeId(f"vol-{number * 256 + index:017x}") for index in range(VOLUMES_PER_NODE)]
        for volume_id in self.own:
            api.volumes[volume_id] = CloudVolume(volume_id, "available", 500, "gp3", ZONE)
        self._policy = Policy(version=1, classes={}, volumes=tuple(map(_make_entry, self.own)))
        clock = asyncio.get_running_loop().time
        self._clock = clock
        self.loop = CloudLoop(
            self.make, self._identify, lambda: self._policy, self, lambda _: None, clock=clock, rng=rng
        )

    async def _identify(self) -> CloudIdentity:
        return CloudIdentity(
            cluster_arn="arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz",
            instance_name=self.instance_id,
            instance_id=self.instance_id,
            region="us-west-2",
            zone=ZONE,
        )

    async def make(self, call: Call[Any]) -> Any:
        """Make a call as the worker does; not batched: one for each volume asked about."""
        if isinstance(call, DescribeVolumes) and not self._is_batched:
            by_id = [value for name, values in call.filters if name == "volume-id" for value in values]
            singles = [DescribeVolumes((("volume-id", (value,)),)) for value in by_id] or [call]
            return tuple([one for single in singles for one in await self._call(single)])
        return await self._call(call)

    async def _call(self, call: Call[Any]) -> Any:
        return await self._pacer.make(call, lambda: self._ask(call))

    async def _ask(self, call: Call[Any]) -> Any:
        await anyio.sleep(ANSWER_S)
        self.calls += 1
        if self._api.admit(call, self._clock()):
            return self._answer(call)
        failure = Failure(call.service, call.operation, "RequestLimitExceeded", "Request limit exceeded.")
        raise explain_failure(failure)

    def _answer(self, call: Call[Any]) -> Any:
        volumes = self._api.volumes
        if isinstance(call, AttachClusterNodeVolume):
            attachment = CloudAttachment("attached", call.instance_id)
            volume = volumes[call.volume_id]
            volumes[call.volume_id] = replace(volume, state="in-use", attachments=(attachment,))
            asyncio.get_running_loop().call_later(ATTACH_S, self._appear, call.volume_id)
            return "attaching"
        assert isinstance(call, DescribeVolumes)
        wanted = [value for name, values in call.filters if name == "volume-id" for value in values]
        return tuple(volumes[VolumeId(one)] for one in wanted if one in volumes)

    def _appear(self, volume_id: VolumeId) -> None:
        self.devices[volume_id] = None
        if self.devices.keys() >= set(self.own):
            self.ready_at_s = self._clock()
        self.loop.wake()

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        return dict(self.devices)

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        raise NotImplementedError(volume_id, is_forced)

    @asynccontextmanager
    async def freeze(self, volume_id: VolumeId) -> AsyncIterator[bool]:
        del volume_id
        yield False


def _make_entry(volume_id: VolumeId) -> VolumeEntry:
    return VolumeEntry.model_validate(
        {"name": f"of-{volume_id}", "match": {"volume_id": volume_id}, "block": {}}
    )


@dataclass(frozen=True)
class Outcome:
    """How one way of asking did."""

    calls_per_node: float
    throttled: int
    median_s: float
    all_served_s: float
    worst_calls: int


async def simulate(nodes: int, *, is_batched: bool, is_jittered: bool) -> Outcome:
    """Boot the nodes at once and run until every one has its volumes."""
    api = Api()
    rngs = [random.Random(number) if is_jittered else Steady() for number in range(nodes)]  # noqa: S311
    fleet = [SimulatedNode(api, number, rngs[number], is_batched=is_batched) for number in range(nodes)]
    async with anyio.create_task_group() as tasks:
        for node in fleet:
            tasks.start_soon(node.loop.run)
        while any(node.ready_at_s is None for node in fleet):
            await anyio.sleep(1)
            if asyncio.get_running_loop().time() > LIMIT_S:
                break
        tasks.cancel_scope.cancel()
    ready = [LIMIT_S if node.ready_at_s is None else node.ready_at_s for node in fleet]
    return Outcome(
        calls_per_node=statistics.mean(node.calls for node in fleet),
        throttled=api.throttled,
        median_s=statistics.median(ready),
        all_served_s=max(ready),
        worst_calls=max(node.calls for node in fleet),
    )


def find_least_s(nodes: int) -> float:
    """Return the time in which the buckets let through what has to be asked at the very least."""
    changes = nodes * VOLUMES_PER_NODE
    return max(0.0, (changes - CHANGE_BUCKET[0]) / CHANGE_BUCKET[1])


def run_way(nodes: int, *, is_batched: bool, is_jittered: bool) -> Outcome:
    """Simulate one way on a clock of its own."""

    async def run() -> Outcome:
        return await simulate(nodes, is_batched=is_batched, is_jittered=is_jittered)

    return anyio.run(run, backend_options={"loop_factory": JumpingLoop})


def main(nodes: int = NODES) -> None:
    """Print how each way of asking does."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    print(f"{nodes} nodes boot at once, {VOLUMES_PER_NODE} volumes each to be attached.")
    print(f"EC2's buckets let that through in {find_least_s(nodes):.0f} s at the very least.")
    print(
        f"{'':26}{'calls/node':>11}{'worst node':>11}{'throttled':>10}{'median s':>9}{'all s':>8}{'ran s':>7}"
    )
    for is_batched in (True, False):
        for is_jittered in (True, False):
            began = perf_counter()
            outcome = run_way(nodes, is_batched=is_batched, is_jittered=is_jittered)
            asking = "one call for all" if is_batched else "one call each"
            name = f"{asking}, {'jitter' if is_jittered else 'no jitter'}"
            print(
                f"{name:26}{outcome.calls_per_node:11.1f}{outcome.worst_calls:11}{outcome.throttled:10}"
                f"{outcome.median_s:9.0f}{outcome.all_served_s:8.0f}{perf_counter() - began:7.1f}"
            )


if __name__ == "__main__":
    main()
