"""Real mounts: what is mounted where, who may see it when, and what is left after a refusal."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import AgentError, NotMountedError, RefusedError, VanishedError
from agent.core.model import DeviceNumber, FsType, Mount, Reason, RootInode
from agent.core.replace import replace
from agent.node.filesystem import change_mount
from agent.node.filesystem import mount as mounts
from agent.node.filesystem.directories import open_directory, open_mount_point, open_place
from agent.node.filesystem.mount import MountRequest, mount_filesystem, move_mount
from agent.node.kernel import mount_api
from agent.node.kernel.mountinfo import find_top_mount, read_mounts
from agent.node.mounts.mount_users import find_processes
from tests.corpus.tools import run
from tests.loop.disks import Bench

every_type = pytest.mark.parametrize("fs_type", list(FsType))
NOBODY = 65534


def prepare(bench: Bench, fs_type: FsType = FsType.EXT4) -> MountRequest:
    disk = bench.add_disk()
    return bench.request(disk, fs_type, disk.make(fs_type))


def see(path: str) -> Mount:
    mount = find_top_mount(read_mounts(), path)
    assert mount is not None, f"nothing is mounted at {path}"
    return mount


def list_mounts_of(source: str) -> tuple[Mount, ...]:
    return tuple(mount for mount in read_mounts() if mount.source == source)


def is_mounted(path: str) -> bool:
    return find_top_mount(read_mounts(), path) is not None


# -- Mounting ------------------------------------------------------------------------------------------------


@every_type
def test_mounts_as_asked(bench: Bench, fs_type: FsType) -> None:
    """The device, the options and the root's owner and mode are as asked, and the directory was made."""
    request = replace(prepare(bench, fs_type), uid=1000, gid=1001, mode=0o2770, options=("nosuid", "noatime"))
    mount_id = mount_filesystem(request)
    mount = see(request.path)
    assert mount.mount_id == mount_id
    assert mount.source == request.source
    assert {"nosuid", "noatime", "rw"} <= mount.options
    assert not {"nodev", "relatime"} & mount.options
    assert change_mount.read_root_inode(request.path, mount.device_number) == RootInode(1000, 1001, 0o2770)
    assert list_mounts_of(request.source) == (mount,)
    (Path(request.path) / "file").write_text("x")
    assert Path(bench.root).stat().st_mode & 0o777 == 0o755


@every_type
def test_read_only_mount_writes_nothing_to_the_root(bench: Bench, fs_type: FsType) -> None:
    """A read-only mount is read-only in both its halves, and its owner is left alone."""
    request = replace(prepare(bench, fs_type), uid=1000, options=("ro",))
    mount_filesystem(request)
    mount = see(request.path)
    assert "ro" in mount.options
    assert "ro" in mount.super_options
    assert change_mount.read_root_inode(request.path, mount.device_number).uid == 0


@every_type
def test_other_device_is_not_mounted(bench: Bench, fs_type: FsType) -> None:
    """A source that leads to another device than was looked at is seen before anyone sees the mount."""
    request = prepare(bench, fs_type)
    other = bench.add_disk()
    other.make(fs_type)
    with pytest.raises(VanishedError, match="nothing was mounted"):
        mount_filesystem(replace(request, source=other.path))
    assert not is_mounted(request.path)
    assert list_mounts_of(other.path) == ()


def test_btrfs_of_another_uuid_is_not_mounted(bench: Bench) -> None:
    """The device number of btrfs is invented, so its UUID and its device's number are both compared."""
    request = prepare(bench, FsType.BTRFS)
    with pytest.raises(VanishedError):
        mount_filesystem(replace(request, uuid="6f1c1f0e-5a0b-4d0a-9c43-0d6c1d7a2b11"))
    with pytest.raises(VanishedError):
        mount_filesystem(replace(request, device_number=DeviceNumber(7, 4095)))
    assert not is_mounted(request.path)


