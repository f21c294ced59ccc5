"""The Controller service: each call read, asked of the volumes, and answered. Identical ones join."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import TypeVar

from grpclib.server import Stream
from typing_extensions import override

from agent.cloud.aws.models import Tags
from agent.controller.calls import Snapshots, Volumes
from agent.controller.node_ids import parse_node_id
from agent.controller.service.codes import Call, find_code
from agent.controller.service.parse_calls import (
    parse_attach,
    parse_create,
    parse_expand,
    parse_modify,
    parse_query,
    parse_snapshot,
    parse_validate,
)
from agent.controller.service.parse_use import (
    find_snapshot_id,
    find_volume_id,
    parse_page,
    parse_volume,
    require,
)
from agent.controller.service.write_answers import write_entry, write_made, write_snapshot
from agent.core.quoting import quote
from agent.core.replace import replace
from agent.csi.service.answering import Answering, Request, Response
from agent.csi.service.join import Joining
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.controller_grpc import ControllerBase

T = TypeVar("T")

LIMIT_S = 50.0
"""The sidecars wait a minute (``--timeout=60s``), and learn nothing from a call that they gave up."""

_RPC = wire.ControllerServiceCapability.RPC
CAPABILITIES = (
    _RPC.CREATE_DELETE_VOLUME,
    _RPC.PUBLISH_UNPUBLISH_VOLUME,
    _RPC.LIST_VOLUMES,
    _RPC.LIST_VOLUMES_PUBLISHED_NODES,
    _RPC.GET_VOLUME,
    _RPC.CREATE_DELETE_SNAPSHOT,
    _RPC.LIST_SNAPSHOTS,
    _RPC.CLONE_VOLUME,
    _RPC.EXPAND_VOLUME,
    _RPC.MODIFY_VOLUME,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)

_DOING = {
    Call.CREATE: "being made",
    Call.DELETE: "being deleted",
    Call.ATTACH: "being attached",
    Call.DETACH: "being detached",
    Call.EXPAND: "growing",
    Call.MODIFY: "being modified",
    Call.TAKE: "being taken",
    Call.DELETE_SNAPSHOT: "being deleted",
}
"""Completes "… is still …"."""


class ControllerService(ControllerBase):
    """Asks ``volumes`` and ``snapshots`` for what the sidecars ask.

    ``extra_tags`` is given to all that is made; what a class says of the same key wins.
    """

    def __init__(
        self,
        volumes: Volumes,
        snapshots: Snapshots,
        joining: Joining,
        answering: Answering,
        extra_tags: Tags = (),
    ) -> None:
        self._volumes = volumes
        self._snapshots = snapshots
        self._joining = joining
        self._answering = answering
        self._extra_tags = extra_tags

    @override
    async def CreateVolume(self, stream: Stream[wire.CreateVolumeRequest, wire.CreateVolumeResponse]) -> None:
        async def create(request: wire.CreateVolumeRequest) -> wire.CreateVolumeResponse:
            call = parse_create(request)
            call = replace(call, tags=self._add_tags(call.tags))
            begin = partial(self._volumes.create, call)
            made = await self._join(Call.CREATE, f"The volume {quote(call.name)}", call, begin)
            return wire.CreateVolumeResponse(volume=write_made(made))

        await self._answer(stream, Call.CREATE, create)

    @override
    async def DeleteVolume(self, stream: Stream[wire.DeleteVolumeRequest, wire.DeleteVolumeResponse]) -> None:
        async def delete(request: wire.DeleteVolumeRequest) -> wire.DeleteVolumeResponse:
            volume_id = find_volume_id(request.volume_id)
            if volume_id is not None:  # what cannot be is as good as deleted
                begin = partial(self._volumes.delete, volume_id)
                await self._join(Call.DELETE, volume_id, volume_id, begin)
            return wire.DeleteVolumeResponse()

        await self._answer(stream, Call.DELETE, delete)

    @override
    async def ControllerPublishVolume(
        self, stream: Stream[wire.ControllerPublishVolumeRequest, wire.ControllerPublishVolumeResponse]
    ) -> None:
        async def attach(
            request: wire.ControllerPublishVolumeRequest,
        ) -> wire.ControllerPublishVolumeResponse:
            call = parse_attach(request)
            begin = partial(self._volumes.attach, call)
            context = await self._join(Call.ATTACH, call.volume_id, call, begin)
            return wire.ControllerPublishVolumeResponse(publish_context=dict(context))

        await self._answer(stream, Call.ATTACH, attach)

    @override
    async def ControllerUnpublishVolume(
        self, stream: Stream[wire.ControllerUnpublishVolumeRequest, wire.ControllerUnpublishVolumeResponse]
    ) -> None:
        async def detach(
            request: wire.ControllerUnpublishVolumeRequest,
        ) -> wire.ControllerUnpublishVolumeResponse:
            volume_id = find_volume_id(request.volume_id)
            node = parse_node_id(request.node_id) if request.node_id else None
            if volume_id is not None:
                begin = partial(self._volumes.detach, volume_id, node)
                await self._join(Call.DETACH, volume_id, (volume_id, node), begin)
            return wire.ControllerUnpublishVolumeResponse()

        await self._answer(stream, Call.DETACH, detach)

    @override
    async def ControllerExpandVolume(
        self, stream: Stream[wire.ControllerExpandVolumeRequest, wire.ControllerExpandVolumeResponse]
    ) -> None:
        async def expand(request: wire.ControllerExpandVolumeRequest) -> wire.ControllerExpandVolumeResponse:
            call = parse_expand(request)
            size = await self._join(Call.EXPAND, call.volume_id, call, partial(self._volumes.expand, call))
            return wire.ControllerExpandVolumeResponse(
                capacity_bytes=size, node_expansion_required=not call.is_block
            )

        await self._answer(stream, Call.EXPAND, expand)

    @override
    async def ControllerModifyVolume(
        self, stream: Stream[wire.ControllerModifyVolumeRequest, wire.ControllerModifyVolumeResponse]
    ) -> None:
        async def modify(request: wire.ControllerModifyVolumeRequest) -> wire.ControllerModifyVolumeResponse:
            call = parse_modify(request)
            await self._join(Call.MODIFY, call.volume_id, call, partial(self._volumes.modify, call))
            return wire.ControllerModifyVolumeResponse()

        await self._answer(stream, Call.MODIFY, modify)

    @override
    async def ValidateVolumeCapabilities(
        self, stream: Stream[wire.ValidateVolumeCapabilitiesRequest, wire.ValidateVolumeCapabilitiesResponse]
    ) -> None:
        async def validate(
            request: wire.ValidateVolumeCapabilitiesRequest,
        ) -> wire.ValidateVolumeCapabilitiesResponse:
            answer = wire.ValidateVolumeCapabilitiesResponse
            why = await self._volumes.explain_misuse(parse_validate(request))
            if why is not None:
                return answer(message=why)
            return answer(
                confirmed=answer.Confirmed(
                    volume_context=request.volume_context,
                    volume_capabilities=request.volume_capabilities,
                    parameters=request.parameters,
                    mutable_parameters=request.mutable_parameters,
                )
            )

        await self._ask(stream, "ValidateVolumeCapabilities", validate)

    @override
    async def ListVolumes(self, stream: Stream[wire.ListVolumesRequest, wire.ListVolumesResponse]) -> None:
        async def list_all(request: wire.ListVolumesRequest) -> wire.ListVolumesResponse:
            most = parse_page(request.max_entries)
            page = await self._volumes.list_volumes(most, request.starting_token or None)
            return wire.ListVolumesResponse(
                entries=[write_entry(entry) for entry in page.entries], next_token=page.next_token or ""
            )

        await self._ask(stream, "ListVolumes", list_all)

    @override
    async def ControllerGetVolume(
        self, stream: Stream[wire.ControllerGetVolumeRequest, wire.ControllerGetVolumeResponse]
    ) -> None:
        async def find(request: wire.ControllerGetVolumeRequest) -> wire.ControllerGetVolumeResponse:
            entry = write_entry(await self._volumes.find(parse_volume(request.volume_id)))
            nodes = entry.status.published_node_ids
            return wire.ControllerGetVolumeResponse(
                volume=entry.volume,
                status=wire.ControllerGetVolumeResponse.VolumeStatus(published_node_ids=nodes),
            )

        await self._ask(stream, "ControllerGetVolume", find)

    @override
    async def ControllerGetCapabilities(
        self, stream: Stream[wire.ControllerGetCapabilitiesRequest, wire.ControllerGetCapabilitiesResponse]
    ) -> None:
        async def list_all(
            _: wire.ControllerGetCapabilitiesRequest,
        ) -> wire.ControllerGetCapabilitiesResponse:
            return wire.ControllerGetCapabilitiesResponse(
                capabilities=[wire.ControllerServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES]
            )

        await self._ask(stream, "ControllerGetCapabilities", list_all)

    @override
    async def CreateSnapshot(
        self, stream: Stream[wire.CreateSnapshotRequest, wire.CreateSnapshotResponse]
    ) -> None:
        async def take(request: wire.CreateSnapshotRequest) -> wire.CreateSnapshotResponse:
            call = parse_snapshot(request)
            call = replace(call, tags=self._add_tags(call.tags))
            begin = partial(self._snapshots.take, call)
            taken = await self._join(Call.TAKE, f"The snapshot {quote(call.name)}", call, begin)
            return wire.CreateSnapshotResponse(snapshot=write_snapshot(taken))

        await self._answer(stream, Call.TAKE, take)

    @override
    async def DeleteSnapshot(
        self, stream: Stream[wire.DeleteSnapshotRequest, wire.DeleteSnapshotResponse]
    ) -> None:
        async def delete(request: wire.DeleteSnapshotRequest) -> wire.DeleteSnapshotResponse:
            snapshot_id = find_snapshot_id(require("snapshot_id", request.snapshot_id))
            if snapshot_id is not None:
                begin = partial(self._snapshots.delete, snapshot_id)
                await self._join(Call.DELETE_SNAPSHOT, snapshot_id, snapshot_id, begin)
            return wire.DeleteSnapshotResponse()

        await self._answer(stream, Call.DELETE_SNAPSHOT, delete)

    @override
    async def ListSnapshots(
        self, stream: Stream[wire.ListSnapshotsRequest, wire.ListSnapshotsResponse]
    ) -> None:
        async def list_all(request: wire.ListSnapshotsRequest) -> wire.ListSnapshotsResponse:
            most, token = parse_page(request.max_entries), request.starting_token or None
            page = await self._snapshots.list_snapshots(parse_query(request), most, token)
            entry = wire.ListSnapshotsResponse.Entry
            return wire.ListSnapshotsResponse(
                entries=[entry(snapshot=write_snapshot(one)) for one in page.entries],
                next_token=page.next_token or "",
            )

        await self._ask(stream, "ListSnapshots", list_all)

    def _add_tags(self, tags: Tags) -> Tags:
        return tuple(sorted({**dict(self._extra_tags), **dict(tags)}.items()))

    async def _answer(
        self,
        stream: Stream[Request, Response],
        call: Call,
        respond: Callable[[Request], Awaitable[Response]],
    ) -> None:
        choose_code = partial(find_code, call=call)
        await self._answering.answer(stream, call.value, respond, choose_code, is_deed=True)

    async def _ask(
        self,
        stream: Stream[Request, Response],
        method: str,
        respond: Callable[[Request], Awaitable[Response]],
    ) -> None:
        await self._answering.answer(stream, method, respond, find_code)

    async def _join(self, call: Call, what: str, asked: Hashable, begin: Callable[[], Awaitable[T]]) -> T:
        return await self._joining.join((call, asked), begin, lambda: f"{what} is still {_DOING[call]}.")
