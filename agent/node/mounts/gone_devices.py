"""Whether the device beneath a mount is known to be gone: judged by numbers and names of the kernel's alone.

As long as a filesystem is mounted its device is open, and the kernel gives neither the number nor the name of
that device to another. Filesystems without a device of their own, and btrfs, have numbers of no device, which
are given out again as soon as they are unmounted: such a number tells nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from agent.core.model import DeviceNumber, Mount
from agent.node.kernel.sysfs import SYSFS, read_device_number

_NO_DEVICE = 0
"""The major of numbers that are of no device (UNNAMED_MAJOR in linux/major.h)."""
_KERNEL_NAME = re.compile(r"/dev/((?:nvme\d+n\d+|loop\d+)(?:p\d+)?)", re.ASCII)
"""What the kernel calls a volume. Any other name is a link, which may lead elsewhere by now, or be gone while
its device is there."""


def is_device_gone(mount: Mount, is_present: Callable[[DeviceNumber], bool], sysfs: Path = SYSFS) -> bool:
    """Tell whether what a mount stands on is gone. Where that cannot be told it is not.

    ``is_present`` tells whether there is a device of a number.
    """
    if mount.device_number.major != _NO_DEVICE:
        return not is_present(mount.device_number)
    named = _KERNEL_NAME.fullmatch(mount.source)
    if mount.fs_type != "btrfs" or named is None:
        return False
    number = read_device_number(f"{sysfs}/class/block/{named[1]}/dev")
    return number is None or not is_present(number)