def test_taken_path_is_refused(bench: Bench) -> None:
    """What is mounted at the path stays on top, and is named."""
    first, second = prepare(bench), prepare(bench)
    mount_filesystem(first)
    with pytest.raises(RefusedError, match=first.source) as caught:
        mount_filesystem(second)
    assert caught.value.reason is Reason.PATH_IN_USE
    assert see(first.path).source == first.source


def test_hidden_files_are_kept(bench: Bench) -> None:
    """Files lying in the directory are hidden while the mount lasts, and there afterwards."""
    request = prepare(bench)
    place = Path(request.path)
    place.mkdir(parents=True)
    (place / "written-before").write_text("kept")
    mount_filesystem(request)
    assert not (place / "written-before").exists()
    change_mount.unmount(see(request.path))
    assert (place / "written-before").read_text() == "kept"


def test_kernels_words_reach_the_error(bench: Bench) -> None:
    """An unknown option is named as the kernel names it."""
    request = replace(prepare(bench, FsType.XFS), options=("nosuid", "bogus=1"))
    with pytest.raises(AgentError, match="bogus"):
        mount_filesystem(request)
    assert not is_mounted(request.path)


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="needs to read the kernel's log")
def test_duplicate_xfs_uuid_is_explained_and_nouuid_mounts_it(bench: Bench) -> None:
    """A copy of a mounted xfs is refused in the kernel's words, which only its log has."""
    first = prepare(bench, FsType.XFS)
    mount_filesystem(first)
    disk = bench.add_disk()
    disk.make(FsType.XFS, first.uuid)
    copy = bench.request(disk, FsType.XFS, first.uuid, "copy")
    with pytest.raises(AgentError, match="duplicate UUID"):
        mount_filesystem(copy)
    mount_filesystem(replace(copy, options=("nouuid",)))
    assert see(copy.path).source == disk.path


def test_damaged_filesystem_is_not_mounted(bench: Bench) -> None:
    """A superblock that is gone is an error, in words that tell more than the error's number."""
    request = prepare(bench, FsType.EXT4)
    bench.disks[-1].write(0, bytes(4096))
    with pytest.raises(AgentError, match="ext4"):
        mount_filesystem(request)
    assert not is_mounted(request.path)


@every_type
def test_old_call_mounts_the_same(bench: Bench, fs_type: FsType) -> None:
    """Without the newer calls the mount is the same, and checked before it is reported."""
    request = replace(prepare(bench, fs_type), uid=1000, mode=0o750, options=("nosuid", "nodev", "noexec"))
    with (
        open_mount_point(request.path, request.allowed_roots) as directory_fd,
        mounts._mount_by_old_call(request, directory_fd),
    ):
        mount = see(request.path)
    assert {"nosuid", "nodev", "noexec"} <= mount.options
    assert change_mount.read_root_inode(request.path, mount.device_number) == RootInode(1000, 0, 0o750)


@every_type
def test_old_call_takes_back_a_wrong_device(bench: Bench, fs_type: FsType) -> None:
    """Where the device can be compared only afterwards, a wrong one is detached again."""
    request = replace(prepare(bench, fs_type), device_number=DeviceNumber(7, 4095))
    with (
        open_mount_point(request.path, request.allowed_roots) as directory_fd,
        pytest.raises(VanishedError),
        mounts._mount_by_old_call(request, directory_fd),
    ):
        pass
    assert not is_mounted(request.path)


# -- Where it may be mounted ---------------------------------------------------------------------------------


def plant_link_to_etc(place: Path) -> None:
    place.symlink_to("/etc")


def plant_dangling_link(place: Path) -> None:
    place.symlink_to("nowhere")


def plant_file(place: Path) -> None:
    place.write_text("precious")


