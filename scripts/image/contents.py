"""What is added to Debian for each image: the controller with its wheels, or the bundle for nodes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bundle import sbom
from scripts.bundle import wheels as shelves
from scripts.bundle.__main__ import make_bundle
from scripts.bundle.targets import PYTHONS, Target
from scripts.image import application, debian

LOCK = "requirements/controller.txt"
NODE_FILES = Path("usr/lib/ebs-agent-node")
_POD = "node_pod.py"
_ENVIRONMENT = ("LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")

CONTROLLER: dict[str, Any] = {
    "User": f"{application.USER_ID}:{application.USER_ID}",
    "Env": [f"PATH=/{application.HOME}/bin:/usr/bin", *_ENVIRONMENT],
    "Entrypoint": ["ebs-agent"],
}
# Root's: what it is for is to have the node install something.
NODE: dict[str, Any] = {
    "User": "0:0",
    "Env": ["PATH=/usr/bin", *_ENVIRONMENT],
    "Entrypoint": [f"/usr/bin/python{debian.PYTHON}", "-I", f"/{NODE_FILES}/{_POD}"],
}


@dataclass
class Contents:
    """An image under way: where its files are, what it is made from, and the wheels that are in it by now.

    ``native`` is a tree of the same packages for this machine.
    """

    tree: Path
    native: Path
    architecture: str
    source: Path
    cache: Path
    wheel: Path
    wheels: list[Path] = field(default_factory=list)


Add = Callable[[Contents], Path]
"""Adds what is ours, all of it below the path that is returned, and says which wheels that brings."""


def prepare(made: Contents) -> None:
    """Do what the packages' scripts would."""
    application.add_files(made.tree)
    application.compile_modules(made.tree, application.STANDARD_LIBRARY, made.native)


def add_controller(made: Contents) -> Path:
    """Install the agent with all that the controller needs."""
    target = Target(debian.PYTHON, made.architecture)
    shelf = made.cache / f"controller-{made.architecture}-{target.python}"
    lock = (made.source / LOCK).read_text(encoding="utf-8")
    shelves.fill_shelf(shelf, target, list(target.select(lock)))
    made.wheels = [*sorted(shelf.glob("*.whl")), made.wheel]
    application.install_wheels(made.tree, made.wheels)
    application.compile_modules(made.tree, application.LIBRARY, made.native)
    return application.HOME


def add_bundle(made: Contents) -> Path:
    """Add the bundle of this processor, for every Python, and what has a node install it."""
    place = made.tree / NODE_FILES
    place.mkdir()
    for name in (_POD, "on_host.sh"):
        shutil.copyfile(made.source / "deploy/node" / name, place / name)
    targets = [Target(python, made.architecture) for python in PYTHONS]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = make_bundle(made.source, targets, made.wheel, made.cache, Path(scratch))
        shutil.move(bundle, place / "bundle.tar.gz")
    found = {path.name: path for target in targets for path in _list_wheels(made, target)}
    made.wheels = [*found.values(), made.wheel]
    return NODE_FILES


def _list_wheels(made: Contents, target: Target) -> list[Path]:
    return list((made.cache / f"{made.architecture}-{target.python}").glob("*.whl"))


def list_parts(made: Contents, name: str, version: str) -> str:
    """Return the bill of materials, a CycloneDX document."""
    parts = [sbom.describe_package(each, debian.RELEASE) for each in debian.list_packages(made.tree)]
    parts += [sbom.describe_wheel(each) for each in sorted(made.wheels)]
    return sbom.make_document(parts, name, version)
