"""What is on a device, made by the real tools."""

from __future__ import annotations

import os
import random
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.model import Blank, Content, Filesystem, Foreign, FsType, Unknown
from agent.node.content import recognize
from agent.node.content.blankness import prove_blank
from agent.node.kernel import libblkid
from tests.corpus.tools import copy_into, digest, run
from tests.loop.devices import attached, opened, write_device

MIB = 1 << 20
GIB = 1 << 30
SIZE = 2 * GIB
UUID = str(uuid.uuid4())
"""Another one in each process: the kernel takes two filesystems with one UUID for the same."""

Make = Callable[[str], object]


def look(image: Path, make: Make, size_bytes: int = SIZE) -> Content:
    """Make something on a device, probe it, and hold that probing changed no byte."""
    with attached(image, size_bytes) as path:
        make(path)
        before = digest(image)
        with opened(path) as (fd, device):
            content = recognize.probe(fd, device)
        assert digest(image) == before
    return content


FILESYSTEMS: dict[FsType, list[str]] = {
    FsType.EXT4: ["mkfs.ext4", "-q", "-U", UUID, "-L", "ckpt"],
    FsType.XFS: ["mkfs.xfs", "-q", "-m", f"uuid={UUID}", "-L", "ckpt"],
    FsType.BTRFS: ["mkfs.btrfs", "-q", "-U", UUID, "-L", "ckpt"],
}


@pytest.mark.parametrize("kind", FsType)
def test_known_filesystem(tmp_path: Path, kind: FsType) -> None:
    """A filesystem the agent knows is told with UUID, label and size."""
    content = look(tmp_path / "image", lambda path: run(*FILESYSTEMS[kind], path))
    assert isinstance(content, Filesystem)
    assert (content.type, content.uuid, content.label, content.size_bytes) == (kind, UUID, "ckpt", SIZE)
    assert (content.partition, content.has_errors) == (None, False)


BLANK_SIZES = [MIB, 100 * MIB + 512, GIB, GIB + 512, 2 * GIB, 100 * GIB]


@pytest.mark.parametrize("size_bytes", BLANK_SIZES)
def test_truly_blank_volume_is_blank(tmp_path: Path, size_bytes: int) -> None:
    """Zeros of any size are blank; up to 1 GiB because every byte was read."""
    content = look(tmp_path / "image", lambda _: None, size_bytes)
    assert isinstance(content, Blank)
    assert content.is_whole == (size_bytes <= GIB)


def write_content(offset: int, content: bytes) -> Make:
    return lambda path: write_device(path, offset, content)


def make_filesystem(kind: FsType) -> Make:
    return lambda path: run(*FILESYSTEMS[kind], path)


def both(first: Make, second: Make) -> Make:
    return lambda path: (first(path), second(path))


FOREIGN: dict[str, tuple[Make, str]] = {
    "ext2": (lambda path: run("mkfs.ext4", "-q", "-t", "ext2", path), "ext2"),
    "ext3": (lambda path: run("mkfs.ext4", "-q", "-t", "ext3", path), "ext3"),
    "swap": (lambda path: run("mkswap", path), "swap"),
    "gpt": (lambda path: run("sgdisk", "-o", path), "gpt"),
    "gpt with two": (lambda path: run("sgdisk", "-n", "1::+100M", "-n", "2::+100M", path), "2 partitions"),
    "gpt, primary gone": (
        both(lambda path: run("sgdisk", "-n", "1::+100M", path), write_content(0, bytes(17408))),
        "",
    ),
    "ext4 journal": (lambda path: run("mkfs.ext4", "-q", "-O", "journal_dev", path, "16384"), "jbd"),
    "one byte at the head": (write_content(0, b"\1"), "data at byte 0"),
    "one byte at the tail": (write_content(SIZE - 1, b"\1"), f"data at byte {SIZE - 1}"),
    "backup superblock of ext4": (write_content(128 * MIB + 56, b"\1"), f"data at byte {128 * MIB + 56}"),
    "second mirror of btrfs": (write_content(64 * MIB + 64, b"\1"), f"data at byte {64 * MIB + 64}"),
    "data at 200 MiB": (write_content(200 * MIB, os.urandom(2 * MIB)), "data at byte"),
    "ext4, first 4 KiB gone": (
        both(make_filesystem(FsType.EXT4), write_content(0, bytes(4096))),
        "data at byte 4096",
    ),
    "xfs, first MiB gone": (both(make_filesystem(FsType.XFS), write_content(0, bytes(MIB))), "data at byte"),
    "xfs, superblock damaged": (both(make_filesystem(FsType.XFS), write_content(200, b"\xff")), ""),
    "ext4 and squashfs": (
        both(make_filesystem(FsType.EXT4), lambda path: write_device(path, 0, make_squashfs_head())),
        "several signatures",
    ),
}


