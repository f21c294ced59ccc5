"""Loop devices for tests: made from sparse files, and gone afterwards."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.model import Device, Identity, VolumeId
from agent.node.device import open_device as device
from agent.node.isolate.messages import Fd
from agent.node.standins import loop_device
from tests.corpus.tools import write

VOLUME = VolumeId("vol-0123456789abcdef0")
IDENTITY = Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0")


def identify(fd: int) -> Identity:
    """Take any device for one volume."""
    assert fd >= 0
    return IDENTITY


def flush(device: str) -> None:
    """Have all that was written to a device reach its image."""
    fd = os.open(device, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(device: str) -> Iterator[None]:
    """Hold udev's lock on a device, as udev does while it looks at it: whoever wants it waits."""
    fd = os.open(device, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_device(device: str, offset: int, content: bytes) -> None:
    """Write to a device, through to what is behind it; a negative offset counts from the end."""
    write(Path(device), offset, content)
    flush(device)


@contextmanager
def attached(image: Path, size_bytes: int | None = None) -> Iterator[str]:
    """Give the path of a loop device on ``image``, made or cut to ``size_bytes`` first."""
    if size_bytes is not None:
        with image.open("ab") as file:
            file.truncate(size_bytes)
    path = loop_device.attach_file(image)
    try:
        yield path
    finally:
        loop_device.detach(path)


@contextmanager
def opened(path: str) -> Iterator[tuple[Fd, Device]]:
    """Give a pinned device, taken for :data:`VOLUME`."""
    fd, found = device.open_device(path, identify)
    try:
        yield fd, found
    finally:
        fd.close()
