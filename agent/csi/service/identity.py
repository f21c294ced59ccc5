"""The Identity service: who the plugin is, what it can do, and whether it is ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google.protobuf.wrappers_pb2 import BoolValue
from grpclib.server import Stream
from msgspec import Struct, field
from typing_extensions import override

from agent.csi.service.answering import Answering
from agent.csi.wire import csi_pb2 as wire
from agent.csi.wire.csi_grpc import IdentityBase


class Plugin(Struct, frozen=True):
    """What the agent is to Kubernetes."""

    driver: str
    """Its name: ``spec.csi.driver`` of every PersistentVolume it serves."""
    version: str
    manifest: Mapping[str, str] = field(default_factory=dict)
    has_controller: bool = False
    """It makes and attaches volumes, at this very socket."""
    has_own_volumes: bool = False
    """Its volumes are the node's own: they are in no place that the scheduler chooses by, and no call grows
    them."""


class IdentityService(IdentityBase):
    """Answers as ``plugin``, which is ready when ``is_ready`` says so."""

    def __init__(self, plugin: Plugin, answering: Answering, is_ready: Callable[[], bool]) -> None:
        self._plugin = plugin
        self._answering = answering
        self._is_ready = is_ready

    @override
    async def GetPluginInfo(
        self, stream: Stream[wire.GetPluginInfoRequest, wire.GetPluginInfoResponse]
    ) -> None:
        await self._answering.answer(stream, "GetPluginInfo", self._describe)

    @override
    async def GetPluginCapabilities(
        self, stream: Stream[wire.GetPluginCapabilitiesRequest, wire.GetPluginCapabilitiesResponse]
    ) -> None:
        await self._answering.answer(stream, "GetPluginCapabilities", self._list_capabilities)

    @override
    async def Probe(self, stream: Stream[wire.ProbeRequest, wire.ProbeResponse]) -> None:
        await self._answering.answer(stream, "Probe", self._probe)

    async def _describe(self, _: wire.GetPluginInfoRequest) -> wire.GetPluginInfoResponse:
        plugin = self._plugin
        return wire.GetPluginInfoResponse(
            name=plugin.driver, vendor_version=plugin.version, manifest=plugin.manifest
        )

    async def _list_capabilities(
        self, _: wire.GetPluginCapabilitiesRequest
    ) -> wire.GetPluginCapabilitiesResponse:
        if self._plugin.has_own_volumes:
            return wire.GetPluginCapabilitiesResponse()
        kind, growth = wire.PluginCapability.Service, wire.PluginCapability.VolumeExpansion
        services = [kind.VOLUME_ACCESSIBILITY_CONSTRAINTS]
        if self._plugin.has_controller:
            services.append(kind.CONTROLLER_SERVICE)
        return wire.GetPluginCapabilitiesResponse(
            capabilities=[
                *(wire.PluginCapability(service=kind(type=service)) for service in services),
                wire.PluginCapability(volume_expansion=growth(type=growth.ONLINE)),
            ]
        )

    async def _probe(self, _: wire.ProbeRequest) -> wire.ProbeResponse:
        return wire.ProbeResponse(ready=BoolValue(value=self._is_ready()))
