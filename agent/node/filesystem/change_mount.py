"""What is done to a mount that is there: remount, unmount, thaw, own, measure, grow.

Each function is told the path and the device number of the mount, as mountinfo has them, and does nothing
where another mount is seen there by now. Whether it is, mountinfo tells: a filesystem that hides the mount is
not even walked through. Every function may block on the device and runs in a worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from collections.abc import Iterator

from agent.core.errors import AgentError, CoveredError, NotMountedError, RefusedError
from agent.core.model import DeviceNumber, FsType, Mount, Reason, RootInode
from agent.core.mount_options import NEVER_REMOUNTED, needs_check_first, split_options
from agent.core.quoting import make_printable
from agent.node.filesystem import grow
from agent.node.filesystem.directories import open_directory, read_mount_id
from agent.node.kernel import mount_api
from agent.node.kernel.kmsg import follow_kernel_log
from agent.node.kernel.mountinfo import (
    describe_mount,
    find_seen_mount,
    is_whole,
    read_mounts,
    read_mounts_towards,
)
from agent.node.kernel.swaps import list_swap_files


def remount(path: str, device_number: DeviceNumber, options: tuple[str, ...]) -> None:
    """Give a mount its options in place; parameters not named are left as they are."""
    attributes, parameters = split_options(options)
    with open_mount(path, device_number) as (mount_fd, mount):
        if needs_check_first(mount, options):
            # The kernel has made it read-only since it was looked at, or a person has.
            raise RefusedError(
                f"{path} is read-only by now, or without its journal, and is not made writable in place.",
                hint="It is looked at again by itself; a check comes first, for which it is unmounted.",
                reason=Reason.READ_ONLY,
            )
        if "ro" in attributes:
            # First, so that this mount is read-only even where others keep the filesystem writable.
            mount_api.set_mount_attributes(mount_fd, attributes)
        with mount_api.pick_filesystem(mount_fd) as context, follow_kernel_log() as kernel_log:
            try:
                context.set("ro" if "ro" in attributes else "rw")
                for parameter in parameters:
                    if parameter not in NEVER_REMOUNTED:
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
        mount_api.set_mount_attributes(mount_fd, attributes)


def unmount(mount: Mount) -> None:
    """Flush and unmount; AgentError with reason DeviceBusy while someone uses it. Gone already is done.

    CoveredError where something hides it: what its path leads to is not ours to unmount.
    """
    with contextlib.suppress(NotMountedError):
        unmount_unused(mount)


def detach_stale(mount: Mount) -> None:
    """Take a mount whose device is gone out of sight at once; it ends when its last user lets go.

    One that something hides is left in its place: what its path leads to is somebody else's.
    """
    with (
        contextlib.suppress(CoveredError, NotMountedError),
        open_mount(mount.path, mount.device_number, mount.mount_id) as (mount_fd, _),
    ):
        detach(mount_fd)


def thaw(path: str, device_number: DeviceNumber) -> None:
    """Let writes go on; a filesystem that is not frozen is left as it is."""
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        try:
            mount_api.thaw(root_fd)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            raise AgentError(
                f"{path} could not be thawed: {error.strerror}.", reason=Reason.STEP_FAILED
            ) from error


def set_root_ownership(
    path: str, device_number: DeviceNumber, uid: int | None, gid: int | None, mode: int | None
) -> None:
    """Give a mounted filesystem's root its owner, group and permission bits; None leaves one as it is."""
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        set_owner(root_fd, uid, gid, mode)


def read_root_inode(path: str, device_number: DeviceNumber) -> RootInode:
    """Return owner, group and permission bits of a mounted filesystem's root."""
    with open_mount(path, device_number) as (mount_fd, _):
        return read_inode(mount_fd)


def read_inode(mount_fd: int) -> RootInode:
    """Return owner, group and permission bits of the root of an open mount."""
    status = os.fstat(mount_fd)
    return RootInode(status.st_uid, status.st_gid, status.st_mode & 0o7777)


def read_mounted_size_bytes(path: str, device_number: DeviceNumber, device_fd: int, fs_type: FsType) -> int:
    """Return the bytes a mounted filesystem spans; ``device_fd`` is its device, not opened with O_DIRECT."""
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        return grow.read_size_bytes(root_fd, device_fd, fs_type)


def grow_mounted(path: str, device_number: DeviceNumber, device_fd: int, fs_type: FsType) -> int:
    """Let a mounted filesystem fill its device ``device_fd`` and return the bytes it spans then."""
    with open_mount(path, device_number) as (mount_fd, _), open_root(mount_fd) as root_fd:
        return grow.grow_filesystem(root_fd, device_fd, fs_type)


