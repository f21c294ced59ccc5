"""Where the programs of the system are looked for, and which package has one that is missing."""

from __future__ import annotations

import shutil

from agent.core.errors import AgentError

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
"""What the distribution installed comes first: /usr/local is a group's to write to on some of them."""

_PACKAGES = {
    "mkfs.ext4": ("e2fsprogs", "e2fsprogs"),
    "e2fsck": ("e2fsprogs", "e2fsprogs"),
    "mkfs.xfs": ("xfsprogs", "xfsprogs"),
    "xfs_logprint": ("xfsprogs", "xfsprogs"),
    "mkfs.btrfs": ("btrfs-progs", "btrfs-progs"),
    "btrfs": ("btrfs-progs", "btrfs-progs"),
    "sfdisk": ("fdisk", "util-linux"),
    "wipefs": ("util-linux", "util-linux"),
    "unshare": ("util-linux", "util-linux"),
}
"""Where a program comes from: the package of Debian and Ubuntu, and that of Amazon Linux."""


def locate_program(name: str, search_path: str = SEARCH_PATH) -> str | None:
    """Return the program's full path, or None where it is not installed."""
    return shutil.which(name, path=search_path)


def find_program(name: str, search_path: str = SEARCH_PATH) -> str:
    """Return the program's full path, or raise AgentError naming the package it comes in."""
    found = locate_program(name, search_path)
    if found is None:
        raise AgentError(f"The program {name} is not installed.", hint=_package_hint(name), retryable=False)
    return found


def _package_hint(name: str) -> str | None:
    if name not in _PACKAGES:
        return None
    debian, amazon = _PACKAGES[name]
    return f"Install it: apt-get install {debian} (Debian, Ubuntu) or dnf install {amazon} (Amazon Linux)."
