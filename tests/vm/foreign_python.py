"""A Python of the host's, put into a guest as an image brings it: Ubuntu 22.04's 3.10 is not in Debian."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.vm.guest import Guest
from tests.vm.guest.image import RELEASE

OLDEST = "3.10"
SHOW_PREFIX = "import ctypes, ssl, sys, venv; print(sys.base_prefix)"
PREFIX = "/usr/local"
# The bulk of a Python, and nothing that the agent needs.
LEFT_OUT = (
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "config-*",
    "__pycache__",
)


def find_oldest_python() -> Path | None:
    """Return where the host has the oldest supported Python; None where none would run in the guest."""
    if platform.freedesktop_os_release().get("VERSION_CODENAME") != RELEASE:
        return None
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    programs = [str(path) for path in pyenv.glob(f"versions/{OLDEST}.*/bin/python{OLDEST}")]
    for program in filter(None, [shutil.which(f"python{OLDEST}"), *programs]):
        done = subprocess.run([program, "-I", "-c", SHOW_PREFIX], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return Path(done.stdout.strip())
    return None


def put_python(guest: Guest, home: Path) -> str:
    """Install the Python that lives there into the guest and return its command."""
    command = f"python{OLDEST}"
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch)
        (stage / "bin").mkdir()
        shutil.copy(home / "bin" / command, stage / "bin" / command)
        library = home / "lib" / command
        packages = shutil.ignore_patterns(*LEFT_OUT, "site-packages", "dist-packages")
        shutil.copytree(library, stage / "lib" / command, ignore=packages, symlinks=True)
        for shared in (home / "lib").glob(f"libpython{OLDEST}.so.*"):
            shutil.copy(shared, stage / "lib" / shared.name)
        guest.put_tree(stage, PREFIX)
    guest.run(["ldconfig"])
    return command
