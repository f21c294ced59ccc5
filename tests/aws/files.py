"""Volumes of the emulated cloud that carry real bytes: files that a directory of stand-ins makes devices of.

Attaching moves a volume's file into the node's directory, detaching moves it back, modifying makes it longer,
a snapshot is a copy, and a volume made from one, or from another volume, begins as its copy.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class FileVolumes:
    """Hooks of the cloud; ``nodes`` maps instance IDs to their directories of stand-ins."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self.nodes: dict[str, Path] = {}
        store.mkdir()

    def create(self, volume_id: str, size_gib: int, source_id: str | None) -> None:
        path = self._store / f"{volume_id}.img"
        # What is gone has no bytes left, and a volume that says it came from there is blank.
        source = None if source_id is None else self._find_source(source_id)
        if source is None:
            path.touch()
        else:
            _copy(source, path)
        os.truncate(path, size_gib << 30)

    def attach(self, volume_id: str, instance_id: str, device: str) -> None:
        del device
        self.find(volume_id).rename(self.nodes[instance_id] / f"{volume_id}.img")

    def detach(self, volume_id: str, instance_id: str) -> None:
        attached = self.nodes[instance_id] / f"{volume_id}.img"
        if attached.exists():
            attached.rename(self._store / attached.name)

    def grow(self, volume_id: str, size_gib: int) -> None:
        os.truncate(self.find(volume_id), size_gib << 30)

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        _copy(self.find(volume_id), self._store / snapshot_id)

    def find(self, volume_id: str) -> Path:
        """Return where a volume's bytes are now: in the store, or attached to a node."""
        found = self._find_source(volume_id)
        assert found is not None, f"{volume_id} has no bytes anywhere"
        return found

    def _find_source(self, source_id: str) -> Path | None:
        """Return where the bytes of a volume or a snapshot are, None where it is gone."""
        places = (self._store, *self.nodes.values())
        paths = (self._store / source_id, *(place / f"{source_id}.img" for place in places))
        return next((path for path in paths if path.exists()), None)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