def make_squashfs_head() -> bytes:
    """The 96 bytes of a squashfs 4.0 superblock that its recognition needs."""
    return b"hsqs" + bytes(24) + b"\4\0\0\0" + bytes(64)


@pytest.mark.parametrize("name", FOREIGN)
def test_anything_else_is_foreign(tmp_path: Path, name: str) -> None:
    """Whatever else is on a device, whole, damaged or a single byte, it is never blank and never usable."""
    make, words = FOREIGN[name]
    content = look(tmp_path / "image", make)
    assert isinstance(content, Foreign)
    assert words in content.what


def test_second_device_of_btrfs_is_foreign(tmp_path: Path) -> None:
    """One device of a btrfs filesystem on two is no filesystem to mount alone."""
    with attached(tmp_path / "other", SIZE) as other:
        content = look(tmp_path / "image", lambda path: run("mkfs.btrfs", "-q", path, other))
    assert isinstance(content, Foreign)
    assert "2 devices" in content.what


def test_what_was_recognized_is_confirmed_or_looked_for_anew(tmp_path: Path) -> None:
    """A filesystem seen a moment ago is the same, another, or gone: by what is on the device now."""
    with attached(tmp_path / "image", SIZE) as path:
        run(*FILESYSTEMS[FsType.EXT4], path)
        with opened(path) as (fd, device):
            known = recognize.recognize(fd, device)
            assert isinstance(known, Filesystem)
            assert recognize.recognize(fd, device, known) == known
            run("tune2fs", "-L", "other", path)
            relabelled = recognize.recognize(fd, device, known)
            assert isinstance(relabelled, Filesystem)
            assert relabelled.label == "other"
            write_device(path, 1024, bytes(1024))
            assert recognize.recognize(fd, device, relabelled) is None
            run(*FILESYSTEMS[FsType.XFS], "-f", path)
            found = recognize.recognize(fd, device, relabelled)
            assert isinstance(found, Filesystem)
            assert found.type is FsType.XFS


def test_what_was_recognized_in_a_partition_that_is_gone_is_not_confirmed(tmp_path: Path) -> None:
    """Where the partition is not any more, its filesystem is none."""
    with attached(tmp_path / "image", SIZE) as path, opened(path) as (fd, device):
        known = Filesystem(FsType.EXT4, UUID, partition=1)
        assert recognize.recognize(fd, device, known) is None


def test_read_errors_are_unknown(tmp_path: Path) -> None:
    """A device whose tail cannot be read is unknown, though all that could be read was zero."""
    image = tmp_path / "image"
    with attached(image, SIZE) as path, opened(path) as (fd, device):
        # The loop device keeps its size, and reads beyond the file's end fail with EIO.
        os.truncate(image, SIZE - 4 * MIB)
        content = recognize.probe(fd, device)
    assert isinstance(content, Unknown)


def test_size_that_changes_is_unknown(tmp_path: Path) -> None:
    """A proof about another size than the device has proves nothing."""
    with attached(tmp_path / "image", SIZE) as path, opened(path) as (fd, device):
        assert isinstance(prove_blank(fd, device.size_bytes - MIB), Unknown)


def test_without_the_library_nothing_is_known(tmp_path: Path) -> None:
    """Where libblkid cannot be loaded, that is an error of its own and no absence of signatures."""
    with pytest.raises(libblkid.LibraryMissingError):
        libblkid.load_library(str(tmp_path / "libblkid.so.1"))


