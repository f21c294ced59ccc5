"""The real container image, as ``make image`` makes it."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest.cache import hold_lock
from tests.vm.guest.settings import CACHE
from tests.vm.guest.tools import run_tool


def make_image(
    output: Path,
    architectures: Sequence[str] = ("x86_64",),
    kind: str = "controller",
    source: Path = REPOSITORY,
) -> Path:
    """Make an image of a tree for these processors, which takes 20 s for each, and return the archive."""
    with hold_lock(CACHE / "wheels.lock"):
        run_tool(
            [
                *(sys.executable, "-m", "scripts.image", kind, "--source", source),
                *(word for each in architectures for word in ("--architecture", each)),
                *("--output", output, "--cache", CACHE / "wheels"),
            ],
            timeout_s=600,
        )
    (archive,) = output.glob("*-image.tar")
    return archive


class Layout:
    """``with Layout(archive) as layout: …``: what is in an archive, by its digests."""

    def __init__(self, archive: Path) -> None:
        self._archive = tarfile.open(archive)  # noqa: SIM115 -- closed on leaving

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._archive.close()

    def list_manifests(self) -> list[dict[str, Any]]:
        """Return the descriptors of the named index."""
        [top] = json.loads(self._read("index.json"))["manifests"]
        manifests: list[dict[str, Any]] = self.read_json(top)["manifests"]
        return manifests

    def read_json(self, descriptor: dict[str, Any]) -> Any:
        """Return a document."""
        return json.loads(self.read(descriptor))

    def read(self, descriptor: dict[str, Any]) -> bytes:
        """Return a blob."""
        return self._read(f"blobs/{descriptor['digest'].replace(':', '/')}")

    def _read(self, path: str) -> bytes:
        file = self._archive.extractfile(path)
        assert file is not None, path
        return file.read()
