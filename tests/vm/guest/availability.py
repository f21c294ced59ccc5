"""Tells whether guests can be run on this machine, and why not."""

from __future__ import annotations

import os
import platform
import shutil

from tests.vm.guest.image import find_image
from tests.vm.guest.tools import SEARCH_PATH

# What to run a guest, and what only to build its image; the packages are in host-packages.txt.
NEEDED_TO_RUN = ("qemu-system-x86_64", "qemu-img", "mkfs.ext4", "setpriv")
NEEDED_TO_BUILD = ("mmdebstrap", "chroot")


def vm_unavailable_reason() -> str | None:
    """Return why the tests in guests cannot run here, in one sentence, or None when they can."""
    if platform.machine() != "x86_64":
        return f"needs an x86-64 machine, which {platform.machine()} is not"
    has_image = find_image() is not None
    needed = NEEDED_TO_RUN if has_image else (*NEEDED_TO_RUN, *NEEDED_TO_BUILD)
    missing = [name for name in needed if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        return f"needs {', '.join(missing)}: run scripts/prepare vm"
    if not has_image and os.geteuid() != 0:
        return "needs root, to build the guest's image once"
    return None
