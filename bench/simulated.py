"""An AWS in memory for many nodes: volumes, client tokens, attachments, tags and a cluster's nodes.

It answers the calls of the cloud half as EC2 and HyperPod do, refusals and late descriptions included, and is
fast enough for thousands of nodes. ``tests/aws`` is the faithful one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agent.cloud.aws.call import Call
from agent.cloud.aws.calls import (
    AttachClusterNodeVolume,
    CreateTags,
    DescribeClusterNode,
    DescribeVolumes,
    DetachClusterNodeVolume,
    GetCallerIdentity,
    ListClusterNodes,
)
from agent.cloud.aws.making_calls import CreateVolume
from agent.cloud.aws.models import CloudAttachment, CloudVolume, ClusterNode
from agent.cloud.aws.request_syntax import Pattern
from agent.cloud.aws.volume_status import CheckedVolume, DescribeVolumeStatus
from agent.cloud.errors.explain import Failure, explain_failure
from agent.core.model import AwsChecks, VolumeId
from agent.core.replace import replace

ACCOUNT = "111122223333"
NODES_PER_PAGE = 100
VOLUME_BYTES = 990
STATUS_BYTES = 800
NODE_BYTES = 330
"""About what one takes in an answer; as measured with answers of the shapes botocore's models have."""
INDEXED = ("ebs-agent:node", "ebs-agent:group", "CSIVolumeName")

History = list[tuple[float, CloudVolume | None]]