def test_reading_bypasses_the_page_cache(tmp_path: Path) -> None:
    """What is on the device counts, not what this kernel remembers of it."""
    image = tmp_path / "image"
    with attached(image, 64 * MIB) as path, opened(path) as (fd, device):
        assert os.pread(fd, MIB, 32 * MIB) == bytes(MIB)
        with image.open("r+b") as file:
            os.pwrite(file.fileno(), b"x" * 4096, 32 * MIB)
            os.fsync(file.fileno())
        assert os.pread(fd, 4096, 32 * MIB) == bytes(4096)
        content = prove_blank(fd, device.size_bytes)
    assert content == Foreign(f"data at byte {32 * MIB}", 32 * MIB, is_signed=False)


@pytest.mark.parametrize("size_tib", [1, 16, 64])
@pytest.mark.needs("mkfs.xfs")
def test_huge_blank_volume_is_proven_quickly(tmp_path: Path, size_tib: int) -> None:
    """Up to 64 TiB blankness is proven by the same 300 MiB."""
    holder, mountpoint = tmp_path / "holder", tmp_path / "mounted"
    mountpoint.mkdir()
    with attached(holder, 4 * GIB) as disk:
        run("mkfs.xfs", "-q", disk)
        run("mount", disk, mountpoint)
        try:
            with attached(mountpoint / "image", size_tib << 40) as path, opened(path) as (fd, device):
                content = recognize.probe(fd, device)
                dice = random.Random(1)  # noqa: S311 -- any place will do
                write_device(path, dice.randrange(16) * GIB, b"\1")
                # A power of two of GiB is read, other places only by chance.
                write_device(path, 512 * GIB, b"\1")
                assert isinstance(recognize.probe(fd, device), Foreign)
        finally:
            run("umount", mountpoint)
    assert isinstance(content, Blank)
    assert content.sampled_bytes < 300 * MIB


# -- Partitions ----------------------------------------------------------------------------------------------


def add_partition(path: str, start_bytes: int, size_bytes: int) -> None:
    """Tell the kernel of a partition, for kernels that read no partition tables themselves."""
    listed = run("partx", "--show", "--noheadings", "--output", "NR", path).split()
    assert listed == ["1"]
    subprocess.run(["delpart", path, "1"], check=False, capture_output=True)
    run("addpart", path, "1", str(start_bytes // 512), str(size_bytes // 512))


@pytest.mark.parametrize("kind", FsType)
@pytest.mark.parametrize("table", ["gpt", "dos"])
@pytest.mark.needs("partx", "addpart", "sfdisk")
def test_filesystem_on_the_only_partition(tmp_path: Path, kind: FsType, table: str) -> None:
    """A table whose only partition is one known filesystem is that filesystem, on its partition."""
    size_bytes = 512 * MIB
    image = tmp_path / "part"
    with attached(image, size_bytes) as part:
        run(*FILESYSTEMS[kind], part)

    def make(path: str) -> None:
        script = f"label: {table}\nstart={MIB // 512}, size={size_bytes // 512}\n"
        subprocess.run(
            ["/usr/sbin/sfdisk", "-q", path], input=script, text=True, check=True, capture_output=True
        )
        copy_into(Path(path), image, MIB)
        add_partition(path, MIB, size_bytes)

    content = look(tmp_path / "image", make)
    assert isinstance(content, Filesystem)
    assert (content.type, content.uuid, content.partition) == (kind, UUID, 1)
    assert content.size_bytes == size_bytes


@pytest.mark.needs("sfdisk")
def test_table_the_kernel_has_not_read_is_foreign(tmp_path: Path) -> None:
    """Where table and kernel disagree nobody can say what a partition is."""

    def make(path: str) -> None:
        run("sgdisk", "-n", "1", path)
        subprocess.run(["delpart", path, "1"], check=False, capture_output=True)

    content = look(tmp_path / "image", make)
    assert isinstance(content, Foreign)
    assert "not the one the kernel has read" in content.what
