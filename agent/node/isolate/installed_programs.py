"""Where the programs of the system are looked for, and which package has one that is missing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from agent.core.errors import AgentError

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
"""What the distribution installed comes first: /usr/local is a group's to write to on some of them."""

_PACKAGES: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    "e2fsprogs": (("mkfs.ext4", "e2fsck", "resize2fs"), "e2fsprogs"),
    "xfsprogs": (("mkfs.xfs", "xfs_growfs", "xfs_logprint"), "xfsprogs"),
    "btrfs-progs": (("mkfs.btrfs", "btrfs"), None),
    "fdisk": (("sfdisk",), "util-linux"),
    "util-linux": (("wipefs", "unshare"), "util-linux"),
}
"""By the package of Debian and Ubuntu: programs, and the package of Amazon Linux 2023, which lacks one."""


def locate_program(name: str, search_path: str = SEARCH_PATH) -> str | None:
    """Return the program's full path, or None where it is not installed."""
    return shutil.which(name, path=search_path)


def find_program(name: str, search_path: str = SEARCH_PATH) -> str:
    """Return the program's full path, or raise AgentError naming the package it comes in."""
    found = locate_program(name, search_path)
    if found is None:
        raise AgentError(f"The program {name} is not installed.", hint=hint_at_package(name), retryable=False)
    return found


def hint_at_package(program: str) -> str | None:
    """Return how to install what a program comes in, as a sentence; None for one that is not known."""
    for debian, (programs, amazon) in _PACKAGES.items():
        if program in programs:
            other = "Amazon Linux 2023 has none" if amazon is None else f"dnf install {amazon} (Amazon Linux)"
            return f"Install it: apt-get install {debian} (Debian, Ubuntu); {other}."
    return None
