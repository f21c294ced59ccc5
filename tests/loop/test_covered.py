"""Volumes that something else hides: told as that, not usable, and what hides them is left alone."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import AgentError, CoveredError, RefusedError
from agent.core.model import FsType, Mount, Reason
from agent.node.filesystem import change_mount
from agent.node.filesystem.directories import open_mount_point
from agent.node.filesystem.mount import mount_filesystem
from agent.node.filesystem.try_write import begin_write, probe_write
from agent.node.kernel.mount_api import forget_btrfs_device
from agent.node.kernel.mountinfo import find_top_mount, read_mounts
from agent.node.sampling.mount_sample import sample_mount
from agent.node.volume_session.inspect import LookRequest, look_at
from tests.agent_process import AgentProcess, Scratch
from tests.corpus.tools import run
from tests.loop.devices import identify, opened
from tests.loop.disks import Bench, Disk

VOLUME = "vol-0123456789abcdef0"

COVERS = {
    "at its path": ("{path}", ("-t", "tmpfs", "none")),
    "at its parent": ("{parent}", ("-t", "tmpfs", "none")),
    "by a directory of its own": ("{path}", ("--bind", "{path}/sub")),
}
covered = pytest.mark.parametrize("cover", COVERS.values(), ids=COVERS.keys())


@contextlib.contextmanager
def cover_up(path: str, cover: tuple[str, tuple[str, ...]]) -> Iterator[str]:
    """Hide what is mounted at ``path``; give where, and take it away again."""
    names = {"path": path, "parent": str(Path(path).parent)}
    where = cover[0].format(**names)
    run("mount", *(word.format(**names) for word in cover[1]), where)
    try:
        yield where
    finally:
        run("umount", where)


def prepare(bench: Bench, fs_type: FsType = FsType.EXT4) -> tuple[Disk, str]:
    """Mount a new filesystem two directories below the allowed root; return its disk and path."""
    disk = bench.add_disk()
    request = bench.request(disk, fs_type, disk.make(fs_type), name="in/data")
    mount_filesystem(request)
    (Path(request.path) / "sub").mkdir()
    return disk, request.path


def see(path: str) -> Mount:
    mount = find_top_mount(read_mounts(), path)
    assert mount is not None, f"nothing is mounted at {path}"
    return mount


def make_look_request(disk: Disk, path: str | None) -> LookRequest:
    return LookRequest(
        disk.path, identify, lambda _: True, Path("/nonexistent"), boot_id="boot", wanted_path=path
    )


def list_mounts(bench: Bench) -> list[Mount]:
    """Return the mounts of this test: others come and go meanwhile."""
    return [mount for mount in read_mounts() if mount.path.startswith(str(bench.directory))]


@covered
def test_covered_volume_is_told_as_that(bench: Bench, cover: tuple[str, tuple[str, ...]]) -> None:
    """A look finds the device, its mount and what hides it, and asks neither filesystem anything."""
    disk, path = prepare(bench)
    with opened(disk.path) as (fd, _):
        plain = look_at(fd, make_look_request(disk, path))
        assert (plain.is_hidden, plain.obstacle, plain.root_inode is None) == (False, None, False)
        with cover_up(path, cover):
            found = look_at(fd, make_look_request(disk, path))
        assert [mount.path for mount in found.mounts if mount.root == "/"] == [path]
        assert found.is_hidden
        assert found.obstacle is not None
        assert ("tmpfs" in found.obstacle) == ("tmpfs" in cover[1])
        assert (found.root_inode, found.content) == (None, None)


@covered
def test_nothing_is_done_to_what_covers(bench: Bench, cover: tuple[str, tuple[str, ...]]) -> None:
    """No step touches the covering filesystem in the place of the volume, nor the volume through it."""
    disk, path = prepare(bench)
    mine = see(path)
    with cover_up(path, cover) as where, opened(disk.path) as (fd, _):
        before = Path(path).parent.stat(), list_mounts(bench)
        for touch in (
            lambda: change_mount.remount(path, mine.device_number, ("ro",)),
            lambda: change_mount.set_root_ownership(path, mine.device_number, 1, 1, 0o700),
            lambda: change_mount.grow_mounted(path, mine.device_number, fd, FsType.EXT4),
            lambda: change_mount.read_root_inode(path, mine.device_number),
            lambda: change_mount.unmount(mine),
            lambda: change_mount.thaw(path, mine.device_number),
            lambda: begin_write(path, mine.device_number),
        ):
            with pytest.raises(CoveredError, match="hidden beneath") as caught:
                touch()
            assert caught.value.reason is Reason.PATH_IN_USE
        assert (Path(path).parent.stat(), list_mounts(bench)) == before
        assert see(where).mount_id != mine.mount_id
    change_mount.unmount(mine)
    assert mine not in read_mounts()


@covered
def test_covering_filesystem_is_not_sampled(bench: Bench, cover: tuple[str, tuple[str, ...]]) -> None:
    """Its sizes are not shown as the volume's, and no probe is written to it."""
    disk, path = prepare(bench)
    where = see(path)
    with opened(disk.path) as (fd, device):
        mine, size_bytes = sample_mount(fd, device, path, read_mounts())
        assert mine is not None
        assert (mine.size_bytes > 0, mine.write_errno, size_bytes) == (True, None, device.size_bytes)
        with cover_up(path, cover):
            assert sample_mount(fd, device, path, read_mounts())[0] is None
            before = Path(path).parent.stat()
            assert probe_write(path, where.device_number, where.mount_id) is None
            assert Path(path).parent.stat() == before


