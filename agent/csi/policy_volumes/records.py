"""Which volumes of the policy pods have, and where: notes that are synced before anything is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.core.model import VolumeId
from agent.csi.policy_volumes.record import DIRECTORY, EntryPublication, PublishedRecord, parse_record
from agent.csi.volumes.boot_notes import BootNotes, Notes
from agent.node.state.record_files import Shelf

_DEVICE = re.compile(r"(.*)/plugins/kubernetes\.io/csi/volumeDevices/publish/([^/]+)/([^/]+)", re.ASCII)
"""Where kubelet has a device published: its root, the PersistentVolume, the pod (pkg/volume/csi)."""


class PublishedRecords(BootNotes[PublishedRecord]):
    """What pods have of the policy's volumes since the node was started."""

    def __init__(self, directory: Path, notes: Notes, boot_id: str, machine_id: str) -> None:
        shelf = Shelf(directory / DIRECTORY, "published", PublishedRecord, parse_record, machine_id)
        super().__init__(shelf, notes, boot_id)

    def list_published(self) -> Iterator[tuple[VolumeId, EntryPublication]]:
        """Yield every view, with the volume that is seen there."""
        for volume, record in self.all.items():
            for one in record.published:
                yield volume, one

    def find_target(self, target_path: str) -> tuple[VolumeId, EntryPublication] | None:
        """Return what is noted of a target, and which volume is seen there."""
        return next((found for found in self.list_published() if found[1].target_path == target_path), None)

    def find_shown(self, volume: VolumeId, resolve: Callable[[str], str]) -> frozenset[str]:
        """Return where the volume is mounted for pods; ``resolve`` finds where kubelet's paths lead."""
        record = self.all.get(volume)
        if record is None:
            return frozenset()
        return frozenset(
            path for one in record.published for path in _list_places(resolve(one.target_path), one)
        )


def _list_places(path: str, publication: EntryPublication) -> tuple[str, ...]:
    """Return where a view is mounted: a device kubelet mounts again, for the pod and for itself."""
    found = _DEVICE.fullmatch(path) if publication.is_block else None
    if found is None:
        return (path,)
    root, name, pod = found.groups()
    return (
        path,
        f"{root}/plugins/kubernetes.io/csi/volumeDevices/{name}/dev/{pod}",
        f"{root}/pods/{pod}/volumeDevices/kubernetes.io~csi/{name}",
    )
