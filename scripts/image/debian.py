"""Unpacks Debian's packages for any processor: no script of theirs is run, and no root is needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

RELEASE = "trixie"
PYTHON = "3.13"
"""The release's own."""
PACKAGES = ("base-files", f"python{PYTHON}")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's and OCI's names of processors, by those that ``uname -m`` has."""
STATUS = Path("var/lib/dpkg/status")
# What is unpacked is not known to dpkg, by which scanners find out what an image holds.
_LIST_PACKAGES = (
    'for package in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --field "$package" &&'
    f' printf "Status: install ok installed\\n\\n"; done >"$1/{STATUS}"'
)
_LEFT_OUT = (
    *("./dev/*", "./etc/hostname", "./etc/resolv.conf", "./etc/apt", "./var/cache/*", "./var/lib/apt"),
    *("./var/log/*", "./usr/share/doc/*.gz", "./usr/share/man", "./usr/share/locale", "./usr/share/info"),
    *("./usr/share/lintian", "./usr/lib/*/gconv"),
    *(f"./usr/lib/python{PYTHON}/{name}" for name in ("pydoc_data", "test")),
)
"""The building machine's own and apt's files, and what holds nothing that runs; licences stay."""
_TIMEOUT_S = 900


def unpack(architecture: str, tree: Path, mirror: str | None = None) -> None:
    """Unpack the packages for a processor, and those that they depend on, into a new directory.

    From a mirror, or by default from where mmdebstrap takes them, security updates included. Raises
    CalledProcessError, after the tool has said why.
    """
    fetch = [
        *("mmdebstrap", "--quiet", "--mode=chrootless", "--variant=extract", "--format=tar"),
        *(f"--architectures={ARCHITECTURES[architecture]}", f"--include={','.join(PACKAGES)}"),
        *(f"--extract-hook={_LIST_PACKAGES}", RELEASE, "-", *([mirror] if mirror else [])),
    ]
    tree.mkdir()
    left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    write = ["tar", "--extract", "--no-same-owner", *left_out, f"--directory={tree}"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        fetch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, umask=0o022
    ) as fetching:
        subprocess.run(write, check=True, stdin=fetching.stdout, timeout=_TIMEOUT_S, umask=0o022)
    if fetching.returncode:
        raise subprocess.CalledProcessError(fetching.returncode, fetch[0])


def list_packages(tree: Path) -> Iterator[Message]:
    """Yield the fields of each package that was unpacked there."""
    for paragraph in (tree / STATUS).read_bytes().split(b"\n\n"):
        if paragraph.strip():
            yield BytesParser().parsebytes(paragraph, headersonly=True)
