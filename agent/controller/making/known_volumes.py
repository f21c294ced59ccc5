"""What is known of volumes: what AWS describes, and what was done a moment ago and is not described yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from agent.cloud.aws.models import CloudSnapshot, CloudVolume
from agent.cloud.aws.zones import Zone
from agent.controller.name_tags import write_name
from agent.controller.patience import Patience
from agent.core.model import VolumeId

LAG_S = 10.0
"""How long AWS usually takes, at the most, to describe what was made."""
REMEMBERED_S = 60.0
"""How long what was made is there without being described; then it has been deleted by somebody."""
MOST_GONE = 8192


class DescribesVolumes(Protocol):
    """What asks AWS, each answer described after it was asked for."""

    async def find_volume(self, volume_id: VolumeId, /) -> CloudVolume | None:
        """Return the volume; None: AWS's answer does not have it."""

    async def find_volumes_named(self, name: str, /) -> Sequence[CloudVolume]:
        """Return those with this value of the tag CSIVolumeName."""

    async def find_snapshot(self, snapshot_id: str, /) -> CloudSnapshot | None:
        """Return the snapshot, if it is this account's; None: AWS's answer does not have it."""

    async def list_zones(self) -> Sequence[Zone]:
        """Return the zones of the region as this account names them."""


class _Made(Struct, frozen=True):
    name: str
    """As its tag has it."""
    volume: CloudVolume
    at_s: float


class KnownVolumes:
    """Finds volumes, made and deleted ones of this process as they are."""

    def __init__(self, describing: DescribesVolumes, patience: Patience) -> None:
        self._describing = describing
        self._patience = patience
        self._made: OrderedDict[VolumeId, _Made] = OrderedDict()
        self._gone: OrderedDict[VolumeId, None] = OrderedDict()

    async def find(self, volume_id: VolumeId) -> CloudVolume | None:
        """Return the volume; None: AWS does not describe it, and it was not made here a moment ago."""
        if self.is_gone(volume_id):
            return None
        found = await self._describing.find_volume(volume_id)
        if found is None and volume_id in self._list_made():
            return self._made[volume_id].volume
        return found

    async def find_surely(self, volume_id: VolumeId) -> CloudVolume | None:
        """Return the volume; None only where two looks, so far apart as AWS lags, did not find it."""
        found = await self.find(volume_id)
        if found is None and not self.is_gone(volume_id):
            await self._patience.sleep(LAG_S)
            found = await self.find(volume_id)
        return found

    async def find_snapshot_surely(self, snapshot_id: str) -> CloudSnapshot | None:
        """Return the snapshot, if it is this account's; None only where two looks did not find it."""
        found = await self._describing.find_snapshot(snapshot_id)
        if found is None:
            await self._patience.sleep(LAG_S)
            found = await self._describing.find_snapshot(snapshot_id)
        return found

    async def find_named(self, name: str) -> tuple[CloudVolume, ...]:
        """Return the volumes of this name that are not deleted, the one that was made first first."""
        tag = write_name(name)
        made = {key: one.volume for key, one in self._list_made().items() if one.name == tag}
        found = made | {one.volume_id: one for one in await self._describing.find_volumes_named(tag)}
        present = (one for one in found.values() if one.volume_id not in self._gone and not one.is_gone)
        return tuple(sorted(present, key=lambda one: (one.created_at, one.volume_id)))

    def note_made(self, name: str, volume: CloudVolume) -> None:
        """Remember a volume that AWS may not describe yet."""
        self._made[volume.volume_id] = _Made(write_name(name), volume, self._patience.clock())

    def note_gone(self, volume_id: VolumeId) -> None:
        """Remember that a volume is deleted, which AWS may describe for a while."""
        self._made.pop(volume_id, None)
        self._gone[volume_id] = None
        while len(self._gone) > MOST_GONE:
            self._gone.popitem(last=False)

    def is_gone(self, volume_id: VolumeId) -> bool:
        """Return whether the volume was deleted here; its ID is never another's."""
        return volume_id in self._gone

    def forget(self, volume_id: VolumeId) -> None:
        """Take it that a volume that was made is there only if AWS describes it."""
        self._made.pop(volume_id, None)

    def _list_made(self) -> OrderedDict[VolumeId, _Made]:
        now_s = self._patience.clock()
        while self._made and now_s - next(iter(self._made.values())).at_s > REMEMBERED_S:
            self._made.popitem(last=False)
        return self._made
