"""Lists what a bundle or an image holds, as a CycloneDX 1.5 document.

Of every wheel name, version, licence and hash; of every package of Debian's name, version and source.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import zipfile
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name


def describe_wheels(wheels: list[Path], name: str, version: str) -> str:
    """Return the document, the same for the same wheels."""
    return make_document([describe_wheel(wheel) for wheel in sorted(wheels)], name, version)


def make_document(components: list[dict[str, Any]], name: str, version: str) -> str:
    """Return the document of what ``name`` holds, the same for the same components."""
    digest = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{name}@{version}#{digest}')}",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": name, "version": version}},
        "components": components,
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def describe_wheel(wheel: Path) -> dict[str, Any]:
    """Return a wheel's component."""
    metadata = _read_metadata(wheel)
    name, version = canonicalize_name(metadata["Name"]), metadata["Version"]
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": wheel.name,
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}?file_name={wheel.name}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
    }
    licence = metadata.get("License-Expression") or _read_classifier(metadata) or metadata.get("License")
    if licence:
        component["licenses"] = [{"license": {"name": licence.strip().partition("\n")[0][:100]}}]
    return component


def describe_package(fields: Message, release: str) -> dict[str, Any]:
    """Return the component of a package of this release of Debian, by its fields."""
    name, version, architecture = (str(fields[key]) for key in ("Package", "Version", "Architecture"))
    quoted = quote(version, safe="")
    source = str(fields["Source"] or name).partition(" ")[0]
    return {
        "type": "library",
        "bom-ref": f"{name}_{version}_{architecture}",
        "name": name,
        "version": version,
        "purl": f"pkg:deb/debian/{name}@{quoted}?arch={architecture}&distro={release}",
        "properties": [{"name": "source", "value": source}],
    }


def _read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [path] = [
            path
            for path in archive.namelist()
            if path.endswith(".dist-info/METADATA") and path.count("/") == 1
        ]
        return BytesHeaderParser().parsebytes(archive.read(path))


def _read_classifier(metadata: Message) -> str | None:
    classifiers = metadata.get_all("Classifier", [])
    return next(
        (
            line.rpartition(" :: ")[2]
            for line in classifiers
            if line.startswith("License :: OSI Approved :: ")
        ),
        None,
    )
