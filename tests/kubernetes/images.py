"""Container images without a registry: of one static program each, packed as `docker save` packs."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

PAUSE = "localhost/pause:1"
"""Holds a pod's namespaces, and sleeps."""
BUSYBOX = "localhost/busybox:1"


def write_images(path: Path, busybox: Path) -> None:
    """Write an archive with both images, whose only layer is this busybox under all its names."""
    layer = _make_layer(busybox)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE, BUSYBOX], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "layer.tar", layer)
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def write_program_images(path: Path, programs: Mapping[str, Path]) -> None:
    """Write an archive with an image for each name, which holds one static program and nothing else."""
    manifest = []
    with tarfile.open(path, "w") as archive:
        for number, (name, program) in enumerate(programs.items()):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as packed:
                _add(packed, "program", program.read_bytes(), mode=0o755)
            layer = buffer.getvalue()
            config = {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": ["/program"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            }
            _add(archive, f"{number}.tar", layer)
            _add(archive, f"{number}.json", json.dumps(config).encode())
            manifest.append({"Config": f"{number}.json", "RepoTags": [name], "Layers": [f"{number}.tar"]})
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _make_layer(busybox: Path) -> bytes:
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for directory in ("bin", "tmp", "dev", "etc", "proc", "sys"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for name in names:
            if name != "busybox":
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(entry)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
