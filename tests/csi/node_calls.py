"""kubelet's calls to a plugin's node service: each over a connection of its own, and with an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from agent.csi.wire import csi_pb2
from agent.csi.wire.csi_grpc import NodeStub
from tests.csi.places import Claim, Places

CALL_S = 120.0
"""How long kubelet waits for any answer (csiTimeout)."""
UNCERTAIN = frozenset(
    {
        Status.CANCELLED,
        Status.DEADLINE_EXCEEDED,
        Status.RESOURCE_EXHAUSTED,
        Status.ABORTED,
        Status.UNAVAILABLE,
    }
)
"""After these kubelet asks again and the volume may be there; after all others it removes the place."""


class NodeCalls:
    """Asks one plugin, whose socket is known."""

    def __init__(self, places: Places, endpoint: Path) -> None:
        self._places = places
        self._endpoint = endpoint

    async def ask(self, method: str, request: Any, timeout_s: float = CALL_S) -> Any:
        """Return the answer to one call of the node service; raise ``GRPCError`` for a refusal."""
        channel = Channel(path=str(self._endpoint))
        try:
            return await getattr(NodeStub(channel), method)(request, timeout=timeout_s)
        finally:
            channel.close()

    async def get_info(self) -> csi_pb2.NodeGetInfoResponse:
        """Return who the node says it is."""
        info: csi_pb2.NodeGetInfoResponse = await self.ask("NodeGetInfo", csi_pb2.NodeGetInfoRequest())
        return info

    async def get_capabilities(self) -> csi_pb2.NodeGetCapabilitiesResponse:
        """Return what the driver can do, which kubelet asks before it has a volume staged or published."""
        request = csi_pb2.NodeGetCapabilitiesRequest()
        answer: csi_pb2.NodeGetCapabilitiesResponse = await self.ask("NodeGetCapabilities", request)
        return answer

    async def stage(self, claim: Claim) -> Path:
        """Have a volume staged and return where; where that is refused for good, the place is removed."""
        place = self._places.make_staging(claim)
        request = csi_pb2.NodeStageVolumeRequest(
            volume_id=claim.volume_id,
            publish_context={"devicePath": "/dev/xvdaa"},
            staging_target_path=str(place),
            volume_capability=claim.capability,
            volume_context=claim.attributes,
        )
        await self._ask_for(claim, place, "NodeStageVolume", request)
        return place

    async def publish(self, claim: Claim, pod: str) -> Path:
        """Have a staged volume published for a pod and return where."""
        place = self._places.make_target_parent(claim, pod)
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=claim.volume_id,
            publish_context={"devicePath": "/dev/xvdaa"},
            staging_target_path=str(self._places.staging(claim)),
            target_path=str(place),
            volume_capability=claim.capability,
            readonly=claim.is_read_only,
            volume_context=claim.attributes,
        )
        await self._ask_for(claim, place, "NodePublishVolume", request)
        return place

    async def unpublish(self, claim: Claim, pod: str) -> None:
        """Have a pod's view of a volume taken away, which must leave nothing behind, and clear up."""
        place = self._places.target(claim, pod)
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=claim.volume_id, target_path=str(place))
        await self.ask("NodeUnpublishVolume", request)
        self._places.remove(claim, place, is_plugins=True)

    async def unstage(self, claim: Claim) -> None:
        """Have a volume unstaged and clear up: it may be detached now."""
        place = self._places.staging(claim)
        request = csi_pb2.NodeUnstageVolumeRequest(volume_id=claim.volume_id, staging_target_path=str(place))
        await self.ask("NodeUnstageVolume", request)
        self._places.remove(claim, place)

    async def expand(self, claim: Claim, size_bytes: int) -> int:
        """Have the filesystem fill a device that is to have grown; return the size told."""
        request = csi_pb2.NodeExpandVolumeRequest(
            volume_id=claim.volume_id,
            volume_path=str(self._places.staging(claim)),
            staging_target_path=str(self._places.staging(claim)),
            capacity_range=csi_pb2.CapacityRange(required_bytes=size_bytes),
            volume_capability=claim.capability,
        )
        answer: csi_pb2.NodeExpandVolumeResponse = await self.ask("NodeExpandVolume", request)
        return answer.capacity_bytes

    async def measure(self, claim: Claim, pod: str) -> dict[str, csi_pb2.VolumeUsage]:
        """Return how full a volume is, by unit: BYTES and INODES."""
        request = csi_pb2.NodeGetVolumeStatsRequest(
            volume_id=claim.volume_id, volume_path=str(self._places.target(claim, pod))
        )
        answer: csi_pb2.NodeGetVolumeStatsResponse = await self.ask("NodeGetVolumeStats", request)
        return {csi_pb2.VolumeUsage.Unit.Name(usage.unit): usage for usage in answer.usage}

    async def _ask_for(self, claim: Claim, place: Path, method: str, request: Any) -> None:
        try:
            await self.ask(method, request)
        except GRPCError as error:
            if error.status not in UNCERTAIN:
                self._places.give_up(claim, place)
            raise
