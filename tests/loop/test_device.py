"""Pinning, locking and claims on real block devices, through workers where the daemon does it that way."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import AgentError, RefusedError, VanishedError
from agent.core.model import Device, Identity, Reason
from agent.core.replace import replace
from agent.node.device import device_lock, open_device
from agent.node.device.foreign_use import find_exclusion
from agent.node.device.usage_facts import gather_surroundings
from agent.node.isolate.workers import Workers
from agent.node.kernel import nvme
from agent.node.kernel.mountinfo import read_mounts
from agent.node.standins import loop_device
from tests.corpus.tools import run
from tests.loop.devices import IDENTITY, attached, identify, opened
from tests.mount_namespaces import make_argv

MIB = 1 << 20
SIZE = 512 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with attached(tmp_path / "image", SIZE) as path:
        yield path


def test_device_is_what_the_kernel_says(disk: str) -> None:
    """Number, size and sequence number are the kernel's; a fresh device has no partitions and no holders."""
    with opened(disk) as (fd, found):
        rdev = Path(disk).stat().st_rdev
        assert found.device_number == (os.major(rdev), os.minor(rdev))
        assert (found.path, found.identity, found.size_bytes) == (disk, IDENTITY, SIZE)
        assert (found.partitions, found.holders, found.is_read_only) == ((), (), False)
        sequence = Path(f"/sys/dev/block/{found.device_number}/diskseq")
        assert found.diskseq == (int(sequence.read_text("ascii")) if sequence.exists() else None)
        open_device.verify_pin(fd, found, identify)


@pytest.mark.parametrize(
    ("attribute", "text", "why"),
    [
        ("diskseq", "next", "another disk"),
        ("diskseq", "0", "another disk"),
        ("{name}p1/partition", "first", "p1 went away"),
        ("{name}p1/partition", "", "p1 went away"),
    ],
)
def test_what_sysfs_says_must_make_sense(
    tmp_path: Path, disk: str, attribute: str, text: str, why: str
) -> None:
    """A sequence number that is not the device's, or a partition without a number, is nothing to go by."""
    name = Path(disk).name
    node = tmp_path / name
    (node / f"{name}p1").mkdir(parents=True)
    (tmp_path / "dev/block").mkdir(parents=True)
    with opened(disk) as (fd, found):
        if found.diskseq is None:
            pytest.skip("this kernel numbers no disks")
        (tmp_path / "dev/block" / str(found.device_number)).symlink_to(node)
        assert open_device.observe_device(fd, disk, identify, tmp_path) == found
        (node / attribute.format(name=name)).write_text(text)
        with pytest.raises(VanishedError, match=why):
            open_device.observe_device(fd, disk, identify, tmp_path)


def test_appearance_is_that_of_the_open_device_until_it_changes(tmp_path: Path, disk: str) -> None:
    """By what the kernel says of a path, a disk is the one that was asked, has grown, or is none."""
    with opened(disk) as (_, found):
        assert open_device.read_appearance(disk) == (found.diskseq, SIZE)
        assert open_device.read_noted_diskseq(found.device_number) == found.diskseq
    os.truncate(tmp_path / "image", 2 * SIZE)
    loop_device.update_size(disk)
    assert open_device.read_appearance(disk) == (found.diskseq, 2 * SIZE)
    with attached(tmp_path / "other", SIZE) as other, opened(other) as (_, another):
        assert open_device.read_appearance(other) == (another.diskseq, SIZE)
    assert open_device.read_appearance("/dev/nothing") == (None, None)


def test_path_without_a_device(tmp_path: Path) -> None:
    """A path that is gone has vanished; a file, a FIFO, a link or a character device is refused unopened."""
    with pytest.raises(VanishedError):
        open_device.open_device(str(tmp_path / "gone"), identify)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/loop0")
    for path in (tmp_path / "file", tmp_path / "fifo", tmp_path / "link", Path("/dev/null")):
        with pytest.raises(RefusedError, match="no block device"):
            open_device.open_device(str(path), identify)


def test_node_without_a_device(tmp_path: Path) -> None:
    """A device node whose device is gone has vanished, and the descriptor is not left open."""
    os.mknod(tmp_path / "node", stat.S_IFBLK | 0o600, os.makedev(259, 1 << 19))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(VanishedError):
        open_device.open_device(str(tmp_path / "node"), identify)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_block_device_that_is_no_nvme_is_not_identified(disk: str) -> None:
    """A disk that does not answer Identify has no identity, and is an error rather than a guess."""
    with pytest.raises(AgentError, match="does not take NVMe admin command") as caught:
        open_device.open_device(disk, nvme.identify)
    assert caught.value.reason is Reason.PROBE_FAILED


def test_changed_size_breaks_the_pin(disk: str, tmp_path: Path) -> None:
    """A device that grew is no longer the one that was proven."""
    with opened(disk) as (fd, found):
        os.truncate(tmp_path / "image", 2 * SIZE)
        loop_device.update_size(disk)
        with pytest.raises(VanishedError, match="size"):
            open_device.verify_pin(fd, found, identify)


def test_other_identity_breaks_the_pin(disk: str) -> None:
    """A device that says it is another volume is not the one that was looked at."""
    with opened(disk) as (fd, found):
        other = replace(IDENTITY, serial="vol0123456789abcdef1")
        with pytest.raises(VanishedError, match="volume"):
            open_device.verify_pin(fd, found, lambda _: other)


