"""Where kubelet puts things below its root, and the notes it keeps there for after its own restart."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.csi.wire.csi_pb2 import VolumeCapability

_MODE = 0o750
_NOTE = "vol_data.json"


@dataclass(frozen=True)
class Claim:
    """A PersistentVolume, and how the claim on it is used."""

    volume_id: str
    is_block: bool = False
    access: str = "SINGLE_NODE_WRITER"
    fs_type: str = "ext4"
    mount_options: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What the StorageClass or whoever wrote the PersistentVolume says of it: the volume context."""
    is_read_only: bool = False

    @property
    def name(self) -> str:
        """Return the PersistentVolume's name."""
        return f"pvc-{self.volume_id.removeprefix('vol-')}"

    @property
    def capability(self) -> VolumeCapability:
        """Return what kubelet sends of how the volume is to be used."""
        mode = VolumeCapability.AccessMode(mode=self.access)
        if self.is_block:
            return VolumeCapability(block=VolumeCapability.BlockVolume(), access_mode=mode)
        mount = VolumeCapability.MountVolume(fs_type=self.fs_type, mount_flags=self.mount_options)
        return VolumeCapability(mount=mount, access_mode=mode)


@dataclass(frozen=True)
class Places:
    """The directories of one driver's volumes, as kubelet names them: its root is never resolved."""

    root: Path
    driver: str

    @property
    def registry(self) -> Path:
        return self.root / "plugins_registry"

    @property
    def _csi(self) -> Path:
        return self.root / "plugins" / "kubernetes.io" / "csi"

    def staging(self, claim: Claim) -> Path:
        """Return where a claim's volume is staged."""
        if claim.is_block:
            return self._csi / "volumeDevices" / "staging" / claim.name
        handle = hashlib.sha256(claim.volume_id.encode()).hexdigest()
        return self._csi / self.driver / handle / "globalmount"

    def target(self, claim: Claim, pod: str) -> Path:
        """Return where a pod sees a claim's volume: a directory, or for a block volume a file."""
        uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, pod))
        if claim.is_block:
            return self._csi / "volumeDevices" / "publish" / claim.name / uid
        return self.root / "pods" / uid / "volumes" / "kubernetes.io~csi" / claim.name / "mount"

    def note(self, claim: Claim, place: Path) -> Path:
        """Return where kubelet notes what it put at ``place``."""
        if claim.is_block:
            return self._csi / "volumeDevices" / claim.name / "data" / _NOTE
        return place.parent / _NOTE

    def make_staging(self, claim: Claim) -> Path:
        """Make the directory to stage at, and note whose it is, as kubelet does before it asks."""
        place = self.staging(claim)
        place.mkdir(_MODE, parents=True, exist_ok=True)
        self._write_note(claim, place)
        return place

    def make_target_parent(self, claim: Claim, pod: str) -> Path:
        """Make the directory of a target and note whose it is; the target itself is the plugin's to make."""
        place = self.target(claim, pod)
        place.parent.mkdir(_MODE, parents=True, exist_ok=True)
        self._write_note(claim, place)
        return place

    def remove(self, claim: Claim, place: Path, *, is_plugins: bool = False) -> None:
        """Remove a place and its note, as kubelet does once nothing is there; never what is mounted.

        The plugin has removed what ``is_plugins``: a target, once it is unpublished.
        """
        assert not os.path.ismount(place), f"something is still mounted at {place}"
        assert not (is_plugins and os.path.lexists(place)), f"the plugin has left {place} behind"
        if place.is_dir():
            place.rmdir()
        self.note(claim, place).unlink(missing_ok=True)
        if not claim.is_block and place.parent.exists():
            place.parent.rmdir()

    def give_up(self, claim: Claim, place: Path) -> None:
        """Remove a place that was refused, unless something is mounted there from an earlier call."""
        if not os.path.ismount(place):
            self.remove(claim, place)

    def _write_note(self, claim: Claim, place: Path) -> None:
        note = self.note(claim, place)
        note.parent.mkdir(_MODE, parents=True, exist_ok=True)
        said = {
            "specVolID": claim.name,
            "volumeHandle": claim.volume_id,
            "driverName": self.driver,
            "volumeLifecycleMode": "Persistent",
        }
        note.write_text(json.dumps(said))
