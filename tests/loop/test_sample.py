"""What a sample finds out about real filesystems: one that met an error, one on a partition among others."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.model import DeviceNumber, Filesystem, FsType
from agent.node.kernel.mountinfo import read_mounts
from agent.node.sampling.mount_sample import has_refused_writes, read_error_count, sample_mount
from agent.node.sampling.sample import _probe
from agent.node.standins import loop_device
from agent.node.volume_session.inspect import LookRequest, look_at
from tests.agent_process import MIB
from tests.corpus.tools import run
from tests.loop.devices import attached, identify, opened
from tests.waiting import wait_until


@contextmanager
def mounted(source: str, path: Path, *arguments: str) -> Iterator[None]:
    """Mount something while the context lasts."""
    path.mkdir()
    run("mount", *arguments, source, str(path))
    try:
        yield
    finally:
        run("umount", "--lazy", str(path))


@contextmanager
def mounted_image(image: Path, path: Path, options: str) -> Iterator[str]:
    """Give the device of a new ext4 in ``image``, mounted at ``path`` since an earlier second."""
    with attached(image, 128 * MIB) as device:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", device)
        with mounted(device, path, "-o", options):
            now = int(time.time())
            wait_until(lambda: time.time() >= now + 1, "a second passed")
            yield device


def test_failed_write_of_the_filesystem_is_no_failed_read(tmp_path: Path) -> None:
    """Its journal is on the part of the device that is gone; the first block is read as ever."""
    path, image = tmp_path / "mount", tmp_path / "image"
    with mounted_image(image, path, "errors=continue") as device, opened(device) as (fd, _):
        with (path / "file").open("wb", buffering=0) as file:
            os.truncate(image, 32 * MIB)
            loop_device.update_size(device)
            file.write(b"to be written")
            with pytest.raises(OSError, match="Input/output error"):
                os.fsync(file)
        assert _probe(fd)[0] is None


def look(device: str) -> tuple[bool, int | None]:
    """Return whether writes are refused by what can be read, and the errors counted."""
    fd = os.open(device, os.O_RDONLY)
    try:
        number = os.fstat(fd).st_rdev
        name = DeviceNumber(os.major(number), os.minor(number))
        return has_refused_writes(fd, name), read_error_count("ext4", name)
    finally:
        os.close(fd)


def takes_writes(path: Path) -> bool:
    try:
        (path / "try").touch()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "is_writable"), [("errors=remount-ro", False), ("errors=continue", True)]
)
def test_error_that_ends_writing_and_one_that_does_not(
    tmp_path: Path, options: str, *, is_writable: bool
) -> None:
    """After an error it takes no writes where its options say so, and that is known without trying."""
    path = tmp_path / "mount"
    with mounted_image(tmp_path / "image", path, options) as device:
        assert look(device) == (False, 0)
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("for the test")
        wait_until(lambda: look(device)[1] == 1, "the error was counted")
        assert look(device)[0] is not is_writable
        assert takes_writes(path) is is_writable


def test_journal_that_cannot_be_written(tmp_path: Path) -> None:
    """One whose journal cannot be written takes no writes, whatever its options, and that is known too."""
    small, path = tmp_path / "small", tmp_path / "mount"
    with (
        mounted("tmpfs", small, "-t", "tmpfs", "-o", "size=24m"),
        mounted_image(small / "image", path, "errors=continue") as device,
    ):
        # The image is sparse: what is written to it next finds no room.
        subprocess.run(["sh", "-c", f"cat /dev/zero > {small}/rest"], check=False, stderr=subprocess.DEVNULL)
        write = f"for n in 1 2 3 4 5 6; do head -c 3M /dev/urandom > {path}/$n; sync -f {path}; done"
        subprocess.run(["sh", "-c", write], check=False, stderr=subprocess.DEVNULL)
        assert not takes_writes(path)
        assert look(device)[0]


def test_error_of_an_earlier_mount(tmp_path: Path) -> None:
    """What happened before it was mounted says nothing about now."""
    image, path = tmp_path / "image", tmp_path / "mount"
    with mounted_image(image, path, "errors=remount-ro") as device:
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("for the test")
        # The kernel writes an error down some time after it.
        wait_until(lambda: look(device)[0], "the error was written down")
    with attached(image) as device, mounted(device, tmp_path / "again", "-o", "errors=remount-ro"):
        assert look(device) == (False, 1)
        assert takes_writes(tmp_path / "again")


@pytest.mark.needs("addpart", "delpart")
@pytest.mark.parametrize("kind", [FsType.EXT4, FsType.BTRFS])
def test_filesystem_on_one_of_two_partitions(tmp_path: Path, kind: FsType) -> None:
    """A look and a sample take the partition that is mounted, also of btrfs, which invents its number."""
    path = tmp_path / "mount"
    with attached(tmp_path / "image", 400 * MIB) as disk:
        for number, start in ((1, 1), (2, 151)):
            run("addpart", disk, str(number), str(start * 2048), str(150 * 2048))
        try:
            loop_device.make_partition_nodes(disk)
            run(f"mkfs.{kind.value}", "-q", f"{disk}p2")
            with mounted(f"{disk}p2", path), opened(disk) as (fd, device):
                request = LookRequest(
                    disk, identify, lambda _: True, tmp_path, boot_id="boot", wanted_path=str(path)
                )
                content = look_at(fd, request).content
                sample, room_bytes = sample_mount(fd, device, str(path), read_mounts())
            assert isinstance(content, Filesystem)
            assert (content.partition, content.size_bytes) == (2, 150 * MIB)
            assert sample is not None
            assert (room_bytes, sample.spans_bytes) == (150 * MIB, 150 * MIB)
        finally:
            run("delpart", disk, "1")
            run("delpart", disk, "2")
