"""What the kernel says of its block devices, in sysfs and procfs. Asks no device, so it cannot stall.

A look reads some hundred attributes, and every volume is looked at and sampled once a minute: so paths are
strings here, and a file is a descriptor.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from agent.core.model import DeviceNumber

SYSFS = Path("/sys")
PROC = Path("/proc")

SECTOR_BYTES = 512
"""The unit of every size and start in sysfs, whatever the device's own sectors are."""

_ATTRIBUTE_BYTES = 4096
"""An attribute of sysfs is a page at most."""
_PARTITIONS_FIELDS = 4
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.EINVAL}


def locate(number: DeviceNumber, sysfs: Path = SYSFS) -> str:
    """Return the directory of a block device, whatever its name is."""
    return f"{sysfs}/dev/block/{number.major}:{number.minor}"


def read_attribute(path: str) -> str | None:
    """Return an attribute without its newline; None where there is none, or its device went away meanwhile.

    Bytes that are not UTF-8 come out as surrogate escapes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(fd, _ATTRIBUTE_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    return os.fsdecode(content).rstrip("\n")


def read_integer(path: str) -> int | None:
    """Return an attribute that is a whole number from 0 on; None where there is none."""
    text = read_attribute(path)
    return int(text) if text is not None and text.isdecimal() else None


def read_device_number(path: str) -> DeviceNumber | None:
    """Return an attribute such as ``dev``, ``259:3``; None where there is none."""
    major, _, minor = (read_attribute(path) or "").partition(":")
    return DeviceNumber(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def list_names(directory: str) -> frozenset[str]:
    """Return what is in a directory; nothing where it is gone."""
    try:
        return frozenset(os.listdir(directory))  # noqa: PTH208 -- a Path for each name costs most of a look
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def find_name(number: DeviceNumber, sysfs: Path = SYSFS) -> str | None:
    """Return the kernel's name of a block device, ``nvme1n1``; None where it has gone, and for that alone."""
    try:
        return os.readlink(locate(number, sysfs)).rpartition("/")[2]  # noqa: PTH115 -- see the module
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_block_numbers(proc: Path = PROC) -> dict[str, DeviceNumber]:
    """Return the numbers of block devices by name, as ``/proc/partitions`` has them in one read.

    It leaves out what has no size: a loop device without a file, a drive without a medium.
    """
    numbers = {}
    for line in (proc / "partitions").read_text("utf-8", "surrogateescape").splitlines():
        words = line.split()
        if len(words) == _PARTITIONS_FIELDS and words[0].isdecimal() and words[1].isdecimal():
            numbers[words[3].replace("/", "!")] = DeviceNumber(int(words[0]), int(words[1]))
    return numbers