def test_other_file_behind_the_node_breaks_the_pin(disk: str) -> None:
    """A node that leads to another disk by now is noticed, though name, number and size are the same."""
    with opened(disk) as (fd, found):
        if found.diskseq is None:
            pytest.skip("this kernel has no disk sequence numbers")
        later = replace(found, diskseq=found.diskseq + 1)
        with pytest.raises(VanishedError, match="disk sequence number"):
            open_device.verify_pin(fd, later, identify)


@pytest.mark.needs("addpart", "delpart")
def test_partition_breaks_the_pin_and_is_no_volume(disk: str) -> None:
    """A partition that appears meanwhile is noticed; it is listed with its place, and is itself no volume."""
    with opened(disk) as (fd, found):
        run("addpart", disk, "1", "2048", "4096")
        try:
            with pytest.raises(VanishedError, match="partitions"):
                open_device.verify_pin(fd, found, identify)
            (part,) = open_device.observe_device(fd, disk, identify).partitions
            assert (part.number, part.start_bytes, part.size_bytes) == (1, MIB, 2 * MIB)
            assert part.path == f"{disk}p1"
            loop_device.make_partition_nodes(disk)
            with pytest.raises(RefusedError, match="is a partition"):
                open_device.open_device(part.path, identify)
        finally:
            run("delpart", disk, "1")


async def test_lock_taken_in_a_worker_is_held_by_the_daemon(disk: str) -> None:
    """The lock outlives the worker that took it, and ends when the daemon closes the descriptor."""
    async with Workers() as workers:
        fd, _ = await workers.call(open_device.open_device, disk, identify, timeout_s=60, subject="a")
        await workers.call(device_lock.lock_device, fd, timeout_s=60, subject="a")
        other = os.open(disk, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        await workers.close(fd, subject="a")
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(other)


def test_lock_of_another_program_is_waited_for_and_then_refused(disk: str) -> None:
    """Another's lock is waited for a while; one that stays is a busy device."""
    with opened(disk) as (fd, _), Path(disk).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        start = time.monotonic()
        with pytest.raises(RefusedError) as caught:
            device_lock.lock_device(fd, 0.3)
        assert time.monotonic() - start >= 0.3
        assert caught.value.reason is Reason.DEVICE_BUSY
        fcntl.flock(other, fcntl.LOCK_UN)
        device_lock.lock_device(fd)


def test_claim_of_anyone_is_noticed(disk: str, tmp_path: Path) -> None:
    """A mount in another namespace and a program's exclusive descriptor are claims; asking is none."""
    with opened(disk) as (fd, _):
        device_lock.refuse_claimed(fd)
        exclusive = os.open(disk, os.O_RDONLY | os.O_EXCL)
        with pytest.raises(RefusedError, match="claimed"):
            device_lock.refuse_claimed(fd)
        os.close(exclusive)
        run("mkfs.ext4", "-q", disk)
        script = f"mount {disk} {tmp_path} && echo ready && read -r line"
        with subprocess.Popen(
            make_argv(tmp_path, "sh", "-c", script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as stranger:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "ready\n"
            with pytest.raises(RefusedError, match="claimed"):
                device_lock.refuse_claimed(fd)
            stranger.communicate("\n")
        device_lock.refuse_claimed(fd)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_mount_of_someone_else_excludes(disk: str, tmp_path: Path, kind: str) -> None:
    """A filesystem mounted by hand keeps the agent off, also with btrfs's invented device number."""
    mountpoint = tmp_path / "mounted"
    mountpoint.mkdir()
    run(f"mkfs.{kind}", "-q", disk)
    with opened(disk) as (_, found):
        assert find_exclusion(found, gather_surroundings(read_mounts())) is None
        run("mount", disk, mountpoint)
        try:
            surroundings = gather_surroundings(read_mounts())
            exclusion = find_exclusion(found, surroundings, wanted_path="/data")
            assert exclusion is not None
            assert exclusion.reason is Reason.DEVICE_BUSY
            assert str(mountpoint) in exclusion.message
            assert find_exclusion(found, surroundings, wanted_path=str(mountpoint)) is None
        finally:
            run("umount", mountpoint)


def test_loop_device_on_the_device_excludes(disk: str) -> None:
    """Another loop device standing on the volume holds it."""
    with attached(Path(disk)) as upper, opened(disk) as (_, found):
        exclusion = find_exclusion(found, gather_surroundings(read_mounts()))
        assert exclusion is not None
        assert Path(upper).name in exclusion.message


def test_disk_of_this_machine_is_its_root() -> None:
    """The disk this very machine runs from is recognised, whatever its layout is."""
    surroundings = gather_surroundings(read_mounts())
    (*_, root) = (mount for mount in surroundings.mounts if mount.path == "/")
    disks = surroundings.closure(surroundings.devices_of(root)) & surroundings.blocks.keys()
    if not disks:
        pytest.skip("the root filesystem here is on no block device")
    for number in disks:
        name = surroundings.blocks[number].name
        found = Device(f"/dev/{name}", number, Identity(IDENTITY.volume_id, "", ""), 1)
        exclusion = find_exclusion(found, surroundings)
        assert exclusion is not None
        assert exclusion.reason is Reason.ROOT_DEVICE
