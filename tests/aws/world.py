"""Nodes of an emulated cluster: cloud loops that share one cloud, with devices that follow attachments."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio.to_thread
import botocore.exceptions

from agent.cloud.calls import Call
from agent.cloud.client import WorkerSettings
from agent.cloud.errors import explain_failure
from agent.cloud.findings import Findings
from agent.cloud.loop import CloudLoop
from agent.cloud.whoami import CloudIdentity
from agent.cloud.worker import Caller, describe_failure, encode_reply
from agent.errors import AgentError
from agent.model import Reason, VolumeId
from agent.policy import Policy, load_policy
from tests.aws.cloud import ACCOUNT, CLUSTER_ARN, REGION, ZONE, Cloud
from tests.aws.server import AwsServer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "emulated", "AWS_SECRET_ACCESS_KEY": "emulated"}


class CrashError(BaseException):
    """The agent dies here. No ``except Exception`` of the agent may save it."""


@dataclass
class Crash:
    """Where the agent dies: at its ``at``-th call that changes something, before or after AWS did it."""

    at: int
    is_after: bool
    seen: int = 0


class FollowingDevices:
    """Devices that appear and vanish as the cloud attaches and detaches."""

    def __init__(self) -> None:
        self.here: dict[str, set[str]] = {}
        self.sizes_gib: dict[str, int] = {}

    def create(self, volume_id: str, size_gib: int, snapshot_id: str | None) -> None:
        del snapshot_id
        self.sizes_gib[volume_id] = size_gib

    def attach(self, volume_id: str, instance_id: str, device: str) -> None:
        del device
        self.here.setdefault(instance_id, set()).add(volume_id)

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
    busy: set[str] = field(default_factory=set)
    released: set[VolumeId] = field(default_factory=set)
    is_frozen: bool = False
    freezes: int = 0
    on_freeze: Callable[[], None] = lambda: None

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        return {VolumeId(one): None for one in self.devices.here.get(self.instance_id, set())}

    async def release(self, volume_id: VolumeId) -> None:
        if volume_id in self.busy:
            raise AgentError(f"{volume_id} is in use by python3 (pid 4711).", reason=Reason.DEVICE_BUSY)

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
        self.hands = EmulatedHands(world.devices, str(identity.instance_id))
        self.policy = world.policy
        self.crash: Crash | None = None
        self.time_s = 1000.0
        noon = datetime.now(timezone.utc).replace(hour=12, minute=0, second=0, microsecond=0)
        self.now = noon + timedelta(days=10)
        """Well after everything was made, which moto dates by the machine's clock."""
        self.published: list[Findings] = []
        self.made: list[Call[Any]] = []
        self.restart()

    def restart(self) -> None:
        """Forget everything a process forgets when it dies."""
        self.crash = None
        self.loop = CloudLoop(
            self.make,
            self.identify,
            lambda: self.policy,
            self.hands,
            self.published.append,
            clock=lambda: self.time_s,
            now=lambda: self.now,
            rng=random.Random(1),  # noqa: S311 - jitter
        )

    async def identify(self) -> CloudIdentity:
        return self.identity

    async def make(self, call: Call[Any]) -> Any:
        """Make the call as the worker would, in a thread instead of a process, and die where asked to."""
        crash = self.crash
        is_change = hasattr(call, "describe")
        if crash is not None and is_change:
            crash.seen += 1
            if crash.seen == crash.at and not crash.is_after:
                raise CrashError
        self.made.append(call)
        try:
            answer = await anyio.to_thread.run_sync(self.world.caller.call, type(call), call.parameters())
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise explain_failure(describe_failure(type(call), error)) from error
        if crash is not None and is_change and crash.seen == crash.at and crash.is_after:
            raise CrashError
        return call.parse(json.loads(encode_reply(answer)))

    async def settle(self, looks: int = 12, *, step_s: float = 60) -> Findings:
        """Look until nothing is done any more and nothing waits; fail when that does not come."""
        for _ in range(looks):
            has_acted = await self.loop.look()
            if not has_acted and self.loop.is_settled:
                return self.loop.findings
            self.time_s += step_s
            await anyio.sleep(0.01)
        raise AssertionError(f"not settled after {looks} looks: {self.loop.findings.verdicts}")

    async def dies(self, looks: int = 60, *, step_s: float = 5) -> bool:
        """Look until the agent crashes as told; False when it never does."""
        for _ in range(looks):
            try:
                await self.loop.look()
            except BaseException as error:
                if not _is_crash(error):
                    raise
                return True
            self.time_s += step_s
        return False

    async def look(self, times: int = 1) -> Findings:
        for _ in range(times):
            await self.loop.look()
            self.time_s += 1
        return self.loop.findings


def _is_crash(error: BaseException) -> bool:
    """Return whether the agent died, in however many task groups."""
    inner = getattr(error, "exceptions", ())
    return isinstance(error, CrashError) or any(_is_crash(one) for one in inner)


class World:
    """One emulated cloud and the nodes in it."""

    def __init__(self, aws: AwsServer, caller: Caller) -> None:
        self.aws = aws
        self.cloud: Cloud = aws.cloud
        self.devices = FollowingDevices()
        self.cloud.hooks = self.devices
        self.policy = Policy(version=1, classes={})
        self.caller = caller

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
