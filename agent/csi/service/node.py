"""The Node service: each call read, asked of the volumes, and answered. Identical ones join."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import TypeVar

from grpclib.server import Stream
from typing_extensions import override

from agent.core.model import VolumeId
from agent.csi.calls import NodeVolumes, SpaceUsage
from agent.csi.service.answering import Answering, Request, Response
from agent.csi.service.codes import Call, find_code
from agent.csi.service.join import Joining
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.service.parse_requests import (
    parse_expand,
    parse_measure,
    parse_publish,
    parse_stage,
    parse_unpublish,
    parse_unstage,
)
from agent.csi.wire import csi_pb2 as wire
from agent.csi.wire.csi_grpc import NodeBase

T = TypeVar("T")

_RPC = wire.NodeServiceCapability.RPC
CAPABILITIES = (
    _RPC.STAGE_UNSTAGE_VOLUME,
    _RPC.EXPAND_VOLUME,
    _RPC.GET_VOLUME_STATS,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)

DOING = {
    Call.STAGE: "being made ready",
    Call.UNSTAGE: "being taken away",
    Call.PUBLISH: "being published",
    Call.UNPUBLISH: "being unpublished",
    Call.EXPAND: "growing",
    Call.MEASURE: "being measured",
}
"""Completes "vol-… is still …"."""


def tell_nothing(_: VolumeId) -> str | None:
    """For whoever does not know how far anything is."""
    return None


class NodeService(NodeBase):
    """Asks ``volumes`` for what kubelet asks.

    ``find_paths`` says what kubelet's directories are now, ``tell_progress`` how far a volume is: a clause.
    """

    def __init__(
        self,
        volumes: NodeVolumes,
        find_paths: Callable[[], KubeletPaths],
        joining: Joining,
        answering: Answering,
        tell_progress: Callable[[VolumeId], str | None] = tell_nothing,
    ) -> None:
        self._volumes = volumes
        self._find_paths = find_paths
        self._joining = joining
        self._answering = answering
        self._tell_progress = tell_progress

    @override
    async def NodeStageVolume(
        self, stream: Stream[wire.NodeStageVolumeRequest, wire.NodeStageVolumeResponse]
    ) -> None:
        async def stage(request: wire.NodeStageVolumeRequest) -> wire.NodeStageVolumeResponse:
            asked = parse_stage(request, self._find_paths())
            await self._join(Call.STAGE, asked.volume_id, asked, lambda: self._volumes.stage(asked))
            return wire.NodeStageVolumeResponse()

        await self._answer(stream, Call.STAGE, stage)

    @override
    async def NodeUnstageVolume(
        self, stream: Stream[wire.NodeUnstageVolumeRequest, wire.NodeUnstageVolumeResponse]
    ) -> None:
        async def unstage(request: wire.NodeUnstageVolumeRequest) -> wire.NodeUnstageVolumeResponse:
            volume, path = parse_unstage(request, self._find_paths())
            await self._join(Call.UNSTAGE, volume, path, lambda: self._volumes.unstage(volume, path))
            return wire.NodeUnstageVolumeResponse()

        await self._answer(stream, Call.UNSTAGE, unstage)

    @override
    async def NodePublishVolume(
        self, stream: Stream[wire.NodePublishVolumeRequest, wire.NodePublishVolumeResponse]
    ) -> None:
        async def publish(request: wire.NodePublishVolumeRequest) -> wire.NodePublishVolumeResponse:
            asked = parse_publish(request, self._find_paths())
            await self._join(Call.PUBLISH, asked.volume_id, asked, lambda: self._volumes.publish(asked))
            return wire.NodePublishVolumeResponse()

        await self._answer(stream, Call.PUBLISH, publish)

    @override
    async def NodeUnpublishVolume(
        self, stream: Stream[wire.NodeUnpublishVolumeRequest, wire.NodeUnpublishVolumeResponse]
    ) -> None:
        async def unpublish(request: wire.NodeUnpublishVolumeRequest) -> wire.NodeUnpublishVolumeResponse:
            volume, path = parse_unpublish(request, self._find_paths())
            await self._join(Call.UNPUBLISH, volume, path, lambda: self._volumes.unpublish(volume, path))
            return wire.NodeUnpublishVolumeResponse()

        await self._answer(stream, Call.UNPUBLISH, unpublish)

    @override
    async def NodeExpandVolume(
        self, stream: Stream[wire.NodeExpandVolumeRequest, wire.NodeExpandVolumeResponse]
    ) -> None:
        async def expand(request: wire.NodeExpandVolumeRequest) -> wire.NodeExpandVolumeResponse:
            asked = parse_expand(request, self._find_paths())
            size_bytes = await self._join(
                Call.EXPAND, asked.volume_id, asked, lambda: self._volumes.expand(asked)
            )
            return wire.NodeExpandVolumeResponse(capacity_bytes=size_bytes)

        await self._answer(stream, Call.EXPAND, expand)

    @override
    async def NodeGetVolumeStats(
        self, stream: Stream[wire.NodeGetVolumeStatsRequest, wire.NodeGetVolumeStatsResponse]
    ) -> None:
        async def measure(request: wire.NodeGetVolumeStatsRequest) -> wire.NodeGetVolumeStatsResponse:
            volume, path = parse_measure(request, self._find_paths())
            usage = await self._join(Call.MEASURE, volume, path, lambda: self._volumes.measure(volume, path))
            return wire.NodeGetVolumeStatsResponse(usage=write_usage(usage))

        await self._answer(stream, Call.MEASURE, measure)

    @override
    async def NodeGetCapabilities(
        self, stream: Stream[wire.NodeGetCapabilitiesRequest, wire.NodeGetCapabilitiesResponse]
    ) -> None:
        async def list_all(_: wire.NodeGetCapabilitiesRequest) -> wire.NodeGetCapabilitiesResponse:
            listed = [wire.NodeServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES]
            return wire.NodeGetCapabilitiesResponse(capabilities=listed)

        await self._answering.answer(stream, "NodeGetCapabilities", list_all)

    @override
    async def NodeGetInfo(self, stream: Stream[wire.NodeGetInfoRequest, wire.NodeGetInfoResponse]) -> None:
        async def describe(_: wire.NodeGetInfoRequest) -> wire.NodeGetInfoResponse:
            info = await self._volumes.describe_node()
            return wire.NodeGetInfoResponse(
                node_id=info.node_id,
                max_volumes_per_node=info.max_volumes or 0,
                # Empty where the zone is not known, since by its capabilities the plugin has a topology.
                accessible_topology=wire.Topology(segments=info.topology),
            )

        await self._answer(stream, Call.DESCRIBE, describe)

    async def _answer(
        self,
        stream: Stream[Request, Response],
        call: Call,
        respond: Callable[[Request], Awaitable[Response]],
    ) -> None:
        choose_code = partial(find_code, call=call)
        is_deed = call is not Call.MEASURE
        await self._answering.answer(stream, call.value, respond, choose_code, is_deed=is_deed)

    async def _join(
        self, call: Call, volume: VolumeId, asked: Hashable, begin: Callable[[], Awaitable[T]]
    ) -> T:
        def explain_delay() -> str:
            progress = self._tell_progress(volume)
            return f"{volume} is still {DOING[call]}{f': {progress}' if progress else ''}."

        return await self._joining.join((call, volume, asked), begin, explain_delay)


def write_usage(usage: SpaceUsage) -> list[wire.VolumeUsage]:
    """Return it as the interface has it: a device has a size and nothing else."""
    unit = wire.VolumeUsage
    said = [
        unit(
            unit=unit.BYTES,
            total=usage.total_bytes,
            used=usage.used_bytes or 0,
            available=usage.available_bytes or 0,
        )
    ]
    if usage.total_inodes is not None:
        said.append(
            unit(
                unit=unit.INODES,
                total=usage.total_inodes,
                used=usage.used_inodes or 0,
                available=usage.available_inodes or 0,
            )
        )
    return said