@contextlib.contextmanager
def open_mount(
    path: str, device_number: DeviceNumber, mount_id: int | None = None
) -> Iterator[tuple[int, Mount]]:
    """Yield an O_PATH descriptor of the mount seen at ``path``, and what mountinfo says of it.

    NotMountedError where it is mounted there no more, CoveredError where something hides it. Neither the
    device nor what hides it is asked anything.
    """
    mount = _find_seen(path, device_number, mount_id)
    with open_seen(mount) as mount_fd:
        yield mount_fd, mount


@contextlib.contextmanager
def open_seen(mount: Mount) -> Iterator[int]:
    """Yield an O_PATH descriptor of a mount that was the one seen at its path by mountinfo just now.

    CoveredError where something else is there by now. Neither the device nor what hides it is asked anything.
    """
    with contextlib.ExitStack() as stack:
        try:
            mount_fd = stack.enter_context(open_directory(mount.path))
        except RefusedError as error:
            raise _hidden(mount.path, "a link") from error
        # What is seen may have changed since, and so may the way there.
        if read_mount_id(mount_fd) != mount.mount_id:
            raise _hidden(mount.path, "what was mounted just now")
        yield mount_fd


def refuse_hidden(mount: Mount) -> None:
    """Raise CoveredError where something hides the mount; one that is gone is hidden by nothing."""
    with contextlib.suppress(NotMountedError):
        _find_seen(mount.path, mount.device_number, mount.mount_id)


def _find_seen(path: str, device_number: DeviceNumber, mount_id: int | None) -> Mount:
    """Return the mount that is meant, as far as ``path`` leads to it."""
    mounts = read_mounts_towards(path)
    seen = find_seen_mount(mounts, path)
    meant = [
        mount
        for mount in mounts
        if (mount.path, mount.device_number) == (path, device_number)
        and mount_id in {None, mount.mount_id}
        and is_whole(mount)
    ]
    if seen is not None and seen in meant:
        return seen
    if meant:
        raise _hidden(path, "another mount" if seen is None else describe_mount(seen, path))
    raise NotMountedError(f"What was mounted at {make_printable(path)} is not mounted there now.")


def _hidden(path: str, beneath: str) -> CoveredError:
    return CoveredError(
        f"What is mounted at {make_printable(path)} is hidden beneath {beneath}.",
        hint="Unmount what covers it (findmnt shows what is mounted where); it is seen again by itself.",
        reason=Reason.PATH_IN_USE,
    )


def unmount_unused(mount: Mount) -> None:
    """Unmount a mount; AgentError with reason DeviceBusy while it is used.

    NotMountedError where it is gone already, CoveredError where something hides it.
    """
    _find_seen(mount.path, mount.device_number, mount.mount_id)
    parent, _, name = mount.path.rpartition("/")
    with open_directory(parent or "/") as parent_fd:
        # Looked at and unmounted in one and the same directory, whatever its own path leads to by then; and
        # the kernel lets nobody rename or replace in it what something is mounted on.
        _check_place(parent_fd, name, mount)
        # A descriptor of the mount held open would itself keep it busy.
        try:
            mount_api.unmount(f"/proc/self/fd/{parent_fd}/{name}", mount_api.UMOUNT_NOFOLLOW)
        except OSError as error:
            raise _cannot_unmount(mount, error) from error


def _check_place(parent_fd: int, name: str, mount: Mount) -> None:
    """Raise CoveredError unless ``name`` in an open directory is the root of the mount."""
    place_fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        if read_mount_id(place_fd) != mount.mount_id:
            raise _hidden(mount.path, "what was put in its way just now")
    finally:
        os.close(place_fd)


def _cannot_unmount(mount: Mount, error: OSError) -> AgentError:
    is_busy = error.errno == errno.EBUSY
    return AgentError(
        f"{make_printable(f'{mount.path} ({mount.source})')} could not be unmounted: {error.strerror}.",
        hint=_explain_busy(mount) if is_busy else None,
        reason=Reason.DEVICE_BUSY if is_busy else Reason.STEP_FAILED,
    )


def _explain_busy(mount: Mount) -> str:
    """Return the way out; of what no process has open, and fuser does not show, by name."""
    inner = next((one.path for one in read_mounts() if one.path.startswith(f"{mount.path}/")), None)
    if inner is not None:
        return f"Unmount what is mounted within it first: umount {make_printable(shlex.quote(inner))}"
    swap = next((path for path in list_swap_files() if path.startswith(f"{mount.path}/")), None)
    if swap is not None:
        return f"A swap file on it is in use: swapoff {make_printable(shlex.quote(swap))}"
    return f"See who uses it: fuser -vm {shlex.quote(mount.path)}"


def detach(mount_fd: int) -> None:
    """Take an open mount out of the tree, whoever uses it."""
    # By descriptor, so exactly this mount goes. The link in /proc has to be followed to it.
    mount_api.unmount(f"/proc/self/fd/{mount_fd}", mount_api.MNT_DETACH)


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
