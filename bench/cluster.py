"""A thousand nodes' claims made and attached by the controller, on a clock that jumps: calls, and until when.

The controller's own parts run, asked as the sidecars ask: as many claims at a time as they have workers, and
each attached once it is made. AWS is simulated, by token buckets of the sizes EC2 documents.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws_worker.throttle import Pacer
from agent.cloud.errors.explain import Failure, explain_failure
from agent.controller.calls import GIB, AttachCall, CreateCall, NodeId, SizeRange
from agent.controller.describing.describing import Describing
from agent.controller.patience import Patience
from agent.controller.program import AT_ONCE
from agent.controller.turns import Turns
from agent.controller.volumes.cluster_volumes import ClusterVolumes
from agent.core.errors import AgentError
from bench.limits import Gate, JumpingLoop
from bench.simulated import SimulatedAws

T = TypeVar("T")

WORKERS = 100
"""Of the external-provisioner, and of the attacher, as the chart sets them."""
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
"""How a sidecar repeats what failed: --retry-interval-start and -max."""
LAG_S = 2.0
"""Until what was made or attached can be used, and that is described."""
ANSWER_S = 0.15
CLUSTER = "abcde01234yz"
ZONE = (("topology.kubernetes.io/zone", "us-west-2a"),)
IDLE_MIN = 60
LIST_EVERY_S = 60.0
"""The external-attacher's ``--reconcile-sync``."""


@dataclass(frozen=True)
class Outcome:
    """How it went."""

    calls: int
    """That AWS answered, throttled ones among them."""
    throttled: int
    failures: int
    """Answers to sidecars that were errors, after which they ask again."""
    median_s: float
    all_served_s: float
    idle_calls_per_min: float


class Cluster:
    """A controller, and the AWS that it asks through the worker's retries."""

    def __init__(self, at_once: int, gate: Gate, seed: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._rng = random.Random(seed)  # noqa: S311 -- jitter
        self._clock = loop.time
        self.gate = gate
        self._pacer = Pacer(self._rng, at_once=at_once)
        self._sending = anyio.CapacityLimiter(at_once)
        self.aws = SimulatedAws(loop.time, LAG_S)
        self.calls = 0
        self.failures = 0
        """Answers to sidecars that were errors."""
        self.volumes = ClusterVolumes(
            self.make,
            Describing(self.make),
            Turns(),
            "us-west-2",
            CLUSTER,
            patience=Patience(loop.time, anyio.sleep),
        )

    async def make(self, call: Call[T], subject: str = "", *, within: Within = nullcontext) -> T:
        """Make a call as the worker does, which has so many threads for calls of both kinds."""
        del subject, within
        return await self._pacer.make(call, lambda: self._ask(call))

    async def _ask(self, call: Call[Any]) -> Any:
        async with self._sending:
            await anyio.sleep(ANSWER_S * self._rng.uniform(0.5, 1.5))
            self.calls += 1
            if not self.gate.admit(call, self._clock()):
                raise explain_failure(
                    Failure(call.service, call.operation, "RequestLimitExceeded", "Request limit exceeded.")
                )
            return self.aws.answer(call)

    async def bring(self, nodes: int, claims: int) -> list[float]:
        """Make and attach the claims of all nodes; returns when each was attached."""
        provisioners, attachers = anyio.CapacityLimiter(WORKERS), anyio.CapacityLimiter(WORKERS)
        served: list[float] = []

        async def serve(name: str, node: NodeId) -> None:
            call = CreateCall(name, SizeRange(500 * GIB), requisite=(ZONE,))
            made = await self._insist(provisioners, lambda: self.volumes.create(call))
            attach = AttachCall(made.volume.volume_id, node)
            await self._insist(attachers, lambda: self.volumes.attach(attach))
            served.append(self._clock())

        async with anyio.create_task_group() as tasks:
            for number in range(nodes):
                node = NodeId(f"i-{number:017x}", CLUSTER)
                for index in range(claims):
                    tasks.start_soon(serve, f"pvc-{number}-{index}", node)
        return served

    async def _insist(self, workers: anyio.CapacityLimiter, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask as a sidecar does, again and ever more rarely, until it is done."""
        for failures in itertools.count():
            async with workers:
                try:
                    return await ask()
                except AgentError:
                    self.failures += 1
            await anyio.sleep(min(FIRST_RETRY_S * 2**failures, LONGEST_RETRY_S))
        raise AssertionError("endless")

    async def idle(self, minutes: int) -> int:
        """Return the calls that are made while nobody asks for anything but what the sidecars ask always."""
        before = self.calls
        for _ in range(minutes):
            await self.volumes.list_volumes(None, None)
            await anyio.sleep(LIST_EVERY_S)
        return self.calls - before


def run_on_jumping_clock(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on a clock of its own."""
    return anyio.run(story, backend_options={"loop_factory": JumpingLoop})


def run_cluster(nodes: int, claims: int, at_once: int = AT_ONCE, *, raised: float = 1.0) -> Outcome:
    """Simulate one cluster that comes up, and then has nothing to do; ``raised``: limits times so much."""

    async def run() -> Outcome:
        cluster = Cluster(at_once, Gate(raised))
        served = await cluster.bring(nodes, claims)
        assert len({volume.volume_id for volume in cluster.aws.volumes.values()}) == nodes * claims
        calls, throttled = cluster.calls, cluster.gate.throttled
        idle = await cluster.idle(IDLE_MIN)
        return Outcome(
            calls, throttled, cluster.failures, statistics.median(served), max(served), idle / IDLE_MIN
        )

    return run_on_jumping_clock(run)
