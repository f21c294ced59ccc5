"""The disk that makes a guest a node, for ``/usr/local``: kubelet, containerd, runc, units and images."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.kubernetes.images import write_images
from tests.kubernetes.programs import get_program
from tests.vm.guest.cache import hash_parts, hash_tree, make_once
from tests.vm.guest.image import RELEASE, make_filesystem
from tests.vm.guest.settings import DEBIAN_MIRROR
from tests.vm.guest.tools import run_tool

HERE = Path(__file__).parent
FILES = HERE / "node"
"""Units and configuration, as they lie below ``/usr/local``."""
IMAGES = "share/images.tar"
PACKAGES = ("containerd", "runc", "containernetworking-plugins", "busybox-static")
# What of the packages is used, and where it goes; the libraries that it needs are in every guest.
TAKEN = {
    "usr/bin/containerd": "bin/containerd",
    "usr/bin/containerd-shim-runc-v2": "bin/containerd-shim-runc-v2",
    "usr/bin/ctr": "bin/ctr",
    "usr/sbin/runc": "sbin/runc",
    "usr/lib/cni/loopback": "lib/cni/loopback",
}
DISK_BYTES = 1 << 30


def get_node_disk() -> Path:
    """Return the disk, made first when one of its parts has changed: half a minute."""
    kubelet = get_program("kubelet")
    sources = [(HERE / name).read_bytes() for name in ("node_disk.py", "images.py")]
    key = hash_parts([kubelet.parent.name, *sources, hash_tree(FILES)])
    return make_once("node", key, lambda work: _build(work, kubelet)) / "node.img"


def _build(work: Path, kubelet: Path) -> None:
    packages, tree = work / "packages", work / "tree"
    _extract_packages(packages)
    shutil.copytree(FILES, tree, symlinks=True)
    for source, destination in TAKEN.items():
        (tree / destination).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(packages / source, tree / destination)
    shutil.copy(kubelet, tree / "bin/kubelet")
    (tree / IMAGES).parent.mkdir()
    write_images(tree / IMAGES, packages / "bin/busybox")
    make_filesystem(work / "node.img", tree, DISK_BYTES, label="guest-node")
    shutil.rmtree(packages)
    shutil.rmtree(tree)


def _extract_packages(directory: Path) -> None:
    """Unpack Debian's packages, and those that they depend on, without installing any."""
    run_tool(
        [
            *("mmdebstrap", "--mode=root", "--variant=extract", f"--include={','.join(PACKAGES)}"),
            *(RELEASE, directory),
            *([DEBIAN_MIRROR] if DEBIAN_MIRROR else []),
        ],
        timeout_s=600,
    )
