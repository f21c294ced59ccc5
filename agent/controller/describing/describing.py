"""Asks AWS about volumes, snapshots, modifications and zones for everything that the controller does.

An answer is never older than the question. That it has none of something is what AWS says, which lags behind
what was made a moment ago.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DescribeSnapshots, DescribeVolumes, DescribeVolumesModifications
from agent.cloud.aws.models import CloudSnapshot, CloudVolume, Modification
from agent.cloud.aws.volume_status import CheckedVolume, DescribeVolumeStatus
from agent.cloud.aws.zones import DescribeAvailabilityZones, Zone
from agent.cloud.errors import codes
from agent.controller.describing.batches import WINDOW_S, Batches, OneAtATime
from agent.controller.describing.sort_answers import ask_for_each
from agent.controller.name_tags import TAG_SNAPSHOT_NAME, TAG_VOLUME_NAME
from agent.core.errors import AgentError
from agent.core.model import AwsChecks, VolumeId

_NO_VOLUME = frozenset({codes.NO_VOLUME})


class Describing:
    """What AWS says now. All raise AgentError where it does not say it, or not so that it can be read."""

    def __init__(self, make: Make, window_s: float = WINDOW_S) -> None:
        self._make = make
        self._volumes = Batches(self._describe_volumes, window_s)
        self._named_volumes = Batches(self._describe_named_volumes, window_s)
        self._snapshots = Batches(self._describe_snapshots, window_s)
        self._named_snapshots = Batches(self._describe_named_snapshots, window_s)
        self._modifications = Batches(self._describe_modifications, window_s)
        self._checks = Batches(self._describe_checks, window_s)
        self._all_volumes = OneAtATime(self._describe_all_volumes)
        self._all_snapshots = OneAtATime(self._describe_all_snapshots)
        self._all_zones = OneAtATime(self._describe_zones)
        self._zones: tuple[Zone, ...] = ()

    async def find_volume(self, volume_id: VolumeId) -> CloudVolume | None:
        """Return the volume; None: AWS's answer does not have it."""
        return next(iter(await self._volumes.find(volume_id)), None)

    async def find_volumes_named(self, name: str) -> tuple[CloudVolume, ...]:
        """Return the volumes with this value of the tag CSIVolumeName."""
        return await self._named_volumes.find(name)

    async def find_snapshot(self, snapshot_id: str) -> CloudSnapshot | None:
        """Return the snapshot, if it is this account's; None: AWS's answer does not have it."""
        return next(iter(await self._snapshots.find(snapshot_id)), None)

    async def find_snapshots_named(self, name: str) -> tuple[CloudSnapshot, ...]:
        """Return the snapshots with this value of the tag CSIVolumeSnapshotName."""
        return await self._named_snapshots.find(name)

    async def find_modification(self, volume_id: VolumeId) -> Modification | None:
        """Return the volume's last modification; None: AWS's answer has none."""
        found = await self._modifications.find(volume_id)
        return max(found, key=lambda one: one.started_at, default=None)

    async def find_checks(self, volume_id: VolumeId) -> AwsChecks | None:
        """Return what AWS's own checks say of the volume; None: AWS's answer does not have it."""
        return next((one.checks for one in await self._checks.find(volume_id)), None)

    async def list_volumes(self) -> Sequence[CloudVolume | Unread]:
        """Return every volume of the account in the region."""
        return await self._all_volumes.find()

    async def list_snapshots(self) -> Sequence[CloudSnapshot | Unread]:
        """Return every snapshot of the account in the region."""
        return await self._all_snapshots.find()

    async def list_zones(self) -> tuple[Zone, ...]:
        """Return the zones of the region as this account names them, which never changes: asked once."""
        if not self._zones:
            self._zones = await self._all_zones.find()
        return self._zones

    # -- Calls ------------------------------------------------------------------------------------------

    async def _describe_volumes(
        self, ids: Sequence[VolumeId]
    ) -> dict[VolumeId, tuple[CloudVolume, ...] | AgentError]:
        async def ask(some: Sequence[VolumeId]) -> Sequence[CloudVolume | Unread]:
            return await self._make(DescribeVolumes((("volume-id", tuple(some)),)))

        return await ask_for_each(ids, ask, lambda one: one.volume_id)

    async def _describe_named_volumes(
        self, names: Sequence[str]
    ) -> dict[str, tuple[CloudVolume, ...] | AgentError]:
        async def ask(some: Sequence[str]) -> Sequence[CloudVolume | Unread]:
            return await self._make(DescribeVolumes(((f"tag:{TAG_VOLUME_NAME}", tuple(some)),)))

        return await ask_for_each(names, ask, lambda one: one.tag(TAG_VOLUME_NAME), names_unread=False)

    async def _describe_snapshots(
        self, ids: Sequence[str]
    ) -> dict[str, tuple[CloudSnapshot, ...] | AgentError]:
        async def ask(some: Sequence[str]) -> Sequence[CloudSnapshot | Unread]:
            return await self._make(DescribeSnapshots((("snapshot-id", tuple(some)),)))

        return await ask_for_each(ids, ask, lambda one: one.snapshot_id)

    async def _describe_named_snapshots(
        self, names: Sequence[str]
    ) -> dict[str, tuple[CloudSnapshot, ...] | AgentError]:
        async def ask(some: Sequence[str]) -> Sequence[CloudSnapshot | Unread]:
            return await self._make(DescribeSnapshots(((f"tag:{TAG_SNAPSHOT_NAME}", tuple(some)),)))

        return await ask_for_each(names, ask, lambda one: one.tag(TAG_SNAPSHOT_NAME), names_unread=False)

    async def _describe_modifications(
        self, ids: Sequence[VolumeId]
    ) -> dict[VolumeId, tuple[Modification, ...] | AgentError]:
        async def ask(some: Sequence[VolumeId]) -> Sequence[Modification | Unread]:
            return await self._make(DescribeVolumesModifications(tuple(some)))

        return await ask_for_each(ids, ask, lambda one: one.volume_id)

    async def _describe_checks(
        self, ids: Sequence[VolumeId]
    ) -> dict[VolumeId, tuple[CheckedVolume, ...] | AgentError]:
        async def ask(some: Sequence[VolumeId]) -> Sequence[CheckedVolume | Unread]:
            return await self._make(DescribeVolumeStatus(tuple(some)))

        return await ask_for_each(ids, ask, lambda one: one.volume_id, fails_for_all=_NO_VOLUME)

    async def _describe_all_volumes(self) -> Sequence[CloudVolume | Unread]:
        return await self._make(DescribeVolumes())

    async def _describe_all_snapshots(self) -> Sequence[CloudSnapshot | Unread]:
        return await self._make(DescribeSnapshots())

    async def _describe_zones(self) -> tuple[Zone, ...]:
        return await self._make(DescribeAvailabilityZones())
