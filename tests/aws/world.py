"""Nodes of an emulated cluster: cloud loops that share one cloud, with devices that follow attachments."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio.to_thread
import botocore.exceptions

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws_worker.main import Caller, describe_failure, encode_reply
from agent.cloud.aws_worker.process import WorkerSettings
from agent.cloud.aws_worker.throttle import Pacer
from agent.cloud.cloud_loop import CloudLoop
from agent.cloud.errors.explain import explain_failure
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.plan.claims.remembered import recall_claimed
from agent.cloud.plan.decisions import AttachApi, NodeView
from agent.cloud.state.made_volumes import Makings, MemoryStore
from agent.cloud.view.cloud_report import CloudReport, choose_entries, make_facts
from agent.core.errors import AgentError, OccupiedError
from agent.core.model import Identity, Reason, Seen, VolumeId, Wanted
from agent.policy import Policy
from agent.policy.reading import load_policy
from tests.aws.cloud import ACCOUNT, CLUSTER_ARN, REGION, ZONE, Cloud
from tests.aws.server import AwsServer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "emulated", "AWS_SECRET_ACCESS_KEY": "emulated"}


class CrashError(BaseException):
    """The agent dies here. No ``except Exception`` of the agent may save it."""


@dataclass
class Crash:
    """Where the agent dies: around its ``nth`` call of ``operation``, before AWS hears of it or after."""

    operation: str
    nth: int
    is_after: bool
    seen: int = 0
    has_happened: bool = False

    @contextmanager
    def around(self, call: Call[Any]) -> Iterator[None]:
        """Make the call within; raises CrashError before or after it where this is the place."""
        self.seen += call.operation == self.operation
        is_here = (call.operation, self.seen) == (self.operation, self.nth)
        if is_here and not self.is_after:
            self._strike()
        try:
            yield
        finally:  # an answer that is an error is one, too
            if is_here and self.is_after:
                self._strike()

    def _strike(self) -> None:
        self.has_happened = True
        raise CrashError


class FollowingDevices:
    """Devices that appear and vanish as the cloud attaches and detaches."""

    def __init__(self) -> None:
        self.here: dict[str, set[str]] = {}
        self.sizes_gib: dict[str, int] = {}
        self.names: dict[str, str] = {}
        """The block device names chosen at attach."""
        self.delay = False
        """Attached devices appear only when ``catch_up`` is called."""
        self._late: list[tuple[str, str]] = []

    def create(self, volume_id: str, size_gib: int, source_id: str | None) -> None:
        del source_id
        self.sizes_gib[volume_id] = size_gib

    def attach(self, volume_id: str, instance_id: str, device: str) -> None:
        self.names[volume_id] = device
        self._late.append((instance_id, volume_id))
        if not self.delay:
            self.catch_up()

    def catch_up(self) -> None:
        """Have the devices appear that are attached."""
        for instance_id, volume_id in self._late:
            self.here.setdefault(instance_id, set()).add(volume_id)
        self._late.clear()

    def detach(self, volume_id: str, instance_id: str) -> None:
        self.here.get(instance_id, set()).discard(volume_id)

    def grow(self, volume_id: str, size_gib: int) -> None:
        self.sizes_gib[volume_id] = size_gib

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        del volume_id, snapshot_id


@dataclass
class EmulatedHands:
    """The node half, as far as the cloud half knows it."""

    devices: FollowingDevices
    instance_id: str
    assign: Callable[[Mapping[VolumeId, Seen]], Mapping[str, VolumeId]] = lambda _present: {}
    busy: set[str] = field(default_factory=set)
    occupied: set[str] = field(default_factory=set)
    """Volumes that are being checked, for longer than anybody waits."""
    broken: set[str] = field(default_factory=set)
    """Volumes that answer a flush with an error."""
    released: set[VolumeId] = field(default_factory=set)
    is_frozen: bool = False
    freezes: int = 0
    on_freeze: Callable[[], None] = lambda: None
    asked_while_frozen: list[Call[Any]] = field(default_factory=list)

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        return {VolumeId(one): None for one in self.devices.here.get(self.instance_id, set())}

    def list_assigned(self) -> Mapping[str, VolumeId]:
        return self.assign({volume: self._see(volume) for volume in self.list_devices()})

    def _see(self, volume: VolumeId) -> Seen:
        name = self.devices.names.get(volume) or None
        size_bytes = self.devices.sizes_gib.get(volume, 0) << 30
        return Seen("/dev/nvme1n1", Identity(volume, "model", "serial", name), size_bytes)

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        if volume_id in self.occupied:
            raise OccupiedError(f"{volume_id} is being checked.", reason=Reason.TOO_SLOW)
        if volume_id in self.broken:
            raise AgentError(f"{volume_id} could not be flushed.", reason=Reason.IO_ERRORS)
        if volume_id in self.busy and not is_forced:
            raise AgentError(f"{volume_id} is in use by python3 (pid 4711).", reason=Reason.DEVICE_BUSY)
        self.released.add(volume_id)

    @asynccontextmanager
    async def freeze(self, volume_id: VolumeId) -> AsyncIterator[bool]:
        del volume_id
        self.is_frozen = True
        self.freezes += 1
        self.on_freeze()
        try:
            yield True
        finally:
            self.is_frozen = False


class NodeUnderTest:
    """One node of the cluster, its agent restarted as often as the test likes."""

    def __init__(self, world: World, identity: CloudIdentity) -> None:
        self.world = world
        self.identity = identity
        self.hands = EmulatedHands(world.devices, str(identity.instance_id), self.assign)
        self.assigned: dict[str, VolumeId] = {}
        self.policy = world.policy
        self.crash: Crash | None = None
        self.published: list[CloudReport] = []
        self.made: list[Call[Any]] = []
        self.answered: list[Call[Any]] = []
        """Those that AWS did, and whose answer the agent lived to see."""
        self.store = MemoryStore()
        """The node's disk, which outlasts the agent."""
        self.events: list[tuple[str, str]] = []
        self.told: list[dict[str, Any]] = []
        """The fields of each event, in the same order."""
        self.spoil: Callable[[Call[Any], dict[str, Any]], None] = lambda _call, _answer: None
        """What somebody between the node and AWS does to answers."""
        self.clock_error = timedelta()
        """How far the node's own clock is ahead."""
        self.restart()

    @property
    def time_s(self) -> float:
        """The clock all nodes share; a test moves it."""
        return self.world.time_s

    @time_s.setter
    def time_s(self, time_s: float) -> None:
        self.world.time_s = time_s

    @property
    def now(self) -> datetime:
        """The time of day all nodes share; a test moves it."""
        return self.world.now

    @now.setter
    def now(self, now: datetime) -> None:
        self.world.now = now

    def read_clock(self) -> datetime:
        """Return what the node itself takes for the time of day."""
        return self.now + self.clock_error

    def restart(self, clock: Callable[[], float] | None = None) -> None:
        """Forget everything a process forgets when it dies. ``clock``: another one than the test moves."""
        self.crash = None
        self.loop = CloudLoop(
            self.make,
            self.identify,
            lambda: self.policy,
            self.hands,
            self.published.append,
            clock=clock or (lambda: self.time_s),
            now=self.read_clock,
            rng=random.Random(1),  # noqa: S311 - jitter
            makings=(makings := Makings(self.store)),
            claimed=self._recall(makings),
            record=self.record,
        )

    def assign(self, present: Mapping[VolumeId, Seen]) -> Mapping[str, VolumeId]:
        """Return which entry means which volume that is here, by what AWS said at the last look."""
        last = self.loop.findings
        facts = make_facts(self.identity)
        found = self.policy.assign(
            present, facts, held=self.assigned, claimed=last.claimed, origins=last.origins
        )
        self.assigned = {
            one.name: volume for volume, one in found.items() if isinstance(one, Wanted) and volume in present
        }
        return self.assigned

    def record(self, name: str, volume_id: VolumeId | None, /, **fields: Any) -> None:
        self.events.append((name, str(volume_id)))
        self.told.append(json.loads(json.dumps(fields)))

    def _recall(self, makings: Makings) -> Mapping[str, VolumeId]:
        node = NodeView(self.identity, AttachApi.NONE, cluster_name=self.policy.agent.cloud.cluster)
        return recall_claimed(choose_entries(self.policy, self.identity), node, makings)

    async def identify(self) -> CloudIdentity:
        return self.identity

    async def make(self, call: Call[Any], *, within: Within = nullcontext) -> Any:
        """Make the call as the worker would, in a thread instead of a process, and die where asked to."""
        async with within():
            with self.crash.around(call) if self.crash else nullcontext():
                answer = await self._ask(call)
            self.answered.append(call)
            return answer

    async def _ask(self, call: Call[Any]) -> Any:
        self.made.append(call)
        self.hands.asked_while_frozen += [call] if self.hands.is_frozen else []

        async def ask() -> dict[str, Any]:
            try:
                return await anyio.to_thread.run_sync(self.world.caller.call, type(call), call.parameters())
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
                raise explain_failure(describe_failure(type(call), error)) from error

        # What may be repeated is asked twice where AWS fails, as of the daemon; throttled it is asked once.
        answer = await Pacer(attempts=1, attempts_at_failure=2).make(call, ask)
        told = json.loads(encode_reply(answer))
        self.spoil(call, told)
        return call.parse(told)

    async def settle(self, looks: int = 12, *, step_s: float = 60) -> CloudReport:
        """Look until nothing is done any more and nothing waits; fail when that does not come."""
        for _ in range(looks):
            has_acted = await self.loop.look()
            if not has_acted and self.loop.is_settled:
                return self.loop.findings
            self.time_s += step_s
            await anyio.sleep(0.01)
        raise AssertionError(f"not settled after {looks} looks: {self.loop.findings.endings}")

    async def look(self, times: int = 1) -> CloudReport:
        for _ in range(times):
            await self.loop.look()
            self.time_s += 1
        return self.loop.findings


