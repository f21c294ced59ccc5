"""Growing while in use: filesystems by the kernel's ioctls, partitions under a mounted filesystem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.core.errors import AgentError
from agent.core.model import DeviceNumber, FsType, Reason
from agent.node.device.partition_steps import resize_kernel_partition
from agent.node.device.partition_table import grow_partition, read_table
from agent.node.filesystem import change_mount
from agent.node.filesystem.mount import MountRequest, mount_filesystem
from agent.node.kernel.mountinfo import find_top_mount, read_mounts
from tests.corpus.tools import run
from tests.loop.disks import MIB, Bench, Disk

_CAP_SYS_RESOURCE = 24
_SLACK_BYTES = 16 * MIB


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


needs_resource = pytest.mark.skipif(
    not has_capability(_CAP_SYS_RESOURCE), reason="ext4 grows for CAP_SYS_RESOURCE only"
)
every_type = pytest.mark.parametrize(
    "fs_type", [pytest.param(FsType.EXT4, marks=needs_resource), FsType.XFS, FsType.BTRFS]
)


def mount_new(
    bench: Bench, fs_type: FsType, size_bytes: int = 320 * MIB
) -> tuple[Disk, MountRequest, DeviceNumber]:
    disk = bench.add_disk(size_bytes)
    request = bench.request(disk, fs_type, disk.make(fs_type))
    mount_filesystem(request)
    return disk, request, see_number(request.path)


def see_number(path: str) -> DeviceNumber:
    mount = find_top_mount(read_mounts(), path)
    assert mount is not None
    return mount.device_number


@every_type
def test_grows_under_its_files(bench: Bench, fs_type: FsType) -> None:
    """The filesystem fills the grown device as far as the planner asks, and its files are as they were."""
    disk, request, number = mount_new(bench, fs_type)
    content = os.urandom(8 * MIB)
    (Path(request.path) / "file").write_bytes(content)
    before = change_mount.read_mounted_size_bytes(request.path, number, disk.fd, fs_type)
    disk.resize(777 * MIB)
    assert change_mount.read_mounted_size_bytes(request.path, number, disk.fd, fs_type) == before
    grown = change_mount.grow_mounted(request.path, number, disk.fd, fs_type)
    assert 0 <= disk.size_bytes - grown < _SLACK_BYTES
    assert change_mount.read_mounted_size_bytes(request.path, number, disk.fd, fs_type) == grown
    run("umount", request.path)
    run("mount", disk.path, request.path)
    assert (Path(request.path) / "file").read_bytes() == content


@pytest.mark.parametrize("fs_type", list(FsType))
def test_full_size_is_told_and_growing_it_changes_nothing(bench: Bench, fs_type: FsType) -> None:
    """A filesystem that fills its device says so, and growing it again is no error."""
    disk, request, number = mount_new(bench, fs_type)
    size_bytes = change_mount.read_mounted_size_bytes(request.path, number, disk.fd, fs_type)
    assert 0 <= disk.size_bytes - size_bytes < _SLACK_BYTES
    assert change_mount.grow_mounted(request.path, number, disk.fd, fs_type) == size_bytes


@pytest.mark.parametrize("fs_type", [FsType.XFS, FsType.BTRFS])
@pytest.mark.parametrize("extra_bytes", [4096, MIB, 5 * MIB + 512, 63 * MIB])
def test_odd_sizes_settle(bench: Bench, fs_type: FsType, extra_bytes: int) -> None:
    """Whatever the size, after growing once nothing is left that the planner would grow again."""
    disk, request, number = mount_new(bench, fs_type)
    disk.resize(disk.size_bytes + 128 * MIB + extra_bytes)
    grown = change_mount.grow_mounted(request.path, number, disk.fd, fs_type)
    assert disk.size_bytes - grown < _SLACK_BYTES
    assert change_mount.grow_mounted(request.path, number, disk.fd, fs_type) == grown


def test_refused_growth_says_why(bench: Bench) -> None:
    """A read-only filesystem does not grow, and the error says what to look at."""
    disk, request, number = mount_new(bench, FsType.XFS)
    change_mount.remount(request.path, number, ("ro",))
    disk.resize(512 * MIB)
    with pytest.raises(AgentError) as caught:
        change_mount.grow_mounted(request.path, number, disk.fd, FsType.XFS)
    assert caught.value.reason is Reason.NOT_GROWN
    assert caught.value.hint


# -- Partitions ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("label", ["gpt", "dos"])
async def test_mounted_partition_grows_with_its_filesystem(bench: Bench, label: str) -> None:
    """Table, kernel and filesystem grow under open files; all else stays; the old table is saved."""
    disk, part = bench.add_partitioned(label)
    request = bench.request(part, FsType.XFS, part.make(FsType.XFS))
    mount_filesystem(request)
    number = see_number(request.path)
    content = os.urandom(8 * MIB)
    (Path(request.path) / "file").write_bytes(content)
    disk.resize(800 * MIB)
    before = await read_table(disk.fd)
    saved = bench.directory / "state/tables/vol.sfdisk"
    with (Path(request.path) / "open").open("w"):
        entry = await grow_partition(disk.fd, 1, 798 * MIB, saved)
        resize_kernel_partition(disk.fd, 1, entry.start_bytes, entry.size_bytes)
        grown = change_mount.grow_mounted(request.path, number, part.fd, FsType.XFS)
    assert await read_table(disk.fd) == before.with_size(1, 798 * MIB)
    assert part.size_bytes == 798 * MIB
    assert 0 <= 798 * MIB - grown < _SLACK_BYTES
    assert f"label: {label}" in saved.read_text()
    if label == "gpt":
        assert "No problems found" in run("sgdisk", "--verify", disk.path)
    run("umount", request.path)
    run("mount", part.path, request.path)
    assert (Path(request.path) / "file").read_bytes() == content


@pytest.mark.anyio
async def test_kernel_keeps_a_partitions_start(bench: Bench) -> None:
    """The kernel refuses to move a partition, and an overlap, whoever asks."""
    disk, part = bench.add_partitioned("gpt")
    with pytest.raises(AgentError, match="did not take"):
        resize_kernel_partition(disk.fd, 1, 2 * MIB, 300 * MIB)
    assert part.size_bytes == 340 * MIB


@pytest.mark.anyio
async def test_saved_table_writes_back(bench: Bench) -> None:
    """What was saved before growing restores the table as it was."""
    disk, _ = bench.add_partitioned("gpt")
    before = await read_table(disk.fd)
    saved = bench.directory / "saved"
    await grow_partition(disk.fd, 1, 390 * MIB, saved)
    run("sh", "-c", f"sfdisk --quiet --no-reread {disk.path} <{saved}")
    assert await read_table(disk.fd) == before
