"""What is done to a mount that is there: remount, unmount, freeze, own, measure, grow.

Each function is told the path and the device number of the mount, as mountinfo has them, and does nothing
where another mount is seen there by now. Every one may block on the device and runs in a worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from agent.errors import AgentError, VanishedError
from agent.model import DeviceNumber, FsType, Mount, Reason, RootInode
from agent.node import growth, mountapi
from agent.node.directories import open_directory, read_mount_id
from agent.node.kernellog import follow_kernel_log
from agent.node.mountinfo import read_mounts_at
from agent.options import split_options


def remount(path: str, device_number: DeviceNumber, options: tuple[str, ...]) -> None:
    """Give a mount its options in place; parameters not named are left as they are."""
    attributes, parameters = split_options(options)
    with open_mount(path, device_number) as (mount_fd, mount):
        if "ro" in attributes:
            # First, so that this mount is read-only even where others keep the filesystem writable.
            mountapi.set_mount_attributes(mount_fd, attributes)
        with mountapi.pick_filesystem(mount_fd) as context, follow_kernel_log() as kernel_log:
            try:
                context.set("ro" if "ro" in attributes else "rw")
                for parameter in parameters:
                    context.set(parameter)
                context.reconfigure()
            except OSError as error:
                said = context.read_messages() or kernel_log.read_about(mount.source)
                words = "; ".join(said[-3:]) or error.strerror
                raise AgentError(
                    f"{path} could not be remounted ({','.join(options)}): {words}.",
                    hint="It stays mounted as it was. Is an option misspelt? Correct it first: unmounted now,"
                    " it would not be mounted again. What only a new mount can set is in force from then on.",
                    reason=Reason.STEP_FAILED,
                ) from error
        mountapi.set_mount_attributes(mount_fd, attributes)


def unmount(mount: Mount) -> None:
    """Flush and unmount; AgentError with reason DeviceBusy while someone uses it. Gone already is done."""
    with contextlib.suppress(VanishedError):
        with open_mount(mount.path, mount.device_number, mount.mount_id):
            pass
        # A descriptor held open would itself keep it busy, so it goes by its path, just looked at.
        unmount_unused(mount.path, mount)


def detach_stale(mount: Mount) -> None:
    """Take a mount whose device is gone out of sight at once; it ends when its last user lets go."""
    with (
        contextlib.suppress(VanishedError),
        open_mount(mount.path, mount.device_number, mount.mount_id) as (mount_fd, _),
    ):
        detach(mount_fd)


def freeze(path: str, device_number: DeviceNumber) -> None:
    """Flush a filesystem and hold all writes, so that a snapshot taken now is consistent."""
    _switch_writes(path, device_number, is_freezing=True)


def thaw(path: str, device_number: DeviceNumber) -> None:
    """Let writes go on; one that is not frozen is left as it is."""
    _switch_writes(path, device_number, is_freezing=False)


def set_root_ownership(
    path: str, device_number: DeviceNumber, uid: int | None, gid: int | None, mode: int | None
) -> None:
    """Give a mounted filesystem's root its owner, group and permission bits; None leaves one as it is."""
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        set_owner(root_fd, uid, gid, mode)


def read_root_inode(path: str, device_number: DeviceNumber) -> RootInode:
    """Return owner, group and permission bits of a mounted filesystem's root."""
    with open_mount(path, device_number) as (mount_fd, _):
        status = os.fstat(mount_fd)
    return RootInode(status.st_uid, status.st_gid, status.st_mode & 0o7777)


def read_mounted_size_bytes(path: str, device_number: DeviceNumber, device_fd: int, fs_type: FsType) -> int:
    """Return the bytes a mounted filesystem spans; ``device_fd`` is its device, not opened with O_DIRECT."""
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        return growth.read_size_bytes(root_fd, device_fd, fs_type)


def grow_mounted(path: str, device_number: DeviceNumber, device_fd: int, fs_type: FsType) -> int:
    """Let a mounted filesystem fill its device ``device_fd`` and return the bytes it spans then."""
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        return growth.grow_filesystem(root_fd, device_fd, fs_type)


@contextlib.contextmanager
def open_mount(
    path: str, device_number: DeviceNumber, mount_id: int | None = None
) -> Iterator[tuple[int, Mount]]:
    """Yield an O_PATH descriptor of the mount seen at ``path``, and what mountinfo says of it.

    VanishedError where another mount, or none, is seen there. Opening so reads nothing from the device.
    """
    with open_directory(path) as mount_fd:
        seen_id = read_mount_id(mount_fd)
        mount = next((mount for mount in read_mounts_at(path) if mount.mount_id == seen_id), None)
        if mount is None or mount.device_number != device_number:
            raise _not_there(path)
        if mount_id is not None and seen_id != mount_id:
            raise _not_there(path)
        yield mount_fd, mount


def _not_there(path: str) -> VanishedError:
    return VanishedError(
        f"What was mounted at {path} is not what is seen there now.",
        hint="It was unmounted or covered meanwhile (see findmnt); the next look decides anew.",
    )


def unmount_unused(path: str, mount: Mount) -> None:
    """Unmount what is at ``path``, which is ``mount``; AgentError with reason DeviceBusy while it is used."""
    try:
        mountapi.unmount(path, mountapi.UMOUNT_NOFOLLOW)
    except OSError as error:
        is_busy = error.errno == errno.EBUSY
        raise AgentError(
            f"{path} ({mount.source}) could not be unmounted: {error.strerror}.",
            hint=f"See who uses it: fuser -vm {path}" if is_busy else None,
            reason=Reason.DEVICE_BUSY if is_busy else Reason.STEP_FAILED,
        ) from error


def detach(mount_fd: int) -> None:
    """Take an open mount out of the tree, whoever uses it."""
    # By descriptor, so exactly this mount goes. The link in /proc has to be followed to it.
    mountapi.unmount(f"/proc/self/fd/{mount_fd}", mountapi.MNT_DETACH)


def _switch_writes(path: str, device_number: DeviceNumber, *, is_freezing: bool) -> None:
    already = errno.EBUSY if is_freezing else errno.EINVAL
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        try:
            (mountapi.freeze if is_freezing else mountapi.thaw)(root_fd)
        except OSError as error:
            if error.errno == already:
                return
            what = "frozen" if is_freezing else "thawed"
            raise AgentError(
                f"{path} could not be {what}: {error.strerror}.", reason=Reason.STEP_FAILED
            ) from error


@contextlib.contextmanager
def open_root(mount_fd: int) -> Iterator[int]:
    """Yield a descriptor for ioctls and changes of a mount's root; an O_PATH one allows neither."""
    root_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount_fd)
    try:
        yield root_fd
    finally:
        os.close(root_fd)


def set_owner(root_fd: int, uid: int | None, gid: int | None, mode: int | None) -> None:
    """Give an open directory its owner, group and permission bits; None leaves one as it is."""
    if uid is not None or gid is not None:
        os.fchown(root_fd, -1 if uid is None else uid, -1 if gid is None else gid)
    # After the owner: changing that one clears the set-user and set-group bits.
    if mode is not None:
        os.fchmod(root_fd, mode)
