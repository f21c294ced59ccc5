"""A cloud of some volumes and nodes in memory, whose every call is a point where something may happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import (
    AttachClusterNodeVolume,
    AttachVolume,
    DescribeVolumes,
    DetachClusterNodeVolume,
    DetachVolume,
    GetCallerIdentity,
)
from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.cloud.errors.explain import Failure, explain_failure
from agent.controller.calls import NodeId
from agent.controller.patience import Patience
from agent.core.model import AwsChecks, Initialization, VolumeId
from agent.core.replace import replace

T = TypeVar("T")

VOLUME = VolumeId("vol-0123456789abcdef0")
CLUSTER = "abcde01234yz"
ARN = f"arn:aws-us-gov:sagemaker:us-gov-west-1:123456789012:cluster/{CLUSTER}"
NODE = NodeId("i-0123456789abcdef0")
OTHER = NodeId("i-0123456789abcdef1")
HYPERPOD = NodeId("i-0123456789abcdef2", CLUSTER)


class KilledError(BaseException):
    """The controller dies here."""


@dataclass
class Held:
    """One attachment, and when it began and ends."""

    node: NodeId
    device: str | None
    began_s: float
    ends_s: float = float("inf")
    is_busy: bool = False


@dataclass
class StandIn:
    """Volumes and their attachments, in time that passes only where somebody waits."""

    time_s: float = 0.0
    attach_s: float = 3.0
    detach_s: float = 3.0
    lag_s: float = 0.0
    """What is described is how things were so long ago."""
    held: dict[VolumeId, list[Held]] = field(default_factory=dict)
    kept: dict[VolumeId, CloudVolume] = field(default_factory=dict)
    gone_nodes: set[NodeId] = field(default_factory=set)
    refusals: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """(code, message) with which the next calls of an operation fail."""
    lost: set[int] = field(default_factory=set)
    """Which calls are done, and not answered, by their number among all that change something."""
    kill: tuple[int, bool] | None = None
    """(number, whether after AWS did it) of the call at which the controller dies."""
    made: list[Call[Any]] = field(default_factory=list)
    """Calls that change something."""
    looks: int = 0
    on_sleep: Callable[[], None] = lambda: None
    """Is called whenever somebody waits."""
    checks: dict[VolumeId, Initialization | None] = field(default_factory=dict)
    """How far copies are, of which AWS has something to say."""
    questions: int = 0
    """How often it was asked for the names on instances."""

    def add(self, volume_id: VolumeId = VOLUME, **facts: Any) -> VolumeId:
        known = CloudVolume(volume_id, "available", 1, "gp3", "us-west-2a", created_at="2026-01-01")
        self.kept[volume_id] = replace(known, **facts)
        self.held[volume_id] = []
        return volume_id

    def hold(self, node: NodeId, volume_id: VolumeId = VOLUME, device: str | None = "/dev/sdf") -> Held:
        """Have a node have a volume since ever."""
        one = Held(node, device, self.time_s - 1000)
        self.held[volume_id].append(one)
        return one

    def patience(self) -> Patience:
        return Patience(lambda: self.time_s, self._sleep)

    async def _sleep(self, pause_s: float) -> None:
        self.on_sleep()
        self.time_s += pause_s
        await asyncio.sleep(0)

    # -- Looking ------------------------------------------------------------------------------------------

    async def find(self, volume_id: VolumeId) -> CloudVolume | None:
        await asyncio.sleep(0)
        self.looks += 1
        return self.describe(volume_id, self.time_s - self.lag_s)

    async def find_checks(self, volume_id: VolumeId) -> AwsChecks | None:
        await asyncio.sleep(0)
        self.looks += 1
        return AwsChecks("ok", initialization=self.checks[volume_id]) if volume_id in self.checks else None

    def describe(self, volume_id: VolumeId, at_s: float | None = None) -> CloudVolume | None:
        """Return the volume as it was at ``at_s``; None: as it is."""
        volume = self.kept.get(volume_id)
        if volume is None:
            return None
        at_s = self.time_s if at_s is None else at_s
        shown = tuple(
            self._show(one, at_s) for one in self.held[volume_id] if one.began_s <= at_s < one.ends_s
        )
        return replace(volume, attachments=shown, state="in-use" if shown else volume.state)

    def _show(self, one: Held, at_s: float) -> CloudAttachment:
        state = "attached" if at_s >= one.began_s + self.attach_s else "attaching"
        if one.ends_s < float("inf") and at_s >= one.ends_s - self.detach_s:
            state = "detaching"
        resource = None
        if one.node.cluster_id is not None:
            resource = f"arn:aws:sagemaker:us-west-2:123456789012:cluster/{one.node.cluster_id}-"
            resource += one.node.instance_id
        since = f"{one.began_s:.3f}"
        if one.is_busy:
            state = "busy"
        return CloudAttachment(state, one.node.instance_id, one.device, since, resource)

    # -- Calls --------------------------------------------------------------------------------------------

    async def make(self, call: Call[T], /, *, within: Within = nullcontext) -> T:
        async with within():
            await asyncio.sleep(0)
            return cast("T", self._serve(call))

    def _serve(self, call: Call[Any]) -> Any:
        if isinstance(call, GetCallerIdentity):
            return "123456789012", "arn:aws-us-gov:sts::123456789012:assumed-role/r/s"
        if isinstance(call, DescribeVolumes):
            self.questions += 1
            found = (self.describe(one, self.time_s - self.lag_s) for one in self.kept)
            return tuple(one for one in found if one is not None)
        number = len(self.made)
        self.made.append(call)
        if self.kill == (number, False):
            raise KilledError
        try:
            answer = self._change(call)
        finally:
            if self.kill == (number, True):
                raise KilledError
        if number in self.lost:
            raise self._fail(call, "ReadTimeoutError", "no answer")
        return answer

    def _change(self, call: Call[Any]) -> str:
        failures = self.refusals.get(call.operation)
        if failures:
            raise self._fail(call, *failures.pop(0))
        if isinstance(call, AttachClusterNodeVolume):
            assert call.cluster_arn == ARN
            self._attach(call, call.volume_id, NodeId(call.instance_id, CLUSTER), None)
            return "attaching"
        if isinstance(call, AttachVolume):
            self._attach(call, call.volume_id, NodeId(call.instance_id), call.device)
            return "attaching"
        if isinstance(call, DetachClusterNodeVolume):
            assert call.cluster_arn == ARN
            self._detach(call, call.volume_id, NodeId(call.instance_id, CLUSTER))
            return "detaching"
        assert isinstance(call, DetachVolume)
        self._detach(call, call.volume_id, NodeId(call.instance_id))
        return "detaching"

    def _attach(self, call: Call[Any], volume_id: VolumeId, node: NodeId, device: str | None) -> None:
        if node in self.gone_nodes:
            code = "InvalidInstanceID.NotFound" if node.cluster_id is None else "ResourceNotFound"
            raise self._fail(call, code, f"{node} is not there")
        volume = self.describe(volume_id)
        if volume is None:
            raise self._fail(call, "InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        if volume.attachments and not volume.is_multi_attach:
            raise self._fail(call, "VolumeInUse", f"{volume_id} is already attached to an instance")
        if device is not None and device in self.list_names(node):
            raise self._fail(call, "InvalidParameterValue", f"Attachment point {device} is already in use")
        self.held[volume_id].append(Held(node, device, self.time_s))

    def list_names(self, node: NodeId) -> list[str]:
        """Return the block device names that are in use on a node, each as often as it is."""
        held = (one for many in self.held.values() for one in many)
        return [str(one.device) for one in held if one.node == node and self.time_s < one.ends_s]

    def _detach(self, call: Call[Any], volume_id: VolumeId, node: NodeId) -> None:
        if volume_id not in self.kept:
            raise self._fail(call, "InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        held = [one for one in self.held[volume_id] if one.node == node and self.time_s < one.ends_s]
        if not held:
            raise self._fail(call, "IncorrectState", f"Volume '{volume_id}' is in the 'available' state.")
        if not held[0].is_busy:
            held[0].ends_s = min(held[0].ends_s, self.time_s + self.detach_s)

    @staticmethod
    def _fail(call: Call[Any], code: str, message: str) -> Exception:
        return explain_failure(Failure(call.service, call.operation, code, message))


async def run_until(is_due: Callable[[], bool], turns: int = 10_000) -> None:
    """Let others run until something is so."""
    for _ in range(turns):
        if is_due():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became so")
