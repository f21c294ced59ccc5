"""mkfs and checks with the real tools, on devices they are given as a descriptor."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.errors import AgentError
from agent.core.model import FsType, Reason
from agent.node.filesystem.fsck import check_filesystem
from agent.node.filesystem.mkfs import make_filesystem
from agent.node.isolate import programs
from tests.corpus.tools import digest, run
from tests.loop.disks import MIB, Bench, Disk

pytestmark = pytest.mark.anyio
every_type = pytest.mark.parametrize("fs_type", list(FsType))


def probe(disk: Disk) -> dict[str, str]:
    pairs = run("blkid", "--probe", "--output", "export", disk.path).splitlines()
    return dict(pair.split("=", 1) for pair in pairs)


def digest_of(disk: Disk) -> str:
    os.fsync(disk.fd)
    return digest(disk.image)


@contextlib.contextmanager
def mounted(bench: Bench, disk: Disk) -> Iterator[Path]:
    place = bench.directory / "plain"
    place.mkdir(exist_ok=True)
    run("mount", disk.path, place)
    try:
        yield place
    finally:
        run("umount", place)


@every_type
async def test_makes_what_is_asked_on_the_descriptor(bench: Bench, fs_type: FsType) -> None:
    """Type, UUID and label are as chosen, the check passes, and the filesystem mounts and holds data."""
    disk = bench.add_disk()
    chosen = str(uuid.uuid4())
    await make_filesystem(disk.fd, fs_type, uuid=chosen, label="ckpt")
    found = probe(disk)
    assert (found["TYPE"], found["UUID"], found["LABEL"]) == (fs_type.value, chosen, "ckpt")
    assert (await check_filesystem(disk.fd, fs_type)).is_clean
    with mounted(bench, disk) as place:
        (place / "file").write_text("kept")
    with mounted(bench, disk) as place:
        assert (place / "file").read_text() == "kept"


@every_type
async def test_device_path_plays_no_part(bench: Bench, fs_type: FsType) -> None:
    """The tool writes to what the descriptor pins, wherever any path leads."""
    disk, bystander = bench.add_disk(), bench.add_disk()
    before = digest_of(bystander)
    await make_filesystem(disk.fd, fs_type, uuid=str(uuid.uuid4()))
    assert probe(disk)["TYPE"] == fs_type.value
    assert digest_of(bystander) == before


@pytest.mark.parametrize("fs_type", [FsType.XFS, FsType.BTRFS])
async def test_recognised_contents_are_refused_by_mkfs_itself(bench: Bench, fs_type: FsType) -> None:
    """Even if all the agent's own checks failed, mkfs.xfs and mkfs.btrfs leave another filesystem alone."""
    disk = bench.add_disk()
    disk.make(FsType.EXT4)
    before = digest_of(disk)
    with pytest.raises(AgentError, match=f"mkfs.{fs_type}"):
        await make_filesystem(disk.fd, fs_type, uuid=str(uuid.uuid4()))
    with pytest.raises(AgentError, match=f"mkfs.{fs_type}"):
        await make_filesystem(disk.fd, fs_type, uuid=str(uuid.uuid4()), is_resuming=True)
    assert digest_of(disk) == before


@every_type
@pytest.mark.parametrize("is_resuming", [False, True])
async def test_mounted_device_is_refused(bench: Bench, fs_type: FsType, is_resuming: bool) -> None:  # noqa: FBT001
    """Nothing is made on a device that someone mounted meanwhile."""
    disk = bench.add_disk()
    chosen = disk.make(fs_type)
    with mounted(bench, disk) as place:
        (place / "file").write_text("kept")
        with pytest.raises(AgentError):
            await make_filesystem(disk.fd, fs_type, uuid=chosen, is_resuming=is_resuming)
        assert (place / "file").read_text() == "kept"
    assert probe(disk)["UUID"] == chosen


