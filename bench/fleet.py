"""A thousand nodes boot at once and share one rate-limited API: how long until all are served, and who waits.

The agents' own cloud loops run, on a clock that jumps from event to event; only AWS is simulated, by token
buckets of the sizes EC2 documents. Volumes that exist are attached with and without asking for all of them in
one call, with and without jitter; others are claimed, made or taken over from nodes that are gone. Beside
that, one controller makes and attaches the claims of as many nodes.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import anyio
import structlog
from typing_extensions import override

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.aws.models import CloudVolume
from agent.cloud.aws_worker.throttle import AT_ONCE as NODE_AT_ONCE
from agent.cloud.aws_worker.throttle import Pacer
from agent.cloud.cloud_loop import CloudLoop
from agent.cloud.errors.explain import Failure, explain_failure
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.state.made_volumes import Makings, MemoryStore
from agent.cloud.view.cloud_report import CloudReport
from agent.controller.program import AT_ONCE
from agent.core.model import VolumeId
from agent.policy import Policy
from agent.policy.entries import VolumeClass, VolumeEntry
from agent.policy.values.build import build_section
from bench.cluster import WORKERS, run_cluster
from bench.limits import CHANGE_BUCKET, Gate, JumpingLoop
from bench.simulated import SimulatedAws

NODES = 1000
PART = 5
"""Of a fleet that shares a pool a fifth is simulated: everyone looks at what everyone might take."""
VOLUMES_PER_NODE = 4
ANSWER_S = 0.15
ATTACH_S = 2.0
LIMIT_S = 4 * 3600.0
LONG_AGO_S = -1e9
ZONE = "us-west-2a"


class Steady(random.Random):
    """Chance without chance: always the middle."""

    @override
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class SimulatedNode:
    """One node: its own loop, the worker's retries, and devices that follow attachments."""

    def __init__(
        self, aws: SimulatedAws, gate: Gate, number: int, rng: random.Random, way: Way, policy: Policy
    ) -> None:
        self._aws = aws
        self._gate = gate
        self._rng = rng
        self._pacer = Pacer(rng)
        self._way = way
        self.instance_id = f"i-{number:017x}"
        self.name = f"hyperpod-{self.instance_id}" if way.is_pooled else f"compute-{number}"
        self.released: set[VolumeId] = set()
        self.devices: dict[VolumeId, str | None] = {}
        self.calls = 0
        self.asked_bytes = 0
        self.looks = 0
        self.ready_at_s: float | None = None
        self.findings = CloudReport()
        self.store = MemoryStore()
        self._policy = policy
        self._clock = asyncio.get_running_loop().time
        aws.nodes.add(self.instance_id)
        self.restart()

    def restart(self) -> None:
        """Begin anew with what is on disk."""
        self.loop = CloudLoop(
            self.make,
            self._identify,
            lambda: self._policy,
            self,
            self._publish,
            clock=self._clock,
            rng=self._rng,
            makings=Makings(self.store),
            record=lambda *_about, **_fields: None,
        )

    def _publish(self, findings: CloudReport) -> None:
        self.findings = findings
        if self.ready_at_s is None and len(self.devices) >= VOLUMES_PER_NODE and not findings.endings:
            self.ready_at_s = self._clock()

    async def _identify(self) -> CloudIdentity:
        return CloudIdentity(
            cluster_arn="arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz",
            instance_group="compute",
            instance_name=self.name,
            instance_id=self.instance_id,
            region="us-west-2",
            zone=ZONE,
        )

    async def make(self, call: Call[Any], *, within: Within = nullcontext) -> Any:
        """Make a call as the worker does; not batched: one for each volume asked about."""
        del within  # no node here has a filesystem to freeze
        if isinstance(call, DescribeVolumes) and not self._way.is_batched:
            by_id = [value for name, values in call.filters if name == "volume-id" for value in values]
            singles = [DescribeVolumes((("volume-id", (value,)),)) for value in by_id] or [call]
            return tuple([one for single in singles for one in await self._call(single)])
        return await self._call(call)

    async def _call(self, call: Call[Any]) -> Any:
        return await self._pacer.make(call, lambda: self._ask(call))

    async def _ask(self, call: Call[Any]) -> Any:
        await anyio.sleep(ANSWER_S * self._rng.uniform(0.5, 1.5))
        self.calls += 1
        if not self._gate.admit(call, self._clock()):
            failure = Failure(call.service, call.operation, "RequestLimitExceeded", "Request limit exceeded.")
            raise explain_failure(failure)
        before = self._aws.answered_bytes
        try:
            return self._aws.answer(call)
        finally:
            self.asked_bytes += self._aws.answered_bytes - before

    def appear(self, volume_id: VolumeId) -> None:
        """Have the device of a volume appear that was attached."""
        self.devices[volume_id] = None
        self.loop.wake()

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        self.looks += 1
        return dict(self.devices)

    def list_assigned(self) -> Mapping[str, VolumeId]:
        return {}  # all that the simulated policies have are claims

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        del is_forced
        self.devices.pop(volume_id, None)

    @asynccontextmanager
    async def freeze(self, volume_id: VolumeId) -> AsyncIterator[bool]:
        del volume_id
        yield False


