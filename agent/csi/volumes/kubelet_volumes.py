"""All that kubelet asks of this node's volumes, in one place: the RPC layer's ``NodeVolumes``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from agent.core.model import VolumeId
from agent.csi.calls import ExpandCall, NodeInfo, PublishCall, SpaceUsage, StageCall
from agent.csi.volumes.engine import Engine
from agent.csi.volumes.kubelet_wants import KubeletWants
from agent.csi.volumes.publish import Publisher
from agent.csi.volumes.stage import Stager
from agent.csi.volumes.staged_records import StagedRecords
from agent.csi.volumes.usage import Measurer, TakeSample


class KubeletVolumes:
    """Serves kubelet by the engine. ``get_info`` says who the node is now.

    Until ``are_devices_known``, each call about a volume waits: one that was not met yet is not absent.
    """

    def __init__(
        self,
        engine: Engine,
        records: StagedRecords,
        wants: KubeletWants,
        sample: TakeSample,
        get_info: Callable[[], Awaitable[NodeInfo]],
        are_devices_known: anyio.Event,
    ) -> None:
        self._are_devices_known = are_devices_known
        self._stager = Stager(engine, records, wants)
        self._publisher = Publisher(engine, records, wants)
        self._measurer = Measurer(engine, records, wants, sample)
        self._get_info = get_info

    async def stage(self, call: StageCall) -> None:
        """Return when the volume is mounted, or known to be a usable block device."""
        await self._are_devices_known.wait()
        await self._stager.stage(call)

    async def unstage(self, volume_id: VolumeId, staging_path: str) -> None:
        """Return when nothing of the volume is mounted any more and nobody holds its device."""
        await self._are_devices_known.wait()
        await self._stager.unstage(volume_id, staging_path)

    async def publish(self, call: PublishCall) -> None:
        """Return when the staged volume is seen at the target."""
        await self._are_devices_known.wait()
        await self._publisher.publish(call)

    async def unpublish(self, volume_id: VolumeId, target_path: str) -> None:
        """Return when nothing is at the target any more, nor the target itself."""
        await self._are_devices_known.wait()
        await self._publisher.unpublish(volume_id, target_path)

    async def expand(self, call: ExpandCall) -> int:
        """Return the size of the device in bytes, once the filesystem fills it."""
        await self._are_devices_known.wait()
        return await self._measurer.expand(call)

    async def measure(self, volume_id: VolumeId, volume_path: str) -> SpaceUsage:
        """Return how full the volume at this path is; never waits for a device that does not answer."""
        await self._are_devices_known.wait()
        return await self._measurer.measure(volume_id, volume_path)

    async def describe_node(self) -> NodeInfo:
        """Return who this node is and what it takes."""
        return await self._get_info()
