"""Views of volumes for pods, on real mounts and device nodes: made where kubelet wants them, and removed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.core.errors import AgentError, RefusedError
from agent.core.model import DeviceNumber, FsType, Mount, Reason
from agent.node.filesystem.directories import open_place
from agent.node.filesystem.mount import attach, mount_filesystem
from agent.node.kernel.mount_api import clone_mount
from agent.node.kernel.mountinfo import read_mounts
from agent.node.mounts.pod_views import View, publish_mount, publish_node, remove_view
from tests.corpus.tools import run
from tests.loop.disks import Bench, Disk, open_bench


@dataclass
class Staged:
    """A disk that is staged, and a pod's directory as kubelet has made it."""

    bench: Bench
    disk: Disk
    mount: Mount
    target: str

    @property
    def roots(self) -> tuple[str, ...]:
        return (self.bench.root,)

    def view(self) -> View:
        return View(self.target, frozenset({self.disk.number}), self.disk.path)


@pytest.fixture
def staged(tmp_path: Path) -> object:
    with open_bench(tmp_path) as bench:
        disk = bench.add_disk()
        request = bench.request(disk, FsType.EXT4, disk.make(FsType.EXT4), name="globalmount")
        mount_filesystem(request)
        (mount,) = [one for one in read_mounts() if one.path == request.path]
        pod = Path(bench.root) / "pods/u/volumes"
        pod.mkdir(parents=True, mode=0o750)
        yield Staged(bench, disk, mount, str(pod / "mount"))


def see(path: str) -> list[Mount]:
    """Return the mounts at a path."""
    return [mount for mount in read_mounts() if mount.path == path]


def test_pod_sees_the_volume_with_flags_of_its_own(staged: Staged) -> None:
    """The view is read-only and the staging mount is not; it is taken away with its directory."""
    publish_mount(staged.mount, staged.target, ("ro", "noexec", "nosuid"), staged.roots)
    (view,) = see(staged.target)
    assert {"ro", "noexec", "nosuid"} <= view.options
    assert view.device_number == staged.mount.device_number
    Path(staged.mount.path, "file").write_text("kept")
    assert Path(staged.target, "file").read_text() == "kept"
    with pytest.raises(OSError, match="Read-only"):
        Path(staged.target, "other").touch()
    remove_view(staged.view(), staged.roots)
    assert not Path(staged.target).exists()
    remove_view(staged.view(), staged.roots)
    assert Path(staged.mount.path, "file").read_text() == "kept"


def test_second_mount_on_a_target_is_refused(staged: Staged) -> None:
    """What is there stays, whoever put it there."""
    publish_mount(staged.mount, staged.target, (), staged.roots)
    with pytest.raises(RefusedError, match="is taken") as caught:
        publish_mount(staged.mount, staged.target, (), staged.roots)
    assert caught.value.reason is Reason.PATH_IN_USE
    assert len(see(staged.target)) == 1


def test_second_node_on_a_target_is_refused(staged: Staged) -> None:
    """A file that a device is shown at is taken as a directory is, and the way out is a pod's."""
    publish_node(staged.disk.path, staged.disk.number, staged.target, (), staged.roots)
    with pytest.raises(RefusedError, match="is taken") as caught:
        publish_node(staged.disk.path, staged.disk.number, staged.target, (), staged.roots)
    assert caught.value.reason is Reason.PATH_IN_USE
    assert "pod" in (caught.value.hint or "")
    assert len(see(staged.target)) == 1
    remove_view(staged.view(), staged.roots)


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("what", ["nothing", "another", "link"])
def test_place_that_was_moved_away_is_not_mounted_on(staged: Staged, what: str, is_file: bool) -> None:  # noqa: FBT001
    """Whatever its path leads to by now, a directory or a file that was moved is left without a mount."""
    target, moved = Path(staged.target), Path(f"{staged.target}-moved")
    make = Path.touch if is_file else Path.mkdir
    make(target)
    shown = staged.disk.path if is_file else staged.mount.path
    with open_place(staged.target) as place_fd, open_place(shown) as shown_fd:
        copy_fd = clone_mount(shown_fd)
        target.rename(moved)
        if what == "another":
            make(target)
        elif what == "link":
            target.symlink_to(moved)
        with pytest.raises(RefusedError, match="moved or covered"):
            attach(copy_fd, place_fd, staged.target)
        os.close(copy_fd)
    assert see(staged.target) == see(str(moved)) == []


def test_views_stacked_at_a_target_all_go(staged: Staged) -> None:
    """A kubelet that lost its state has published the volume over itself."""
    publish_mount(staged.mount, staged.target, (), staged.roots)
    run("mount", "--bind", staged.mount.path, staged.target)
    run("mount", "--bind", staged.mount.path, staged.target)
    assert len(see(staged.target)) == 3
    remove_view(staged.view(), staged.roots)
    assert see(staged.target) == []
    assert not Path(staged.target).exists()