@pytest.mark.parametrize("plant", [plant_link_to_etc, plant_dangling_link, plant_file])
@pytest.mark.parametrize("at", ["data", "data/deeper"])
def test_planted_link_is_not_followed(bench: Bench, plant: Callable[[Path], None], at: str) -> None:
    """A link or a file anywhere on the way is refused and left; nothing is made or mounted beyond it."""
    request = replace(prepare(bench), path=f"{bench.root}/{at}")
    Path(bench.root).mkdir()
    plant(Path(bench.root) / "data")
    before = sorted(Path("/etc").iterdir())
    with pytest.raises(RefusedError) as caught:
        mount_filesystem(request)
    assert caught.value.reason is Reason.PATH_NOT_ALLOWED
    assert sorted(Path("/etc").iterdir()) == before
    assert list_mounts_of(request.source) == ()


@pytest.mark.parametrize(
    ("owner", "mode"), [(NOBODY, 0o755), (0, 0o777), (0, 0o757)], ids=["theirs", "open", "others"]
)
def test_directory_others_could_swap_is_refused(bench: Bench, owner: int, mode: int) -> None:
    """Where somebody else could rename what is mounted on, nothing is made and nothing mounted."""
    request = replace(prepare(bench), path=f"{bench.root}/team/data")
    team = Path(bench.root) / "team"
    team.mkdir(parents=True)
    os.chown(team, owner, owner)
    team.chmod(mode)
    with pytest.raises(RefusedError, match="no safe place") as caught:
        mount_filesystem(request)
    hint = caught.value.hint or ""
    assert "Choose a path" in hint
    assert not {"chown", "chmod"} & set(hint.split()), "a home directory is not to be taken from its user"
    assert list(team.iterdir()) == []


def test_sticky_directory_is_safe_for_roots_own(bench: Bench) -> None:
    """In a directory like /tmp, what root made cannot be swapped, and what others made is refused."""
    request = replace(prepare(bench), path=f"{bench.root}/sticky/data/x")
    sticky = Path(bench.root) / "sticky"
    sticky.mkdir(parents=True)
    sticky.chmod(0o1777)
    theirs = sticky / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(RefusedError):
        mount_filesystem(replace(request, path=f"{theirs}"))
    mount_filesystem(request)
    assert is_mounted(request.path)


def test_mount_point_may_belong_to_its_user(bench: Bench) -> None:
    """The last directory may be anybody's while its parent is root's: the mount covers it."""
    request = prepare(bench)
    place = Path(request.path)
    place.mkdir(parents=True)
    os.chown(place, NOBODY, NOBODY)
    mount_filesystem(request)
    assert is_mounted(request.path)


def test_path_outside_is_refused_before_anything(bench: Bench) -> None:
    """A path beneath no allowed root is not even made."""
    outside = bench.directory / "elsewhere/data"
    with pytest.raises(RefusedError):
        mount_filesystem(replace(prepare(bench), path=str(outside)))
    assert not outside.parent.exists()


def test_strict_umask_shuts_nobody_out(bench: Bench) -> None:
    """Directories made on the way can be passed through, whatever umask the daemon has."""
    old = os.umask(0o077)
    try:
        request = replace(prepare(bench), path=f"{bench.root}/a/b")
        mount_filesystem(request)
    finally:
        os.umask(old)
    assert (Path(bench.root) / "a").stat().st_mode & 0o777 == 0o755


# -- Changing what is mounted --------------------------------------------------------------------------------


@every_type
def test_remount_changes_options_in_place(bench: Bench, fs_type: FsType) -> None:
    """Attributes change both ways under the same mount, with files open, and to read-only and no way back."""
    request = prepare(bench, fs_type)
    mount_id = mount_filesystem(request)
    number = see(request.path).device_number
    with (Path(request.path) / "file").open("w"):
        change_mount.remount(request.path, number, ("noexec",))
    mount = see(request.path)
    assert {"rw", "noexec", "relatime"} <= mount.options
    assert not {"nosuid", "nodev"} & mount.options
    change_mount.remount(request.path, number, ("ro", "strictatime", "nosuid"))
    mount = see(request.path)
    assert mount.mount_id == mount_id
    assert "ro" in mount.options & mount.super_options
    assert not {"relatime", "noatime", "noexec"} & mount.options
    with pytest.raises(RefusedError, match="a check comes first") as refused:
        change_mount.remount(request.path, number, ("noatime",))
    assert refused.value.reason is Reason.READ_ONLY
    assert see(request.path) == mount


