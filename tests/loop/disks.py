"""Disks to test on: loop devices over sparse files, and mounts below a directory of root's own."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.model import DeviceNumber, FsType
from agent.node.filesystem.mount import MountRequest
from agent.node.kernel.mountinfo import read_mounts
from tests.corpus.tools import run

MIB = 1 << 20


@dataclass
class Disk:
    """One loop device, held open as the agent pins a device."""

    path: str
    image: Path
    fd: int

    @property
    def number(self) -> DeviceNumber:
        rdev = os.fstat(self.fd).st_rdev
        return DeviceNumber(os.major(rdev), os.minor(rdev))

    @property
    def size_bytes(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_END)

    def resize(self, size_bytes: int) -> None:
        os.truncate(self.image, size_bytes)
        run("losetup", "--set-capacity", self.path)

    def write(self, offset: int, content: bytes) -> None:
        os.pwrite(self.fd, content, offset)
        os.fsync(self.fd)

    def make(self, fs_type: FsType, fs_uuid: str | None = None) -> str:
        """Make a filesystem with plain mkfs and return its UUID."""
        chosen = fs_uuid or str(uuid.uuid4())
        argv = {
            FsType.EXT4: ("mkfs.ext4", "-q", "-U", chosen),
            FsType.XFS: ("mkfs.xfs", "-q", "-m", f"uuid={chosen}"),
            FsType.BTRFS: ("mkfs.btrfs", "-q", "-U", chosen),
        }[fs_type]
        run(*argv, self.path)
        return chosen


@dataclass
class Bench:
    """Where a test makes its disks and mounts; all of them are gone after it."""

    directory: Path
    disks: list[Disk] = field(default_factory=list)
    parts: list[Disk] = field(default_factory=list)

    @property
    def root(self) -> str:
        """The allowed root of this test's mounts."""
        return str(self.directory / "mnt")

    def add_disk(self, size_bytes: int = 320 * MIB, *options: str) -> Disk:
        """Attach a new empty disk; 320 MiB is about the least that mkfs.xfs takes."""
        image = self.new_image()
        with image.open("wb") as file:
            file.truncate(size_bytes)
        return self._attach(image, *options)

    def copy_disk(self, disk: Disk) -> Disk:
        """Attach a disk that holds what another one holds now, as after a power loss."""
        image = self.new_image()
        run("cp", "--sparse=always", disk.image, image)
        return self._attach(image)

    def add_partitioned(self, label: str) -> tuple[Disk, Disk]:
        """Attach a disk of 400 MiB with one partition of 340; return it, and the partition as a disk."""
        disk = self.add_disk(400 * MIB, "--partscan")
        table = self.directory / "table"
        table.write_text(f"label: {label}\nstart=2048, size={340 * MIB // 512}\n")
        run("sh", "-c", f"sfdisk --quiet {disk.path} <{table}")
        # Small kernels know no partition tables, yet take partitions that they are told of.
        run("partx", "--update", disk.path)
        path = f"{disk.path}p1"
        part = Disk(path, disk.image, os.open(path, os.O_RDWR | os.O_CLOEXEC))
        self.parts.append(part)
        return disk, part

    def new_image(self) -> Path:
        return self.directory / f"disk-{len(self.disks)}.img"

    def _attach(self, image: Path, *options: str) -> Disk:
        path = run("losetup", "--find", "--show", *options, image).strip()
        disk = Disk(path, image, os.open(path, os.O_RDWR | os.O_CLOEXEC))
        self.disks.append(disk)
        return disk

    def request(
        self,
        disk: Disk,
        fs_type: FsType,
        fs_uuid: str,
        name: str = "data",
        options: tuple[str, ...] = ("nosuid", "nodev"),
    ) -> MountRequest:
        """Return the request to mount a disk below this test's allowed root."""
        path = f"{self.root}/{name}"
        return MountRequest(disk.path, disk.number, fs_type, fs_uuid, path, (self.root,), options)

    def clear(self) -> None:
        inside = f"{self.directory}/"
        for mount in reversed(read_mounts()):
            if mount.path.startswith(inside):
                run("umount", "--lazy", mount.path)
        for part in self.parts:
            os.close(part.fd)
        for disk in self.disks:
            with contextlib.suppress(OSError):
                os.close(disk.fd)
            run("losetup", "--detach", disk.path)


@contextlib.contextmanager
def open_bench(directory: Path) -> Iterator[Bench]:
    bench = Bench(directory)
    try:
        yield bench
    finally:
        bench.clear()