def test_what_is_not_the_volumes_stays(staged: Staged) -> None:
    """Another filesystem at the target is not unmounted, and a directory with files is not removed."""
    Path(staged.target).mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", staged.target)
    Path(staged.target, "file").write_text("theirs")
    with pytest.raises(RefusedError, match="tmpfs"):
        remove_view(staged.view(), staged.roots)
    assert Path(staged.target, "file").read_text() == "theirs"
    run("umount", staged.target)
    Path(staged.target, "file").write_text("below")
    with pytest.raises(RefusedError, match="not empty"):
        remove_view(staged.view(), staged.roots)
    assert Path(staged.target, "file").read_text() == "below"


def test_view_in_use_is_kept_and_told(staged: Staged) -> None:
    """A container that has a file open keeps it, and kubelet asks again."""
    publish_mount(staged.mount, staged.target, (), staged.roots)
    with Path(staged.target, "file").open("w"), pytest.raises(AgentError) as caught:
        remove_view(staged.view(), staged.roots)
    assert caught.value.reason is Reason.DEVICE_BUSY
    remove_view(staged.view(), staged.roots)


def test_view_of_a_device_that_is_gone_goes_where_it_was_made(staged: Staged) -> None:
    """Its number is nobody's by now; without a note, or while a device has it, nothing is unmounted."""
    publish_mount(staged.mount, staged.target, (), staged.roots)
    for is_present in (None, lambda _: True):
        with pytest.raises(RefusedError, match="is taken"):
            remove_view(View(staged.target, frozenset(), None, is_present), staged.roots)
    with Path(staged.target, "file").open("w"):
        remove_view(View(staged.target, frozenset(), None, lambda _: False), staged.roots)
    assert see(staged.target) == []


@pytest.mark.parametrize("source", ["tmpfs", "/dev/fuse", "/dev/gone"])
def test_filesystem_without_a_device_is_left_behind_by_none(staged: Staged, source: str) -> None:
    """That its number is of no device, and its source of none that is there, does not make it dead."""
    Path(staged.target).mkdir()
    run("mount", "-t", "tmpfs", source, staged.target)
    Path(staged.target, "file").write_text("theirs")
    with pytest.raises(RefusedError, match="tmpfs"):
        remove_view(View(staged.target, frozenset(), None, lambda _: False), staged.roots)
    assert Path(staged.target, "file").read_text() == "theirs"


def test_pod_sees_the_device_node(staged: Staged) -> None:
    """It is the device itself, on a file made for it, which goes with it."""
    run("umount", staged.mount.path)
    publish_node(staged.disk.path, staged.disk.number, staged.target, ("ro",), staged.roots)
    status = Path(staged.target).stat()
    assert stat.S_ISBLK(status.st_mode)
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == staged.disk.number
    (view,) = see(staged.target)
    assert "ro" in view.options
    remove_view(staged.view(), staged.roots)
    assert not Path(staged.target).exists()


def test_node_of_another_device_is_not_shown(staged: Staged) -> None:
    """Renumbered since it was looked at: nothing is mounted."""
    with pytest.raises(AgentError, match="another device now"):
        publish_node(staged.disk.path, DeviceNumber(259, 99), staged.target, (), staged.roots)
    assert see(staged.target) == []


@pytest.mark.parametrize("kind", ["climbs", "foreign", "relative", "link", "missing"])
def test_target_that_is_no_place_of_kubelets_is_refused(staged: Staged, kind: str) -> None:
    """Neither is anything made there, nor mounted, nor removed."""
    pod = Path(staged.target).parent
    away = staged.bench.directory / "away"
    away.mkdir()
    (pod / "link").symlink_to(away)
    path = {
        "climbs": f"{pod}/../../mount",
        "foreign": f"{away}/mount",
        "relative": "mount",
        "link": f"{pod}/link/mount",
        "missing": f"{pod}/nobody/mount",
    }[kind]
    before = list(staged.bench.directory.rglob("*"))
    with pytest.raises(RefusedError) as caught:
        publish_mount(staged.mount, path, (), staged.roots)
    assert caught.value.reason is Reason.PATH_NOT_ALLOWED
    if kind != "missing":
        with pytest.raises(RefusedError):
            remove_view(View(path, frozenset({staged.disk.number}), staged.disk.path), staged.roots)
    assert list(staged.bench.directory.rglob("*")) == before
    assert [mount for mount in read_mounts() if "mount" in Path(mount.path).name and mount.path == path] == []
