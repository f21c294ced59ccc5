"""What pods see of a volume: its mounted filesystem, or its device node, at a place of kubelet's.

A view is a copy of a mount that was found to be the volume's: made detached, given its own options, compared,
and only then attached, at a directory or file whose parents kubelet has made and that is reached without
following a link. Every function may block and runs in a worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from msgspec import Struct

from agent.core.errors import AgentError, NotMountedError, RefusedError, VanishedError
from agent.core.model import DeviceNumber, Mount, Reason
from agent.core.quoting import make_printable
from agent.node.filesystem import change_mount
from agent.node.filesystem.directories import check_free, open_mount_point
from agent.node.filesystem.mount import attach
from agent.node.kernel import mount_api
from agent.node.kernel.mountinfo import describe_mount, find_node_number, find_top_mount, read_mounts_towards
from agent.node.mounts.gone_devices import is_device_gone

_DIRECTORY_MODE, _FILE_MODE = 0o750, 0o640
_WAY_OUT = "Unmount or remove it, or end the pod that has it; kubelet asks again by itself."
_MOST_STACKED = 8
"""Mounts of one volume at one target, one above the other; kubelet knows of one."""


class View(Struct, frozen=True):
    """Where a volume is seen, and by what it is told from another: the numbers and the node of its device."""

    path: str
    numbers: frozenset[DeviceNumber]
    node: str | None
    is_present: Callable[[DeviceNumber], bool] | None = None
    """Tells whether a device is there. Given of a view that is known to have been made: what a device that is
    gone has left there is the volume's as well."""


def publish_mount(staged: Mount, path: str, options: tuple[str, ...], roots: tuple[str, ...]) -> None:
    """Show the filesystem of a mount at ``path``, by a mount with these per-mount options.

    The directory is made where it is missing, its parents never. RefusedError where anything else is there.
    """
    with _open_target(path, roots, is_file=False) as target_fd:
        with change_mount.open_mount(staged.path, staged.device_number, staged.mount_id) as (mount_fd, _):
            copy_fd = mount_api.clone_mount(mount_fd)
        try:
            mount_api.set_mount_attributes(copy_fd, frozenset(options))
            attach(copy_fd, target_fd, path)
        finally:
            os.close(copy_fd)


def publish_node(
    node: str, number: DeviceNumber, path: str, options: tuple[str, ...], roots: tuple[str, ...]
) -> None:
    """Show a device node at the file ``path``, which is made where it is missing.

    ``ro`` keeps nobody from writing to the device of a node on such a mount: kubelet gives the container a
    device it may only read.
    """
    with _open_target(path, roots, is_file=True) as target_fd:
        node_fd = os.open(node, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(node_fd).st_rdev
            if (os.major(found), os.minor(found)) != number:
                raise VanishedError(f"{node} was {number} when it was looked at and is another device now.")
            copy_fd = mount_api.clone_mount(node_fd)
        finally:
            os.close(node_fd)
        try:
            mount_api.set_mount_attributes(copy_fd, frozenset(options))
            attach(copy_fd, target_fd, path)
        finally:
            os.close(copy_fd)


def remove_view(view: View, roots: tuple[str, ...]) -> None:
    """Take the mounts of the volume at its path away, and then the empty directory or file they were at.

    Gone already is done. RefusedError where what is mounted there is not the volume's, or where the directory
    is not empty: it is never emptied.
    """
    parent, _, name = view.path.rpartition("/")
    try:
        with open_mount_point(parent, roots, is_making=False) as parent_fd:
            for _ in range(_MOST_STACKED):
                if not _remove_mount(view, parent_fd, name):
                    break
            _remove_target(view.path, parent_fd, name)
    except NotMountedError:
        return  # kubelet has taken the directory of the pod away


@contextlib.contextmanager
def _open_target(path: str, roots: tuple[str, ...], *, is_file: bool) -> Iterator[int]:
    """Yield an O_PATH descriptor of the directory or file to mount on, which nothing is mounted on yet."""
    parent, _, name = path.rpartition("/")
    try:
        with open_mount_point(parent, roots, is_making=False) as parent_fd:
            _make_target(parent_fd, name, is_file=is_file)
            target_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
            try:
                _check_target(target_fd, path, is_file=is_file)
                yield target_fd
            finally:
                os.close(target_fd)
    except NotMountedError as error:
        raise RefusedError(
            f"{parent} is not there: kubelet makes it before it asks for {path}.",
            hint="The pod is gone, or kubelet's directory has moved; nothing was done.",
            reason=Reason.PATH_NOT_ALLOWED,
        ) from error


def _make_target(parent_fd: int, name: str, *, is_file: bool) -> None:
    with contextlib.suppress(FileExistsError):
        if is_file:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, _FILE_MODE, dir_fd=parent_fd))
        else:
            os.mkdir(name, _DIRECTORY_MODE, dir_fd=parent_fd)


def _check_target(target_fd: int, path: str, *, is_file: bool) -> None:
    check_free(target_fd, path, _WAY_OUT)
    mode = os.fstat(target_fd).st_mode
    if is_file and not stat.S_ISREG(mode):
        raise _taken(path, "no regular file")
    if not is_file and not stat.S_ISDIR(mode):
        raise _taken(path, "no directory")


def _taken(path: str, what: str) -> RefusedError:
    return RefusedError(
        f"{make_printable(path)} is taken: {what} is there.",
        hint=_WAY_OUT,
        reason=Reason.PATH_IN_USE,
    )


def _remove_mount(view: View, parent_fd: int, name: str) -> bool:
    """Unmount the uppermost mount at the target; False where there is none."""
    top = find_top_mount(read_mounts_towards(view.path), view.path)
    if top is None:
        return False
    is_stale = not _is_of(top, view)
    if is_stale and not _is_left_behind(top, view):
        raise _taken(view.path, describe_mount(top, view.path))
    flags = mount_api.UMOUNT_NOFOLLOW | (mount_api.MNT_DETACH if is_stale else 0)
    try:
        mount_api.unmount(f"/proc/self/fd/{parent_fd}/{name}", flags)
    except OSError as error:
        is_busy = error.errno == errno.EBUSY
        raise AgentError(
            f"{make_printable(view.path)} could not be unmounted: {error.strerror}.",
            hint=f"See who uses it: fuser -vm {make_printable(view.path)}" if is_busy else None,
            reason=Reason.DEVICE_BUSY if is_busy else Reason.STEP_FAILED,
        ) from error
    return True


def _is_of(mount: Mount, view: View) -> bool:
    if mount.fs_type == "devtmpfs":
        return view.node is not None and f"/dev{mount.root}" == view.node
    return mount.device_number in view.numbers or find_node_number(mount.source) in view.numbers


def _is_left_behind(mount: Mount, view: View) -> bool:
    """Whether a mount is what a device that is gone has left of the view."""
    if view.is_present is None or (mount.fs_type == "devtmpfs" and view.node is not None):
        return False
    if mount.fs_type == "devtmpfs":
        return find_node_number(f"/dev{mount.root.removesuffix('//deleted')}") is None
    return is_device_gone(mount, view.is_present)


def _remove_target(path: str, parent_fd: int, name: str) -> None:
    try:
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=parent_fd)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(name, dir_fd=parent_fd)
        else:
            raise _taken(path, "a file with content, or a link")
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise _taken(path, "a directory that is not empty") from error
