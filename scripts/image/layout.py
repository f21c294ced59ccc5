"""Writes images as OCI's image layout has them, in one archive: https://github.com/opencontainers/image-spec."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Descriptor = dict[str, Any]

_OCI = "application/vnd.oci"
INDEX, MANIFEST = f"{_OCI}.image.index.v1+json", f"{_OCI}.image.manifest.v1+json"
CONFIG, LAYER = f"{_OCI}.image.config.v1+json", f"{_OCI}.image.layer.v1.tar+gzip"
BILL = "application/vnd.cyclonedx+json"
_STICKY_DIRECTORY = 0o1777


@dataclass(frozen=True)
class Layer:
    """Files of an image, packed: ``diff_id`` is the digest of what is in ``content``, unpacked."""

    content: bytes
    diff_id: str
    size_bytes: int


@dataclass(frozen=True)
class Image:
    """What is for one processor, with the CycloneDX document of what is in it."""

    architecture: str
    layers: Sequence[Layer]
    bill: str


@dataclass
class Blobs:
    """The content of a layout, by digest."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes, media_type: str, **more: object) -> Descriptor:
        """Keep a blob and return what refers to it."""
        digest = digest_of(content)
        self.contents[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content), **more}

    def add_json(self, document: Mapping[str, Any], media_type: str, **more: object) -> Descriptor:
        """Keep a document, the same for the same content."""
        return self.add(encode(document), media_type, **more)


def pack_layer(tree: Path, paths: Iterable[Path], epoch_s: int) -> Layer:
    """Pack paths of a tree: root's, whoever has them here, and all of one time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(paths):
            member = archive.gettarinfo(path, str(path.relative_to(tree)))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch_s
            member.mode = _choose_mode(member)
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
    content = buffer.getvalue()
    return Layer(gzip.compress(content, 6, mtime=0), digest_of(content), len(content))


def _choose_mode(member: tarfile.TarInfo) -> int:
    """Forget the umask of who builds, and what gives a program its owner's rights."""
    if member.isdir():
        return _STICKY_DIRECTORY if member.mode & stat.S_ISVTX else 0o755
    return 0o755 if member.mode & stat.S_IXUSR or member.issym() else 0o644


def write_layout(
    archive: Path, name: str, images: Sequence[Image], config: Mapping[str, Any], created: str
) -> str:
    """Write an image for several processors under a name with a tag; return the digest of its index.

    ``created`` is a time by RFC 3339. Each bill is a manifest of its own that says which image it is of: it
    goes where the index goes, and registries list it among the image's referrers.
    """
    blobs = Blobs()
    manifests: list[Descriptor] = []
    for image in images:
        platform = {"os": "linux", "architecture": image.architecture}
        of_image = _add_image(blobs, image, {**platform, "created": created, "config": config})
        manifests.append({**of_image, "platform": platform})
    for image, of_image in zip(images, list(manifests), strict=True):
        subject = {key: of_image[key] for key in ("mediaType", "digest", "size")}
        manifests.append(_add_bill(blobs, image.bill, subject))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    top = blobs.add_json(index, INDEX, annotations=annotations)
    files = {
        "oci-layout": encode({"imageLayoutVersion": "1.0.0"}),
        "index.json": encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]}),
        **{f"blobs/{digest.replace(':', '/')}": each for digest, each in sorted(blobs.contents.items())},
    }
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as packed:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return str(top["digest"])


def _add_image(blobs: Blobs, image: Image, config: Mapping[str, Any]) -> Descriptor:
    layers = [blobs.add(layer.content, LAYER) for layer in image.layers]
    rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blobs.add_json({**config, "rootfs": rootfs}, CONFIG),
        "layers": layers,
    }
    return blobs.add_json(manifest, MANIFEST)


def _add_bill(blobs: Blobs, bill: str, subject: Descriptor) -> Descriptor:
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": BILL,
        "config": blobs.add(b"{}", f"{_OCI}.empty.v1+json"),
        "layers": [blobs.add(bill.encode(), BILL)],
        "subject": subject,
    }
    nowhere = {"os": "unknown", "architecture": "unknown"}
    return blobs.add_json(manifest, MANIFEST, artifactType=BILL, platform=nowhere)


def digest_of(content: bytes) -> str:
    """Return what OCI calls content by."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def encode(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON, the same for the same content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