@every_type
async def test_exclusively_held_device_is_refused(bench: Bench, fs_type: FsType) -> None:
    """Nothing is made on a device that someone opened for himself, as device-mapper and mkfs do."""
    disk = bench.add_disk()
    held = os.open(disk.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    try:
        with pytest.raises(AgentError):
            await make_filesystem(disk.fd, fs_type, uuid=str(uuid.uuid4()))
    finally:
        os.close(held)


@every_type
async def test_interrupted_format_is_taken_up(bench: Bench, fs_type: FsType) -> None:
    """Made again with the same UUID over what a run before left, the filesystem is sound and mounts."""
    disk = bench.add_disk()
    chosen = str(uuid.uuid4())
    await make_filesystem(disk.fd, fs_type, uuid=chosen)
    await make_filesystem(disk.fd, fs_type, uuid=chosen, label="again", is_resuming=True)
    assert (probe(disk)["UUID"], probe(disk)["LABEL"]) == (chosen, "again")
    assert (await check_filesystem(disk.fd, fs_type)).is_clean
    with mounted(bench, disk) as place:
        (place / "file").write_text("x")


@every_type
async def test_unused_uuid_need_not_be_unique(bench: Bench, fs_type: FsType) -> None:
    """Making a filesystem asks no other device anything, so a stalled one, or a copy, is not in the way."""
    copy, disk = bench.add_disk(), bench.add_disk()
    chosen = copy.make(fs_type)
    await make_filesystem(disk.fd, fs_type, uuid=chosen)
    assert probe(disk)["UUID"] == chosen


async def test_fast_ext4_writes_little(bench: Bench) -> None:
    """A large volume is not zeroed: its tables are left to the kernel, in the background."""
    disk = bench.add_disk(200 * 1024 * MIB)
    await make_filesystem(disk.fd, FsType.EXT4, uuid=str(uuid.uuid4()))
    assert disk.image.stat().st_blocks * 512 < 32 * MIB


@every_type
async def test_filesystem_left_in_use_is_checked_clean(bench: Bench, fs_type: FsType) -> None:
    """What a power loss leaves is replayed from its log and passes; nobody has to repair anything."""
    disk = bench.add_disk()
    disk.make(fs_type)
    with mounted(bench, disk) as place:
        (place / "file").write_text("x" * 100_000)
        run("sync", "--file-system", place)
        (place / "late").write_text("y")
        run("xfs_io", "-c", "fsync", place / "late")
        copy = bench.copy_disk(disk)
    assert (await check_filesystem(copy.fd, fs_type)).is_clean


async def test_xfs_with_much_in_its_log_is_checked_clean(bench: Bench) -> None:
    """Its log holds several MiB that are to be replayed; mounting brings all of it back."""
    disk = bench.add_disk()
    run("mkfs.xfs", "-q", "-l", "size=64m", disk.path)
    with mounted(bench, disk) as place:
        names = {f"{number:06}-of-a-job-that-was-cut-off" for number in range(25_000)}
        for name in names:
            (place / name).touch()
        run("xfs_io", "-x", "-c", "shutdown -f", place)
    told = run("xfs_logprint", "-t", disk.path)
    assert "state: <DIRTY>" in told
    assert len(told) > 2 * MIB
    assert (await check_filesystem(disk.fd, FsType.XFS)).is_clean
    with mounted(bench, disk) as place:
        assert {path.name for path in place.iterdir()} == names
    assert (await check_filesystem(disk.fd, FsType.XFS)).detail == "the log is clean"


def damage_ext4(disk: Disk) -> None:
    disk.write(4096, os.urandom(300 * 4096))


def damage_xfs(disk: Disk) -> None:
    told = run("xfs_db", "-r", "-c", "sb 0", "-c", "p logstart blocksize agblocks agblklog", disk.path)
    logstart, block, ag_blocks, ag_bits = (int(number) for number in re.findall(r"= (\d+)", told))
    log_block = (logstart >> ag_bits) * ag_blocks + (logstart & ((1 << ag_bits) - 1))
    disk.write(log_block * block, os.urandom(4 * MIB))


def damage_btrfs(disk: Disk) -> None:
    disk.write(65536 + 200, b"\xff")


@pytest.mark.parametrize(
    ("fs_type", "damage"),
    [(FsType.EXT4, damage_ext4), (FsType.XFS, damage_xfs), (FsType.BTRFS, damage_btrfs)],
)
async def test_damage_is_found_and_left_alone(
    bench: Bench, fs_type: FsType, damage: Callable[[Disk], None]
) -> None:
    """What cannot safely be mended is said to be damaged, in the tool's words."""
    disk = bench.add_disk()
    disk.make(fs_type)
    damage(disk)
    checked = await check_filesystem(disk.fd, fs_type)
    assert not checked.is_clean
    assert checked.detail


@every_type
async def test_lost_superblock_is_damage(bench: Bench, fs_type: FsType) -> None:
    """A device that does not hold the filesystem at all does not pass its check."""
    disk = bench.add_disk()
    disk.make(fs_type)
    disk.write(0, bytes(MIB))
    assert not (await check_filesystem(disk.fd, fs_type)).is_clean


@pytest.mark.parametrize("readable", [0, 4096, 32768, MIB], ids=str)
@every_type
async def test_unreadable_device_is_not_called_damaged(bench: Bench, fs_type: FsType, readable: int) -> None:
    """Behind the first ``readable`` bytes the device answers with errors: the filesystem may be whole."""
    disk = bench.add_disk()
    disk.make(fs_type)
    run("blockdev", "--flushbufs", disk.path)
    os.truncate(disk.image, readable)
    run("blockdev", "--flushbufs", disk.path)
    if fs_type is FsType.BTRFS and readable == MIB:
        assert (await check_filesystem(disk.fd, fs_type)).is_clean  # its superblock is all that is read
        return
    with pytest.raises(AgentError) as caught:
        await check_filesystem(disk.fd, fs_type)
    assert caught.value.reason is Reason.IO_ERRORS


async def test_check_of_a_mounted_filesystem_is_no_verdict(bench: Bench) -> None:
    """e2fsck refuses what is mounted, and that says nothing about the filesystem."""
    disk = bench.add_disk()
    disk.make(FsType.EXT4)
    with mounted(bench, disk), pytest.raises(AgentError) as caught:
        await check_filesystem(disk.fd, FsType.EXT4)
    assert caught.value.reason is Reason.DEVICE_BUSY


async def test_nothing_was_abandoned() -> None:
    """All the programs these tests ran were reaped."""
    assert not programs.abandoned.waiting