@dataclass(frozen=True)
class Way:
    """One way for a fleet to come up."""

    name: str
    is_batched: bool = True
    is_jittered: bool = True
    is_claimed: bool = False
    """Volumes are claimed, and made where there is none; else each node names four that exist."""
    is_pooled: bool = False
    """Nodes have names that end with them, so that they share what others left."""
    left: float = 0.0
    """For how many of the volumes needed there is one that a node left which is gone."""


def _make_entry(volume_id: VolumeId) -> VolumeEntry:
    return build_section(
        VolumeEntry, {"name": f"of-{volume_id}", "match": {"volume_id": volume_id}, "block": {}}
    )


CLAIMS = tuple(
    build_section(
        VolumeEntry, {"name": f"claim-{number}", "claim": {"class": "fast", "size": "500GiB"}, "block": {}}
    )
    for number in range(VOLUMES_PER_NODE)
)


def make_policy(aws: SimulatedAws, number: int, way: Way) -> Policy:
    """Return the policy of one node, whose volumes are made for it where it names them."""
    if way.is_claimed:
        return Policy(version=1, classes={"fast": VolumeClass()}, volumes=CLAIMS)
    own = [VolumeId(f"vol-{number * 256 + index:017x}") for index in range(VOLUMES_PER_NODE)]
    for volume_id in own:
        aws.put(CloudVolume(volume_id, "available", 500, "gp3", ZONE), LONG_AGO_S)
    return Policy(version=1, classes={}, volumes=tuple(map(_make_entry, own)))


def leave_volumes(aws: SimulatedAws, nodes: int) -> None:
    """Have as many nodes as that be gone, and their volumes be left."""
    for number in range(nodes):
        holder = f"hyperpod-i-{0xDEAD0000 + number:017x}"
        for entry in CLAIMS:
            tags = {
                "Name": f"{entry.name} {holder}",
                "ebs-agent:made-by": "ebs-agent",
                "ebs-agent:cluster": "abcde01234yz",
                "ebs-agent:claim": entry.name,
                "ebs-agent:node": holder,
                "ebs-agent:group": "compute",
                "ebs-agent:on-delete": "retain",
            }
            volume_id = VolumeId(f"vol-{len(aws.volumes):017x}")
            volume = CloudVolume(volume_id, "available", 500, "gp3", ZONE, tags=tuple(sorted(tags.items())))
            aws.put(volume, LONG_AGO_S)


@dataclass(frozen=True)
class Outcome:
    """How one way did."""

    calls_per_node: float
    throttled: int
    median_s: float
    all_served_s: float
    worst_calls: int
    bytes_per_look: float
    made: int