def test_remount_sets_parameters(bench: Bench) -> None:
    """What the filesystem itself takes is set too, and what it does not know is named."""
    request = prepare(bench, FsType.EXT4)
    mount_filesystem(request)
    number = see(request.path).device_number
    change_mount.remount(request.path, number, ("commit=17",))
    assert "commit=17" in see(request.path).super_options
    with pytest.raises(AgentError, match="bogus") as raised:
        change_mount.remount(request.path, number, ("bogus",))
    # A typo is nobody's reason to unmount: with it the volume could not be mounted again.
    assert "Correct it first" in str(raised.value.hint)


def test_other_mount_is_not_remounted(bench: Bench) -> None:
    """A mount that took the place of the one meant is left as it is."""
    request = prepare(bench)
    mount_filesystem(request)
    before = see(request.path)
    wrong = DeviceNumber(7, 4095)
    with pytest.raises(NotMountedError):
        change_mount.remount(request.path, wrong, ("ro",))
    with pytest.raises(NotMountedError):
        change_mount.set_root_ownership(request.path, wrong, 1, 1, 0o700)
    with pytest.raises(NotMountedError):
        change_mount.read_root_inode(f"{bench.root}/none", before.device_number)
    assert see(request.path) == before


@every_type
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "private"])
def test_moves_a_mount_nobody_uses(bench: Bench, fs_type: FsType, is_shared: bool) -> None:  # noqa: FBT001
    """The same filesystem is at the new path and gone from the old, also where systemd shares all mounts."""
    root = Path(bench.root)
    root.mkdir()
    run("mount", "--bind", root, root)
    run("mount", "--make-shared" if is_shared else "--make-private", root)
    request = prepare(bench, fs_type)
    mount_filesystem(request)
    (Path(request.path) / "file").write_text("kept")
    new = f"{bench.root}/new/place"
    move_mount(request.path, see(request.path).device_number, new, (bench.root,))
    assert not is_mounted(request.path)
    assert (Path(new) / "file").read_text() == "kept"
    assert {"nosuid", "nodev"} <= see(new).options


def test_mount_in_use_does_not_move(bench: Bench) -> None:
    """While someone uses it a mount stays where it was, alone, and who uses it is found."""
    request = prepare(bench)
    mount_filesystem(request)
    mount = see(request.path)
    script = f"import os; os.chdir({request.path!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(AgentError) as caught:
            move_mount(request.path, mount.device_number, f"{bench.root}/new", (bench.root,))
        users = find_processes(request.path, mount.device_number)
        child.communicate(b"\n")
    assert caught.value.reason is Reason.DEVICE_BUSY
    assert [user.pid for user in users] == [child.pid]
    assert list_mounts_of(request.source) == (mount,)


def test_mount_does_not_move_onto_another(bench: Bench) -> None:
    """A path that is taken stays as it is, and so does the mount that was to go there."""
    first, second = prepare(bench), replace(prepare(bench), path=f"{bench.root}/second")
    mount_filesystem(first)
    mount_filesystem(second)
    with pytest.raises(RefusedError):
        move_mount(first.path, see(first.path).device_number, second.path, (bench.root,))
    assert see(first.path).source == first.source
    assert see(second.path).source == second.source


@every_type
def test_unmount_flushes_and_lets_go(bench: Bench, fs_type: FsType) -> None:
    """After an unmount the device can be held exclusively; a second one has nothing to do."""
    request = prepare(bench, fs_type)
    mount_filesystem(request)
    mount = see(request.path)
    (Path(request.path) / "file").write_text("x")
    change_mount.unmount(mount)
    change_mount.unmount(mount)
    assert not is_mounted(request.path)
    os.close(os.open(request.source, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))


