"""``python -m scripts.image controller|node``: an image for each processor, in one archive in ``dist/``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

from scripts.bundle import wheels
from scripts.bundle.__main__ import REPOSITORY
from scripts.bundle.archive import EPOCH_S, hash_file
from scripts.image import contents, debian
from scripts.image.contents import Contents
from scripts.image.layout import Image, pack_layer, write_layout


@dataclass(frozen=True)
class Kind:
    """Which image: its name, what is added to Debian for it, and how it runs where nothing else is said."""

    name: str
    add: contents.Add
    config: dict[str, Any]


KINDS = {
    "controller": Kind("ebs-agent", contents.add_controller, contents.CONTROLLER),
    "node": Kind("ebs-agent-node", contents.add_bundle, contents.NODE),
}


def main() -> int:
    """Make what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="the tree to make it from")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "build" / "wheels")
    parser.add_argument(
        "--architecture", action="append", choices=debian.ARCHITECTURES, help="all when not given"
    )
    parser.add_argument("--registry", default="localhost", help="what comes before the image's name")
    parser.add_argument("--mirror", default=os.environ.get("EBS_AGENT_DEBIAN_MIRROR"), help="of Debian")
    arguments = parser.parse_args()
    kind = KINDS[arguments.kind]
    epoch_s = int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH_S)
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch_s)

    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = wheels.build(arguments.source, Path(scratch))
        version = str(parse_wheel_filename(wheel.name)[1])
        architectures = tuple(arguments.architecture or debian.ARCHITECTURES)
        trees = {each: Path(scratch) / each for each in dict.fromkeys((*architectures, platform.machine()))}
        for architecture, tree in trees.items():
            debian.unpack(architecture, tree, arguments.mirror)
        images = [
            make_image(
                Contents(
                    trees[each], trees[platform.machine()], each, arguments.source, arguments.cache, wheel
                ),
                kind,
                epoch_s,
            )
            for each in architectures
        ]
        name = f"{arguments.registry}/{kind.name}:{version}"
        archive = arguments.output / f"{kind.name}-{version}-image.tar"
        created = datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = write_layout(archive, name, images, describe(kind, version), created)
    sums = archive.with_name(f"{archive.name}.sha256")
    sums.write_text(f"{hash_file(archive)}  {archive.name}\n", encoding="utf-8")
    for image in images:
        unpacked = sum(layer.size_bytes for layer in image.layers) / 1e6
        packed = sum(len(layer.content) for layer in image.layers) / 1e6
        sys.stdout.write(f"{image.architecture}: {unpacked:.0f} MB, packed {packed:.0f} MB\n")
    sys.stdout.write(f"{archive}\n{name}@{digest}\n")
    return 0


def make_image(made: Contents, kind: Kind, epoch_s: int) -> Image:
    """Make the image of one processor: Debian's files, and apart from them ours, which change more often."""
    contents.prepare(made)
    place = made.tree / kind.add(made)
    name, version, *_ = parse_wheel_filename(made.wheel.name)
    bill = contents.list_parts(made, f"{name}-{kind.name}-image", str(version))
    ours = {place, *place.rglob("*")}
    theirs = set(made.tree.rglob("*")) - ours
    layers = [pack_layer(made.tree, paths, epoch_s) for paths in (theirs, ours)]
    return Image(debian.ARCHITECTURES[made.architecture], layers, bill)


def describe(kind: Kind, version: str) -> dict[str, Any]:
    """Return the part of an image's configuration that says how its programs run."""
    labels = {"title": kind.name, "version": version, "licenses": "Apache-2.0"}
    return {
        **kind.config,
        "WorkingDir": "/",
        "Labels": {f"org.opencontainers.image.{key}": value for key, value in labels.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