@dataclass
class SimulatedAws:
    """One account with one cluster."""

    clock: Callable[[], float]
    lag_s: float = 0.0
    """What is described of volumes is how they were so long ago."""
    on_attach: Callable[[str, VolumeId], None] = lambda _instance, _volume: None
    volumes: dict[VolumeId, CloudVolume] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    """Instance IDs of those that live."""
    made: list[VolumeId] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    answered_bytes: int = 0
    _tokens: dict[str, VolumeId] = field(default_factory=dict)
    _history: dict[VolumeId, History] = field(default_factory=dict)
    _by_tag: dict[tuple[str, str], set[VolumeId]] = field(default_factory=dict)

    def put(self, volume: CloudVolume, since_s: float | None = None) -> None:
        """Have the volume be so from now on, or as long as it has been."""
        self.volumes[volume.volume_id] = volume
        if self.lag_s:
            at_s = self.clock() if since_s is None else since_s
            self._history.setdefault(volume.volume_id, []).append((at_s, volume))
        for key in INDEXED:
            self._by_tag.setdefault((key, volume.tag(key) or ""), set()).add(volume.volume_id)

    def answer(self, call: Call[Any]) -> Any:
        """Do what was asked, and answer; raise CloudError as AWS refuses."""
        self.served[call.operation] += self._count_pages(call)
        answers: dict[type[Call[Any]], Callable[[Any], Any]] = {
            DescribeVolumes: self._describe,
            DescribeVolumeStatus: self._describe_status,
            CreateVolume: self._create,
            CreateTags: self._tag,
            AttachClusterNodeVolume: self._attach,
            DetachClusterNodeVolume: self._detach,
            GetCallerIdentity: lambda _call: (ACCOUNT, f"arn:aws:sts::{ACCOUNT}:assumed-role/controller/0"),
            ListClusterNodes: self._list_nodes,
            DescribeClusterNode: self._describe_node,
        }
        return answers[type(call)](call)

    def _count_pages(self, call: Call[Any]) -> int:
        return (
            max(1, math.ceil(len(self.nodes) / NODES_PER_PAGE)) if isinstance(call, ListClusterNodes) else 1
        )

    # -- Asking ------------------------------------------------------------------------------------------

    def _describe(self, call: DescribeVolumes) -> tuple[CloudVolume, ...]:
        wanted = {name: set(values) for name, values in call.filters}
        shown = (self._show(volume_id) for volume_id in self._preselect(wanted))
        found = tuple(volume for volume in shown if volume is not None and _is_meant(volume, wanted))
        self.answered_bytes += len(found) * VOLUME_BYTES
        return found

    def _describe_status(self, call: DescribeVolumeStatus) -> tuple[CheckedVolume, ...]:
        self.answered_bytes += len(call.volume_ids) * STATUS_BYTES
        return tuple(CheckedVolume(one, AwsChecks("ok")) for one in call.volume_ids)

    def _preselect(self, wanted: dict[str, set[str]]) -> Iterable[VolumeId]:
        if "volume-id" in wanted:
            return [VolumeId(one) for one in wanted["volume-id"]]
        for key in INDEXED:
            if f"tag:{key}" in wanted and not any(isinstance(one, Pattern) for one in wanted[f"tag:{key}"]):
                pairs = [(key, value) for value in wanted[f"tag:{key}"]]
                return [one for pair in pairs for one in self._by_tag.get(pair, ())]
        return list(self.volumes)

    def _show(self, volume_id: VolumeId) -> CloudVolume | None:
        if not self.lag_s:
            return self.volumes.get(volume_id)
        until_s = self.clock() - self.lag_s
        earlier = [volume for at_s, volume in self._history.get(volume_id, ()) if at_s <= until_s]
        return earlier[-1] if earlier else None

    def _list_nodes(self, _call: ListClusterNodes) -> tuple[ClusterNode, ...]:
        self.answered_bytes += len(self.nodes) * NODE_BYTES
        return tuple(ClusterNode(one, "compute", "Running") for one in self.nodes)

    def _describe_node(self, call: DescribeClusterNode) -> ClusterNode:
        if call.instance_id not in self.nodes:
            raise _fail(call, "ResourceNotFound", f"Node {call.instance_id} not found.")
        return ClusterNode(call.instance_id, "compute", "Running")

    # -- Changing ----------------------------------------------------------------------------------------

    def _create(self, call: CreateVolume) -> CloudVolume:
        known = self._tokens.get(call.client_token)
        if known is not None:
            return replace(self.volumes[known], tags=())
        volume_id = VolumeId(f"vol-{0xA0000000000000000 + len(self.made):017x}")
        self._tokens[call.client_token] = volume_id
        self.made.append(volume_id)
        volume = CloudVolume(
            volume_id,
            "available",
            call.size_gib or 1,
            call.type,
            call.zone,
            iops=call.iops,
            throughput=call.throughput,
            tags=call.tags,
            created_at=f"{self.clock():012.3f}",
        )
        self.put(volume)
        return volume

    def _tag(self, call: CreateTags) -> None:
        volume = self.volumes[VolumeId(call.resource_id)]
        self.put(replace(volume, tags=tuple(sorted({**dict(volume.tags), **dict(call.tags)}.items()))))

    def _attach(self, call: AttachClusterNodeVolume) -> str:
        volume = self.volumes[call.volume_id]
        if volume.state != "available":
            words = f"HyperPod - Ec2ErrCode: IncorrectState - {call.volume_id} is not 'available'."
            raise _fail(call, "ValidationException", words)
        attachment = CloudAttachment("attached", call.instance_id, attached_at="2026-11-01T12:00:00+00:00")
        self.put(replace(volume, state="in-use", attachments=(attachment,)))
        self.on_attach(call.instance_id, call.volume_id)
        return "attaching"

    def _detach(self, call: DetachClusterNodeVolume) -> str:
        volume = self.volumes[call.volume_id]
        if volume.attachment_to(call.instance_id) is None:
            words = f"HyperPod - Ec2ErrCode: InvalidAttachment.NotFound - {call.volume_id} is not attached."
            raise _fail(call, "ValidationException", words)
        self.put(replace(volume, state="available", attachments=()))
        return "detaching"


def _is_meant(volume: CloudVolume, wanted: dict[str, set[str]]) -> bool:
    told = {"volume-id": volume.volume_id, "availability-zone": volume.zone, "status": volume.state}
    return all(
        _is_one_of(told.get(name) or volume.tag(name.removeprefix("tag:")), wanted[name]) for name in wanted
    )


def _is_one_of(text: str | None, values: set[str]) -> bool:
    """Tell whether a filter's values mean a text; of patterns only those are known that say how it ends."""
    ends = tuple(value[1:] for value in values if isinstance(value, Pattern))
    return text in values or (text is not None and bool(ends) and text.endswith(ends))


def _fail(call: Call[Any], code: str, message: str) -> Exception:
    return explain_failure(Failure(call.service, call.operation, code, message))