def test_path_that_was_swapped_is_not_unmounted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent directory that is another one at the last moment takes no other mount with it."""
    _, path = prepare(bench)
    mine = see(path)
    parent, aside = Path(path).parent, Path(f"{bench.root}/aside")
    check = change_mount._check_place

    def swap(parent_fd: int, name: str, mount: Mount) -> None:
        check(parent_fd, name, mount)
        parent.rename(aside)
        Path(path).mkdir(parents=True)
        run("mount", "-t", "tmpfs", "other", path)

    monkeypatch.setattr(change_mount, "_check_place", swap)
    change_mount.unmount(mine)
    assert see(path).source == "other"
    assert mine.mount_id not in {mount.mount_id for mount in read_mounts()}


def test_busy_mount_names_what_no_process_has_open(bench: Bench) -> None:
    """A mount within is told as what is in the way: no list of processes shows it."""
    _, path = prepare(bench)
    run("mount", "-t", "tmpfs", "none", f"{path}/sub")
    with pytest.raises(AgentError, match="could not be unmounted") as caught:
        change_mount.unmount(see(path))
    assert caught.value.hint is not None
    assert f"{path}/sub" in caught.value.hint


@pytest.mark.parametrize("group", [0, 100])
def test_access_list_that_lets_others_in_is_seen(bench: Bench, group: int) -> None:
    """A directory whose list names a user who may write is one that others could swap, whatever its group."""
    open_to_bob = Path(bench.root, "open")
    open_to_bob.mkdir(parents=True)
    open_to_bob.chmod(0o755)
    os.chown(open_to_bob, 0, group)
    entry = struct.Struct("<HHI").pack
    nobody = 0xFFFFFFFF
    rights = ((1, 7, nobody), (2, 7, 65534), (4, 5, nobody), (16, 7, nobody), (32, 5, nobody))
    access = struct.pack("<I", 2) + b"".join(entry(*right) for right in rights)
    os.setxattr(open_to_bob, "system.posix_acl_access", access)
    assert open_to_bob.stat().st_mode & 0o777 == 0o775
    with pytest.raises(RefusedError) as caught, open_mount_point(f"{open_to_bob}/data", (bench.root,)):
        pass
    assert caught.value.reason is Reason.PATH_NOT_ALLOWED
    os.removexattr(open_to_bob, "system.posix_acl_access")
    open_to_bob.chmod(0o755)
    with open_mount_point(f"{open_to_bob}/data", (bench.root,)):
        pass


def test_btrfs_copy_of_a_mounted_one_is_mounted(bench: Bench) -> None:
    """A copy has the ID of the mounted one, and is mounted under another: verified by its device."""
    disk = bench.add_disk()
    request = bench.request(disk, FsType.BTRFS, disk.make(FsType.BTRFS))
    mount_filesystem(request)
    run("sync", "-f", request.path)
    copy = bench.copy_disk(disk)
    other = bench.request(copy, FsType.BTRFS, request.uuid, name="copy")
    mount_id = mount_filesystem(other)
    assert see(other.path).mount_id == mount_id
    assert see(other.path).source == copy.path
    assert see(request.path).source == disk.path


def test_btrfs_copy_is_mounted_where_the_kernel_remembers_another_disk(bench: Bench) -> None:
    """A filesystem on two devices that nobody mounts leaves its device numbers known; a copy comes to one."""
    disk = bench.add_disk()
    request = bench.request(disk, FsType.BTRFS, disk.make(FsType.BTRFS))
    mount_filesystem(request)
    run("sync", "-f", request.path)
    copy, second = bench.copy_disk(disk), bench.add_disk()
    held = Path(copy.image).read_bytes()
    run("mkfs.btrfs", "-q", "-f", copy.path, second.path)
    Path(copy.path).write_bytes(held)
    other = bench.request(copy, FsType.BTRFS, request.uuid, name="copy")
    mount_filesystem(other)
    assert see(other.path).source == copy.path
    assert see(request.path).source == disk.path


def test_btrfs_forgets_nothing_that_is_mounted(bench: Bench) -> None:
    """Then the first answer stands, with its hint."""
    disk = bench.add_disk()
    request = bench.request(disk, FsType.BTRFS, disk.make(FsType.BTRFS))
    mount_filesystem(request)
    assert not forget_btrfs_device(disk.path)
    assert see(request.path).source == disk.path


@pytest.mark.parametrize("where", ["path", "parent"])
def test_covered_volume_is_not_ready_until_it_is_seen(
    scratch: Scratch, agent: AgentProcess, where: str
) -> None:
    """Refused for as long as it is hidden, from before a start too; nothing is written to what hides it."""
    path = scratch.data / "in" / "ckpt"
    policy_entry = {
        "name": "ckpt",
        "match": {"volume_id": VOLUME},
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(path), "mode": "0751"},
        "required": True,
    }
    scratch.write_policy(policy_entry, resync="1s", health={"interval": "1s", "write_probe": True})
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    (path / "file").write_text("kept")
    with cover_up(str(path), COVERS[f"at its {where}"]) as place:
        mark = Path(place) / "mark"
        mark.touch()
        before = Path(place).stat()
        status = agent.wait_condition(VOLUME, "Refused", "PathInUse")
        assert "hidden beneath a tmpfs filesystem" in status["message"]
        agent.stop()
        agent.start()
        agent.wait_condition(VOLUME, "Refused", "PathInUse")
        after = Path(place).stat()
        assert [item.name for item in Path(place).iterdir()] == ["mark"]
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    agent.wait_condition(VOLUME, "Ready")
    assert (path / "file").read_text() == "kept"
    assert agent.read_events("volume.failed") == []