def is_crash(error: BaseException) -> bool:
    """Return whether the agent died, in however many task groups."""
    inner = getattr(error, "exceptions", ())
    return isinstance(error, CrashError) or any(is_crash(one) for one in inner)


class World:
    """One emulated cloud and the nodes in it."""

    def __init__(self, aws: AwsServer, caller: Caller) -> None:
        self.aws = aws
        self.cloud: Cloud = aws.cloud
        self.devices = FollowingDevices()
        self.cloud.hooks = self.devices
        self.policy = Policy(version=1, classes={})
        self.caller = caller
        self.time_s = 1000.0
        noon = datetime.now(timezone.utc).replace(hour=12, minute=0, second=0, microsecond=0)
        self.now = noon + timedelta(days=10)
        """Well after everything was made, which moto dates by the machine's clock."""
        self.cloud.now = lambda: self.now

    def use_policy(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text("version: 1\n" + text, "utf-8")
        self.policy = load_policy(path, trust_owner=True)

    def add_node(self, number: int, name: str | None = None, zone: str = ZONE) -> NodeUnderTest:
        """Add a node; one with a name used before is its replacement."""
        instance_id = f"i-{number:017x}"
        self.cloud.add_node(instance_id, zone=zone)
        identity = CloudIdentity(
            cluster_arn=CLUSTER_ARN,
            instance_group="compute",
            instance_name=name or f"compute-{number}",
            instance_id=instance_id,
            region=REGION,
            account=ACCOUNT,
            zone=zone,
            partition="aws",
        )
        return NodeUnderTest(self, identity)

    def settings(self, **changes: Any) -> WorkerSettings:
        """Return settings of a real worker process that speaks to this cloud."""
        return WorkerSettings(
            **{
                "region": REGION,
                "endpoint": self.aws.endpoint,
                "attempts": 3,
                "environment": CREDENTIALS,
                **changes,
            }
        )
