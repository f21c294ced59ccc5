"""The disk that holds the agent in the guest: a venv in ``/opt/ebs-agent`` with the wheel built here.

In layers, so that a change of the agent costs seconds: the locked dependencies, by the lock; the agent, by
its source. Both are installed by the guest's own Python and pip, run natively in the image's tree.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from tests.vm.guest.cache import hash_parts, hash_tree, make_once
from tests.vm.guest.image import Image, make_filesystem
from tests.vm.guest.tools import run_tool

REPOSITORY = Path(__file__).parents[3]
LOCK = REPOSITORY / "requirements" / "run.txt"
# What the agent's wheel is made of.
SOURCES = ("pyproject.toml", "README.md", "LICENSE")
PACKAGE = REPOSITORY / "agent"
HOME = Path("opt/ebs-agent")
RELEASE = "baked"
DISK_BYTES = 2 << 30
# The guest's Python is Debian 12's, whatever runs the tests.
GUEST_PYTHON = "3.11"
GUEST_MARKERS = {
    "python_version": GUEST_PYTHON,
    "python_full_version": "3.11.2",
    "implementation_version": "3.11.2",
}
GUEST_PLATFORMS = (
    "manylinux_2_34_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)


def get_agent_disk(image: Image) -> Path:
    """Return the disk with the agent as it is in the working tree, made when it changed."""
    return get_agent_layer(image) / "agent.img"


def get_wheels(image: Image) -> Path:
    """Return the directory of the wheels of all dependencies, to install from offline."""
    return get_dependency_layer(image) / "wheels"


def get_wheel(image: Image) -> Path:
    """Return the agent's wheel, built from the working tree."""
    return next((get_agent_layer(image) / "wheel").glob("*.whl"))


def get_dependency_layer(image: Image) -> Path:
    """Return the layer of the locked dependencies: ``wheels/`` and the tree ``opt/``."""
    key = hash_parts([image.key, LOCK.read_bytes(), Path(__file__).read_bytes()])
    return make_once("dependencies", key, lambda work: build_dependencies(work, image))


def get_agent_layer(image: Image) -> Path:
    """Return the layer of the agent itself: ``wheel/`` and ``agent.img``."""
    dependencies = get_dependency_layer(image)
    sources: list[bytes | str] = [hash_tree(PACKAGE), *((REPOSITORY / name).read_bytes() for name in SOURCES)]
    key = hash_parts([dependencies.name, *sources])
    return make_once("agent", key, lambda work: build_agent(work, image, dependencies), keep=4)


def build_dependencies(work: Path, image: Image) -> None:
    """Download the wheels of the lock and install them in a new venv."""
    wheels = work / "wheels"
    requirements = work / "requirements.txt"
    requirements.write_text("\n".join(select_for_guest(LOCK.read_text())) + "\n")
    platforms = [word for platform in GUEST_PLATFORMS for word in ("--platform", platform)]
    run_tool(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *(
                "--only-binary",
                ":all:",
                "--python-version",
                GUEST_PYTHON,
                "--implementation",
                "cp",
                *platforms,
            ),
            *("--dest", wheels, "--requirement", requirements),
        ],
        timeout_s=600,
    )
    root = stage_root(work, image)
    venv = f"/{HOME / RELEASE}"
    run_inside(root, "python3", "-m", "venv", venv)
    shutil.copytree(wheels, root / "wheels")
    install_inside(root, *(f"/wheels/{wheel.name}" for wheel in sorted(wheels.iterdir())))
    (root / HOME / "current").symlink_to(RELEASE)
    (root / "opt").rename(work / "opt")
    shutil.rmtree(root)


def build_agent(work: Path, image: Image, dependencies: Path) -> None:
    """Build the wheel, install it beside the dependencies and make the disk."""
    wheel = build_wheel(work / "wheel")
    root = stage_root(work, image)
    shutil.rmtree(root / "opt")
    run_tool(["cp", "-al", dependencies / "opt", root / "opt"], timeout_s=120)
    shutil.copy(wheel, root / wheel.name)
    install_inside(root, f"/{wheel.name}")
    make_filesystem(work / "agent.img", root / HOME, DISK_BYTES, label="guest-agent")
    shutil.rmtree(root)


def build_wheel(destination: Path) -> Path:
    """Build the agent's wheel from the working tree and return it."""
    run_tool(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", destination, REPOSITORY],
        timeout_s=120,
    )
    return next(destination.glob("*.whl"))


def stage_root(work: Path, image: Image) -> Path:
    """Return a root to run the guest's Python in, the image's files by hard links, never written to."""
    root = work / "root"
    root.mkdir()
    for name in ("bin", "lib", "lib64", "usr", "etc"):
        run_tool(["cp", "-al", image.tree / name, root / name], timeout_s=120)
    for name in ("tmp", "dev", "proc", "opt"):
        (root / name).mkdir()
    return root


def install_inside(root: Path, *wheels: str) -> None:
    """Install wheels into the venv by its own pip, offline."""
    pip = f"/{HOME / RELEASE}/bin/pip"
    run_inside(root, pip, "install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir", *wheels)


def run_inside(root: Path, *command: str) -> None:
    """Run a program of the guest's on the host, with the guest's root as its own and none of our settings."""
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    run_tool(
        ["chroot", root, "/usr/bin/env", "-i", path, "HOME=/tmp", "LANG=C.UTF-8", *command], timeout_s=600
    )


def select_for_guest(lock: str) -> Iterator[str]:
    """Yield the lines of a lock file that hold for the guest, without their conditions.

    pip weighs conditions by the Python that it runs in, even when it downloads for another.
    """
    for line in lock.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        specification, *hashes = line.split(" --hash=")
        requirement = Requirement(specification.split(" #")[0].strip())
        if requirement.marker is None or requirement.marker.evaluate({**os_markers(), **GUEST_MARKERS}):
            requirement.marker = None
            yield " ".join(
                [str(requirement), *(f"--hash={value.split(' #')[0].strip()}" for value in hashes)]
            )


def os_markers() -> dict[str, str]:
    """Return the facts of the guest's platform that conditions ask for."""
    return {
        "os_name": os.name,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
    }