def test_unmount_in_use_says_busy(bench: Bench) -> None:
    """A mount with an open file stays, and the reason says so."""
    request = prepare(bench)
    mount_filesystem(request)
    with (Path(request.path) / "file").open("w"), pytest.raises(AgentError) as caught:
        change_mount.unmount(see(request.path))
    assert caught.value.reason is Reason.DEVICE_BUSY
    assert is_mounted(request.path)


def test_another_mount_at_the_path_is_not_unmounted(bench: Bench) -> None:
    """Whoever mounted there meanwhile keeps his mount, by unmount and by detach alike."""
    request = prepare(bench)
    mount_filesystem(request)
    mine = see(request.path)
    run("umount", request.path)
    run("mount", "-t", "tmpfs", "none", request.path)
    change_mount.unmount(mine)
    change_mount.detach_stale(mine)
    assert see(request.path).fs_type == "tmpfs"


def test_covered_mount_is_not_detached_with_its_cover(bench: Bench) -> None:
    """A stale mount under somebody else's is left until that one is gone."""
    request = prepare(bench)
    mount_filesystem(request)
    mine = see(request.path)
    run("mount", "-t", "tmpfs", "none", request.path)
    change_mount.detach_stale(mine)
    assert see(request.path).fs_type == "tmpfs"
    run("umount", request.path)
    change_mount.detach_stale(mine)
    assert not is_mounted(request.path)


def test_stale_mount_is_detached_in_use(bench: Bench) -> None:
    """A mount whose device is gone leaves the tree at once, whoever has files open on it."""
    request = prepare(bench)
    mount_filesystem(request)
    with (Path(request.path) / "file").open("w"):
        change_mount.detach_stale(see(request.path))
        assert not is_mounted(request.path)


@every_type
def test_freeze_holds_writes_and_thaw_lets_go(bench: Bench, fs_type: FsType) -> None:
    """A write waits while it is frozen, and thawing twice is the same as once."""
    request = prepare(bench, fs_type)
    mount_filesystem(request)
    number = see(request.path).device_number
    with (
        change_mount.open_mount(request.path, number) as (mount_fd, _),
        change_mount.open_root(mount_fd) as fd,
    ):
        mount_api.freeze(fd)
    with subprocess.Popen(["touch", f"{request.path}/file"]) as writer:
        with contextlib.suppress(subprocess.TimeoutExpired):
            writer.wait(0.3)
        was_held = writer.poll() is None
        change_mount.thaw(request.path, number)
        assert writer.wait(60) == 0
    change_mount.thaw(request.path, number)
    assert was_held


def test_root_ownership_is_set(bench: Bench) -> None:
    """Owner, group and mode each change alone, and a mode's set-group bit survives a change of owner."""
    request = prepare(bench)
    mount_filesystem(request)
    number = see(request.path).device_number
    change_mount.set_root_ownership(request.path, number, 1000, None, 0o2775)
    change_mount.set_root_ownership(request.path, number, None, 1001, None)
    assert change_mount.read_root_inode(request.path, number) == RootInode(1000, 1001, 0o2775)


def test_attributes_have_bits_in_both_interfaces() -> None:
    """Each per-mount option is known to the newer and the older call."""
    assert mount_api._ATTRIBUTES.keys() == mount_api._OLD_FLAGS.keys()


def test_directory_is_opened_without_following(bench: Bench) -> None:
    """Where an existing mount is looked for, a link is an error and not a way."""
    (bench.directory / "link").symlink_to("/etc")
    with pytest.raises(RefusedError), open_directory(f"{bench.directory}/link"):
        pass
    with pytest.raises(RefusedError), open_place(f"{bench.directory}/link/passwd"):
        pass
    with open_place(f"{bench.directory}/link") as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
    with pytest.raises(NotMountedError), open_place(f"{bench.directory}/nothing"):
        pass
