"""Adds to an unpacked Debian what runs in it: the wheels, as an environment of its Python, and a user."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

from scripts.image.debian import PYTHON

HOME = Path("opt/ebs-agent")
USER_ID = 65532
"""The user and group without a home that the image's programs run as."""
LIBRARY = HOME / f"lib/python{PYTHON}/site-packages"
STANDARD_LIBRARY = Path(f"usr/lib/python{PYTHON}")
_FILES = {
    "etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\n"
    f"ebs-agent:x:{USER_ID}:{USER_ID}::/nonexistent:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\nebs-agent:x:{USER_ID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def install_wheels(tree: Path, wheels: Iterable[Path]) -> None:
    """Install wheels as ``python -m venv`` and a lock would: nothing of the tree is run."""
    binaries = HOME / "bin"
    (tree / binaries).mkdir(parents=True)
    (tree / binaries / "python").symlink_to(f"/usr/bin/python{PYTHON}")
    (tree / HOME / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n", encoding="utf-8"
    )
    places = {
        **dict.fromkeys(("purelib", "platlib"), LIBRARY),
        "scripts": binaries,
        "data": HOME,
        "headers": HOME / "include",
    }
    destination = SchemeDictionaryDestination(
        {kind: f"/{place}" for kind, place in places.items()},
        interpreter=f"/{binaries}/python",
        script_kind="posix",
        destdir=str(tree),
    )
    for path in wheels:
        with WheelFile.open(path) as wheel:
            wheel.validate_record()
            install(wheel, destination, additional_metadata={"INSTALLER": b"installer\n"})


def add_files(tree: Path) -> None:
    """Name the users and make what is for additions; packages' scripts would."""
    (tree / HOME.parent).mkdir(exist_ok=True)
    for name, text in _FILES.items():
        (tree / name).write_text(text, encoding="utf-8")


def compile_modules(tree: Path, place: Path, native: Path) -> None:
    """Compile all modules below a place in ``tree`` by the Python of ``native``, which is for this machine.

    A read-only root cannot keep what is compiled later; what is compiled is the same for each processor.
    Raises CalledProcessError.
    """
    libraries = next(native.glob(f"usr/lib/{platform.machine()}-linux-gnu"))
    loader = next(libraries.glob("ld-linux-*.so.*"))
    python = native / f"usr/bin/python{PYTHON}"
    # As little as possible of what compiles is to be found in what is compiled: no times, no order of sets,
    # nothing of the caller's environment, and no modules kept for itself with the names of their files here.
    environment = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONHOME": str(native / "usr"),
    }
    options = ("-q", "-f", "--invalidation-mode=unchecked-hash", "-s", str(tree), "-p", "/")
    subprocess.run(
        [loader, "--library-path", libraries, python, "-m", "compileall", *options, tree / place],
        check=True,
        cwd=tree,
        stdin=subprocess.DEVNULL,
        env=environment,
        umask=0o022,
    )
