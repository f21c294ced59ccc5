"""``python -m scripts.image``: the controller's image for each processor, in one archive, into ``dist/``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

from scripts.bundle import sbom, wheels
from scripts.bundle.archive import EPOCH_S, hash_file
from scripts.bundle.targets import Target
from scripts.image import application, debian
from scripts.image.layout import Image, pack_layer, write_layout

REPOSITORY = Path(__file__).parents[2]
NAME = "ebs-agent"
LOCK = "requirements/controller.txt"


def main() -> int:
    """Make what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image", description=__doc__)
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="the tree to make it from")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "build" / "wheels")
    parser.add_argument(
        "--architecture", action="append", choices=debian.ARCHITECTURES, help="all when not given"
    )
    parser.add_argument("--name", default=f"localhost/{NAME}", help="without a tag, which is the version")
    parser.add_argument("--mirror", default=os.environ.get("EBS_AGENT_DEBIAN_MIRROR"), help="of Debian")
    arguments = parser.parse_args()
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
        lock = (arguments.source / LOCK).read_text(encoding="utf-8")
        images = []
        for architecture in architectures:
            target = Target(debian.PYTHON, architecture)
            shelf = arguments.cache / f"controller-{architecture}-{target.python}"
            wheels.fill_shelf(shelf, target, list(target.select(lock)))
            found = [*sorted(shelf.glob("*.whl")), wheel]
            images.append(
                make_image(trees[architecture], trees[platform.machine()], architecture, found, epoch_s)
            )
        archive = arguments.output / f"{NAME}-{version}-image.tar"
        created = datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = write_layout(archive, f"{arguments.name}:{version}", images, describe(version), created)
    sums = archive.with_name(f"{archive.name}.sha256")
    sums.write_text(f"{hash_file(archive)}  {archive.name}\n", encoding="utf-8")
    for image in images:
        unpacked = sum(layer.size_bytes for layer in image.layers) / 1e6
        packed = sum(len(layer.content) for layer in image.layers) / 1e6
        sys.stdout.write(f"{image.architecture}: {unpacked:.0f} MB, packed {packed:.0f} MB\n")
    sys.stdout.write(f"{archive}\n{arguments.name}:{version}@{digest}\n")
    return 0


def make_image(tree: Path, native: Path, architecture: str, found: Sequence[Path], epoch_s: int) -> Image:
    """Make the image of one processor of its Debian and its wheels, the last of which is the agent's own."""
    application.add_user(tree)
    application.install_wheels(tree, found)
    application.compile_modules(tree, native)
    *_, own = found
    name, version, *_ = parse_wheel_filename(own.name)
    parts = [sbom.describe_package(each, debian.RELEASE) for each in debian.list_packages(tree)]
    parts += [sbom.describe_wheel(each) for each in sorted(found)]
    bill = sbom.make_document(parts, f"{name}-image", str(version))
    # Debian's files apart from the agent's, which change with every version.
    place = tree / application.HOME
    ours = {place, *place.rglob("*")}
    theirs = set(tree.rglob("*")) - ours
    layers = [pack_layer(tree, paths, epoch_s) for paths in (theirs, ours)]
    return Image(debian.ARCHITECTURES[architecture], layers, bill)


def describe(version: str) -> dict[str, Any]:
    """Return how the image's programs run where nothing else is said."""
    return {
        "User": f"{application.USER_ID}:{application.USER_ID}",
        "Env": [f"PATH=/{application.HOME}/bin:/usr/bin", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"],
        "Entrypoint": ["ebs-agent"],
        "WorkingDir": "/",
        "Labels": {
            "org.opencontainers.image.title": NAME,
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    }


if __name__ == "__main__":
    sys.exit(main())