class Fleet:
    """Nodes that boot at once, and the AWS they share."""

    def __init__(self, nodes: int, way: Way, seed: int = 0, lag_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self.aws = SimulatedAws(loop.time, lag_s, self._attach)
        self.gate = Gate()
        self._loop = loop
        leave_volumes(self.aws, round(nodes * way.left))
        self.nodes: dict[str, SimulatedNode] = {}
        for number in range(1, nodes + 1):
            rng = random.Random(seed * nodes + number) if way.is_jittered else Steady()  # noqa: S311
            policy = make_policy(self.aws, number, way)
            node = SimulatedNode(self.aws, self.gate, number, rng, way, policy)
            self.nodes[node.instance_id] = node

    def _attach(self, instance_id: str, volume_id: VolumeId) -> None:
        self._loop.call_later(ATTACH_S, self.nodes[instance_id].appear, volume_id)

    async def run(self, limit_s: float = LIMIT_S) -> None:
        """Run until every node has its volumes, or time is up."""
        async with anyio.create_task_group() as tasks:
            for node in self.nodes.values():
                tasks.start_soon(node.loop.run)
            while any(node.ready_at_s is None for node in self.nodes.values()):
                await anyio.sleep(1)
                if self._loop.time() > limit_s:
                    break
            tasks.cancel_scope.cancel()

    def judge(self) -> Outcome:
        """Return how it went."""
        fleet = self.nodes.values()
        ready = [LIMIT_S if node.ready_at_s is None else node.ready_at_s for node in fleet]
        return Outcome(
            calls_per_node=statistics.mean(node.calls for node in fleet),
            throttled=self.gate.throttled,
            median_s=statistics.median(ready),
            all_served_s=max(ready),
            worst_calls=max(node.calls for node in fleet),
            bytes_per_look=sum(node.asked_bytes for node in fleet) / sum(node.looks for node in fleet),
            made=len(self.aws.made),
        )


def find_least_s(nodes: int, changes_per_volume: int = 1) -> float:
    """Return the time in which the buckets let through what has to be asked at the very least."""
    changes = nodes * VOLUMES_PER_NODE * changes_per_volume
    return max(0.0, (changes - CHANGE_BUCKET[0]) / CHANGE_BUCKET[1])


def run_way(nodes: int, way: Way) -> Outcome:
    """Simulate one way on a clock of its own."""

    async def run() -> Outcome:
        fleet = Fleet(nodes, way)
        await fleet.run()
        return fleet.judge()

    return anyio.run(run, backend_options={"loop_factory": JumpingLoop})


WAYS = (
    Way("one call for all, jitter"),
    Way("one call for all, no jitter", is_jittered=False),
    Way("one call each, jitter", is_batched=False),
    Way("one call each, no jitter", is_batched=False, is_jittered=False),
    Way("claims, lasting names", is_claimed=True),
    Way("claims, an empty pool", is_claimed=True, is_pooled=True),
    Way("claims, a pool for half", is_claimed=True, is_pooled=True, left=0.5),
    Way("claims, a pool for all", is_claimed=True, is_pooled=True, left=1.0),
)


def main(nodes: int = NODES) -> None:
    """Print how each way does."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    print(f"{nodes} nodes boot at once, {VOLUMES_PER_NODE} volumes each to be attached.")
    print(f"EC2's buckets let that through in {find_least_s(nodes):.0f} s at the very least,")
    print(f"and in {find_least_s(nodes, 2):.0f} s where each is made or named besides; of those that share a")
    print(
        f"pool only {nodes // PART} are simulated, and {find_least_s(nodes // PART, 2):.0f} s is the least."
    )
    heads = ("calls/node", "worst node", "throttled", "median s", "all s", "kB/look", "made", "ran s")
    print(f"{'':34}" + "".join(f"{head:>11}" for head in heads))
    for way in WAYS:
        began = perf_counter()
        simulated = nodes // PART if way.is_pooled else nodes
        outcome = run_way(simulated, way)
        print(
            f"{f'{way.name}, {simulated}':34}{outcome.calls_per_node:11.1f}{outcome.worst_calls:11}"
            f"{outcome.throttled:11}{outcome.median_s:11.0f}{outcome.all_served_s:11.0f}"
            f"{outcome.bytes_per_look / 1000:11.1f}{outcome.made:11}{perf_counter() - began:11.1f}",
            flush=True,
        )
    print_controller(nodes)


def print_controller(nodes: int) -> None:
    """Print how the controller does what the nodes do for themselves by claims."""
    claims = nodes * VOLUMES_PER_NODE
    print(f"\nThe controller makes and attaches the {claims} claims of {nodes} nodes, in place of the nodes,")
    print(f"asked by sidecars with {WORKERS} workers each:")
    heads = ("calls/claim", "throttled", "errors", "median s", "all s", "idle/min", "ran s")
    print(f"{'':34}" + "".join(f"{head:>12}" for head in heads))
    for raised, at_once in ((1, NODE_AT_ONCE), (1, AT_ONCE), (10, NODE_AT_ONCE), (10, AT_ONCE)):
        began = perf_counter()
        did = run_cluster(nodes, VOLUMES_PER_NODE, at_once, raised=raised)
        print(
            f"{f'limits times {raised}, {at_once} calls at once':34}{did.calls / claims:12.2f}"
            f"{did.throttled:12}{did.failures:12}{did.median_s:12.0f}{did.all_served_s:12.0f}"
            f"{did.idle_calls_per_min:12.1f}{perf_counter() - began:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
