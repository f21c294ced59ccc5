"""Tells whether guests can be run on this machine, and why not."""

from __future__ import annotations

import os
import platform
import shutil

from tests.vm.guest.image import find_image

# What to run a guest, and what only to build its image; the packages are in host-packages.txt.
NEEDED_TO_RUN = ("qemu-system-x86_64", "qemu-img", "mkfs.ext4", "setpriv")
NEEDED_TO_BUILD = ("mmdebstrap", "chroot")


def vm_unavailable_reason() -> str | None:
    """Return why the tests in guests cannot run here, in one sentence, or None when they can."""
    if platform.machine() != "x86_64":
        return f"the guest is an x86-64 machine and this is {platform.machine()}"
    has_image = find_image() is not None
    needed = NEEDED_TO_RUN if has_image else (*NEEDED_TO_RUN, *NEEDED_TO_BUILD)
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: run scripts/prepare vm"
    if not has_image and os.geteuid() != 0:
        return "the guest's image is not built yet, which takes root"
    return None
