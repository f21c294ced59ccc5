"""The bundle for arm64, run by Debian's Python for that processor, which QEMU emulates one program at a time.

No kernel and no systemd of that processor take part, and no script: those know nothing of processors.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm.bundles import VERSION, make_folder
from tests.vm.guest.agent_disk import GUEST_PYTHON, REPOSITORY
from tests.vm.guest.image import RELEASE
from tests.vm.guest.settings import DEBIAN_MIRROR
from tests.vm.guest.tools import run_tool

PACKAGES = ("python3", "libblkid1", "libudev1", "zlib1g", "libssl3")
EMULATOR = "qemu-aarch64-static"
VENV = "/opt/ebs-agent/venv"

pytestmark = [pytest.mark.nightly, pytest.mark.needs(EMULATOR), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack Debian's packages for arm64, without running any of their programs, and the bundle."""
    tree = tmp_path_factory.mktemp("arm64") / "tree"
    run_tool(
        [
            *("mmdebstrap", "--mode=root", "--variant=extract", "--architectures=arm64"),
            *(f"--include={','.join(PACKAGES)}", RELEASE, tree),
            *([DEBIAN_MIRROR] if DEBIAN_MIRROR else []),
        ],
        timeout_s=900,
    )
    emulator = shutil.which(EMULATOR)
    assert emulator is not None
    shutil.copy(emulator, tree / "emulator")
    folder = make_folder(tmp_path_factory.mktemp("bundle"), architecture="aarch64")
    run_tool(["tar", "-xzf", next(folder.glob("*.tar.gz")), "-C", tree], timeout_s=120)
    (tree / f"ebs-agent-{VERSION}-aarch64").rename(tree / "bundle")
    shutil.copy(REPOSITORY / "docs/policy.example.yaml", tree)
    return tree


def run_emulated(tree: Path, *argv: str) -> str:
    """Run a program of the tree's to its end and return what it printed."""
    done = subprocess.run(
        ["chroot", tree, "/emulator", *argv],
        env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "HOME": "/"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def list_wheels(tree: Path) -> Sequence[str]:
    """Return the wheels that the bundle has for this Python, as they lie in the tree."""
    names = (tree / f"bundle/wheels/{GUEST_PYTHON}.txt").read_text().split()
    return [f"/bundle/wheels/{name}" for name in names]


def test_the_bundle_is_installed_and_works(tree: Path) -> None:
    """Its wheels are for this processor: a venv is made as install.sh makes it, and everything imports."""
    run_emulated(tree, "/usr/bin/python3", "-I", "-m", "venv", "--without-pip", VENV)
    python = f"{VENV}/bin/python"
    run_emulated(tree, python, "-I", "/bundle/install_wheels.py", *list_wheels(tree))
    machine = run_emulated(tree, python, "-I", "-c", "import platform; print(platform.machine())")
    assert machine == "aarch64\n"
    run_emulated(tree, python, "-I", "-c", "import agent.cli.app, agent.cloud.aws_worker.main, agent.daemon")
    assert run_emulated(tree, python, f"{VENV}/bin/ebs-agent", "--version") == f"{VERSION}\n"
    checked = run_emulated(tree, python, f"{VENV}/bin/ebs-agent", "check", "/policy.example.yaml")
    assert "no problems" in checked
