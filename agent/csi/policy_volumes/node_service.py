"""The Node service for volumes of the policy: they are published, taken back and measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import NoReturn, TypeVar

from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream
from typing_extensions import override

from agent.csi.policy_volumes.calls import EntryName, EntryVolumes
from agent.csi.policy_volumes.parse_requests import parse_measure, parse_publish, parse_unpublish
from agent.csi.service.answering import Answering, Request, Response
from agent.csi.service.codes import Call, find_code
from agent.csi.service.join import Joining
from agent.csi.service.node import DOING, write_usage
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.wire import csi_pb2 as wire
from agent.csi.wire.csi_grpc import NodeBase

T = TypeVar("T")

_RPC = wire.NodeServiceCapability.RPC
CAPABILITIES = (_RPC.GET_VOLUME_STATS, _RPC.SINGLE_NODE_MULTI_WRITER)
"""Neither staging nor growing: both are the policy's."""


class PolicyNodeService(NodeBase):
    """Asks ``volumes`` for what kubelet asks.

    ``find_paths`` says what kubelet's directories are now, ``tell_progress`` how an entry's volume is, as a
    clause.
    """

    def __init__(
        self,
        volumes: EntryVolumes,
        tell_progress: Callable[[EntryName], str | None],
        find_paths: Callable[[], KubeletPaths],
        joining: Joining,
        answering: Answering,
    ) -> None:
        self._volumes = volumes
        self._tell_progress = tell_progress
        self._find_paths = find_paths
        self._joining = joining
        self._answering = answering

    @override
    async def NodePublishVolume(
        self, stream: Stream[wire.NodePublishVolumeRequest, wire.NodePublishVolumeResponse]
    ) -> None:
        async def publish(request: wire.NodePublishVolumeRequest) -> wire.NodePublishVolumeResponse:
            asked = parse_publish(request, self._find_paths())
            await self._join(Call.PUBLISH, asked.entry, asked, lambda: self._volumes.publish(asked))
            return wire.NodePublishVolumeResponse()

        await self._answer(stream, Call.PUBLISH, publish)

    @override
    async def NodeUnpublishVolume(
        self, stream: Stream[wire.NodeUnpublishVolumeRequest, wire.NodeUnpublishVolumeResponse]
    ) -> None:
        async def unpublish(request: wire.NodeUnpublishVolumeRequest) -> wire.NodeUnpublishVolumeResponse:
            entry, path = parse_unpublish(request, self._find_paths())
            await self._join(Call.UNPUBLISH, entry, path, lambda: self._volumes.unpublish(entry, path))
            return wire.NodeUnpublishVolumeResponse()

        await self._answer(stream, Call.UNPUBLISH, unpublish)

    @override
    async def NodeGetVolumeStats(
        self, stream: Stream[wire.NodeGetVolumeStatsRequest, wire.NodeGetVolumeStatsResponse]
    ) -> None:
        async def measure(request: wire.NodeGetVolumeStatsRequest) -> wire.NodeGetVolumeStatsResponse:
            entry, path = parse_measure(request, self._find_paths())
            usage = await self._join(Call.MEASURE, entry, path, lambda: self._volumes.measure(entry, path))
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
            # Neither a limit nor a topology: nothing is attached for it, and every node has its own.
            return wire.NodeGetInfoResponse(node_id=(await self._volumes.describe_node()).node_id)

        await self._answer(stream, Call.DESCRIBE, describe)

    @override
    async def NodeStageVolume(
        self, stream: Stream[wire.NodeStageVolumeRequest, wire.NodeStageVolumeResponse]
    ) -> None:
        await self._answering.answer(stream, Call.STAGE.value, _decline)

    @override
    async def NodeUnstageVolume(
        self, stream: Stream[wire.NodeUnstageVolumeRequest, wire.NodeUnstageVolumeResponse]
    ) -> None:
        await self._answering.answer(stream, Call.UNSTAGE.value, _decline)

    @override
    async def NodeExpandVolume(
        self, stream: Stream[wire.NodeExpandVolumeRequest, wire.NodeExpandVolumeResponse]
    ) -> None:
        await self._answering.answer(stream, Call.EXPAND.value, _decline)

    async def _answer(
        self,
        stream: Stream[Request, Response],
        call: Call,
        respond: Callable[[Request], Awaitable[Response]],
    ) -> None:
        choose_code = partial(find_code, call=call)
        is_deed = call in {Call.PUBLISH, Call.UNPUBLISH}
        await self._answering.answer(stream, call.value, respond, choose_code, is_deed=is_deed)

    async def _join(
        self, call: Call, entry: EntryName, asked: Hashable, begin: Callable[[], Awaitable[T]]
    ) -> T:
        def explain_delay() -> str:
            progress = self._tell_progress(entry)
            return f"{entry!r} is still {DOING[call]}{f': {progress}' if progress else ''}."

        return await self._joining.join((call, entry, asked), begin, explain_delay)


async def _decline(_: Message) -> NoReturn:
    raise GRPCError(
        Status.UNIMPLEMENTED, "Volumes of the policy are made ready and grown by the policy, and by no call."
    )
