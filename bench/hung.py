"""A stand-in volume on a disk of its own, which can be made to take nothing any more.

A write to the volume waits then, and whatever is read of it afterwards, as of a device that hangs.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from agent.node.standins import files

WAIT_S = 60.0


@contextmanager
def disk_of_its_own(base: Path, image: Path, size_bytes: int) -> Iterator[Path]:
    """Have ``image`` be a file of zeros on a disk of its own, and give where that is mounted."""
    disk, place = base / "disk", base / "mounted-disk"
    place.mkdir()
    disk.touch()
    os.truncate(disk, 2 * size_bytes)
    _run("mkfs.ext4", "-q", disk)
    _run("mount", "-o", "loop", disk, place)
    file = place / image.name
    file.touch()
    os.truncate(file, size_bytes)
    image.touch()
    _run("mount", "--bind", file, image)
    try:
        yield place
    finally:
        files.release_directory(str(image.parent))
        _unmount(image)
        image.unlink()
        _unmount(place)


@contextmanager
def hanging(place: Path, path: Path) -> Iterator[None]:
    """Have the volume that is mounted at ``path`` hang, whose disk is the one mounted at ``place``."""
    _run("fsfreeze", "--freeze", place)
    writer = psutil.Popen(["sh", "-c", 'echo > "$0/file"; exec sync -f "$0"', path])
    try:
        deadline = time.monotonic() + WAIT_S
        while writer.status() != psutil.STATUS_DISK_SLEEP:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{path} does not hang")
            time.sleep(0.05)
        yield
    finally:
        _run("fsfreeze", "--unfreeze", place)
        writer.wait(WAIT_S)


def _unmount(path: Path) -> None:
    """Unmount what is mounted there, where whoever ended the agent has not done so."""
    if os.path.ismount(path):
        _run("umount", path)


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
