"""Mounting: device and place are checked to be those that were meant, before anyone can see the mount.

A filesystem is set up while it is attached nowhere, its device number is compared there, its root gets owner
and mode, and only then it is attached, at a directory held open. Every function here may block on the device
and runs in a worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from agent.core.errors import AgentError, RefusedError, VanishedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import DeviceNumber, FsType, Reason
from agent.core.mount_options import split_options
from agent.node.filesystem import grow
from agent.node.filesystem.change_mount import detach, open_mount, open_root, set_owner, unmount_unused
from agent.node.filesystem.directories import (
    check_free,
    open_directory,
    open_mount_point,
    open_place,
    read_mount_id,
)
from agent.node.kernel import mount_api
from agent.node.kernel.kmsg import follow_kernel_log

_DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA}
"""What filesystems answer when it is their device or their own structures that are bad."""


class MountRequest(Struct, frozen=True):
    """What to mount where. ``source`` is where to find the device; the number is what it must then be."""

    source: str
    device_number: DeviceNumber
    type: FsType
    uuid: str
    path: str
    allowed_roots: tuple[str, ...]
    options: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    is_directory_made: bool = True
    """The directory is made where it is missing."""


class _KnownAlreadyError(AgentError):
    """The kernel takes a btrfs filesystem for one that is mounted."""


def mount_filesystem(request: MountRequest) -> int:
    """Mount as requested and return the mount's ID, or raise and leave nothing mounted.

    Files that lay in the directory are untouched, and hidden while the mount lasts.

    RefusedError where the path is not safe or is taken, VanishedError where the device at ``source`` is
    another one by now, AgentError with the kernel's words where it will not mount.
    """
    opening = open_mount_point(request.path, request.allowed_roots, is_making=request.is_directory_made)
    with opening as directory_fd:
        check_free(directory_fd, request.path)
        with _make_mount(request, directory_fd) as mount_fd:
            return read_mount_id(mount_fd)


def move_mount(path: str, device_number: DeviceNumber, to_path: str, allowed_roots: tuple[str, ...]) -> None:
    """Take a mount that nobody uses to another path.

    Not by the kernel's own move, which is refused below a shared mount, and systemd shares all: attached at
    the new place as well, then unmounted at the old. Killed in between, it is mounted at both. While
    someone uses it, raises AgentError with reason DeviceBusy and leaves it where it was alone.
    """
    with open_mount_point(to_path, allowed_roots) as directory_fd:
        check_free(directory_fd, to_path)
        with open_mount(path, device_number) as (mount_fd, mount):
            copy_fd = mount_api.clone_mount(mount_fd)
        try:
            attach(copy_fd, directory_fd, to_path)
            try:
                unmount_unused(mount)
            except BaseException:
                detach(copy_fd)
                raise
        finally:
            os.close(copy_fd)


@contextlib.contextmanager
def _make_mount(request: MountRequest, directory_fd: int) -> Iterator[int]:
    """Yield the descriptor of the attached and checked mount."""
    try:
        mount_fd = _open_detached_mount(request)
    except OSError as error:
        if not mount_api.is_unavailable(error):
            raise explain_mount_failure(request, error, []) from error
        with _mount_by_old_call(request, directory_fd) as mount_fd:
            yield mount_fd
        return
    try:
        _check_device(mount_fd, request)
        _give_ownership(mount_fd, request)
        attach(mount_fd, directory_fd, request.path)
        yield mount_fd
    finally:
        os.close(mount_fd)


def _open_detached_mount(request: MountRequest) -> int:
    """Set the filesystem up and return a mount nobody can see. OSError ENOSYS: no such calls here."""
    try:
        return _set_up(request)
    except _KnownAlreadyError:
        if not mount_api.forget_btrfs_device(request.source):
            raise
        return _set_up(request)


def _set_up(request: MountRequest) -> int:
    attributes, parameters = split_options(request.options)
    _check_source(request)
    with mount_api.open_filesystem(request.type.value) as context, follow_kernel_log() as kernel_log:
        try:
            context.set(f"source={request.source}")
            context.set("ro" if "ro" in attributes else "rw")
            for parameter in parameters:
                context.set(parameter)
            context.create()
            return context.open_mount(attributes)
        except OSError as error:
            # The context has what the parser of options said, the kernel's log what the filesystem did.
            said = context.read_messages() or kernel_log.read_about(request.source)
            failure = explain_mount_failure(request, error, said)
            if request.type is FsType.BTRFS and error.errno == errno.EEXIST:
                raise _KnownAlreadyError(failure.message, failure.hint, failure.reason) from error
            raise failure from error


def _check_source(request: MountRequest) -> None:
    """Raise VanishedError where the node leads elsewhere by now.

    The kernel opens it anew, and a log it replays is replayed before the mount can be looked at.
    """
    found = Path(request.source).stat().st_rdev
    if (os.major(found), os.minor(found)) != request.device_number:
        raise VanishedError(
            f"{request.source} was {request.device_number} when it was looked at and is another device now;"
            " nothing was mounted.",
            hint="Devices were renumbered meanwhile; the next look finds the volume again.",
        )


@contextlib.contextmanager
def _mount_by_old_call(request: MountRequest, directory_fd: int) -> Iterator[int]:
    """Mount with mount(2), where what was mounted can be looked at only after everybody can see it."""
    attributes, parameters = split_options(request.options)
    _check_source(request)
    target = f"/proc/self/fd/{directory_fd}"
    with follow_kernel_log() as kernel_log:
        try:
            flags = mount_api.old_flags(attributes)
            mount_api.mount_by_old_call(
                request.source, target, request.type.value, flags, ",".join(map(_quote, parameters))
            )
        except OSError as error:
            said = kernel_log.read_about(request.source)
            raise explain_mount_failure(request, error, said) from error
    with open_directory(request.path) as mount_fd:
        if read_mount_id(mount_fd) == read_mount_id(directory_fd):
            raise _swapped(request.path)
        try:
            _check_device(mount_fd, request)
            _give_ownership(mount_fd, request)
        except BaseException:
            detach(mount_fd)
            raise
        yield mount_fd


def _quote(parameter: str) -> str:
    """Return a parameter as the one string of mount(2) has it, where a comma ends a value without quotes."""
    key, _, value = parameter.partition("=")
    return f'{key}="{value}"' if "," in value else parameter


def _check_device(mount_fd: int, request: MountRequest) -> None:
    """Raise VanishedError unless the mount is of the very device that was looked at."""
    with open_root(mount_fd) as root_fd:
        found: DeviceNumber | None
        if request.type is FsType.BTRFS:
            found = grow.find_btrfs_number(root_fd, request.uuid)
        else:
            number = os.fstat(root_fd).st_dev
            found = DeviceNumber(os.major(number), os.minor(number))
    if found != request.device_number:
        raise VanishedError(
            f"{request.source} was {request.device_number} when it was looked at and is"
            f" {found or 'another filesystem'} now; nothing was mounted.",
            hint="Devices were renumbered meanwhile; the next look finds the volume again.",
        )


def _give_ownership(mount_fd: int, request: MountRequest) -> None:
    if "ro" not in split_options(request.options)[0]:
        with open_root(mount_fd) as root_fd:
            try:
                set_owner(root_fd, request.uid, request.gid, request.mode)
            except PermissionError as error:
                raise AgentError(
                    f"The root directory of {request.source} could not be given the policy's owner and mode:"
                    f" {error.strerror} (chown, chmod). Nothing stays mounted.",
                    hint="It may be immutable: mount it by hand and chattr -i its root directory; or take"
                    " owner, group and mode out of the policy.",
                    reason=Reason.STEP_FAILED,
                ) from error


def attach(mount_fd: int, place_fd: int, path: str) -> None:
    """Attach a detached mount at a directory or file, and make sure that it is what its path leads to."""
    try:
        mount_api.attach_mount(mount_fd, place_fd)
    except OSError as error:
        raise AgentError(
            f"The volume could not be attached at {path}: {error.strerror}.", reason=Reason.STEP_FAILED
        ) from error
    try:
        with open_place(path) as seen_fd:
            is_seen = read_mount_id(seen_fd) == read_mount_id(mount_fd)
    except AgentError:
        is_seen = False
    if not is_seen:
        detach(mount_fd)
        raise _swapped(path)


def _swapped(path: str) -> AgentError:
    return RefusedError(
        f"{path} was moved or covered while it was being mounted on; nothing stays mounted.",
        hint="Find out who renames or mounts there (auditctl, findmnt); the next look tries again.",
        reason=Reason.PATH_IN_USE,
    )


_UNSUPPORTED = re.compile(
    r"unsupported|not supported|deprecated|bad block size|blocksize|sectorsize|sector size|page size"
    r"|incompat|unknown feature|couldn't mount because of",
    re.IGNORECASE,
)
"""Words of ext4, xfs and btrfs for what the kernel would have to be newer for, or built otherwise."""
_QUOTAS = frozenset({"quota", "usrquota", "grpquota", "prjquota", "pquota", "uquota", "gquota"})


def explain_mount_failure(request: MountRequest, error: OSError, said: list[str]) -> AgentError:
    """Return why it did not mount: by the kernel's number, and by its words where that number means much."""
    words = "; ".join(message.rstrip(". ") for message in said[-3:]) or error.strerror or str(error)
    where = f"{request.source} did not mount at {request.path}"
    if is_shortage(error):
        return explain_shortage(where, error)
    reason = Reason.FILESYSTEM_ERRORS if error.errno in _DAMAGE else Reason.STEP_FAILED
    if error.errno in {errno.EINVAL, errno.EOPNOTSUPP, errno.EROFS} and _UNSUPPORTED.search(words):
        reason = Reason.UNSUPPORTED
    return AgentError(f"{where}: {words}.", hint=_choose_hint(request, error, reason), reason=reason)


def _choose_hint(request: MountRequest, error: OSError, reason: Reason) -> str:
    if reason is Reason.UNSUPPORTED:
        return (
            f"This kernel ({os.uname().release}) cannot mount it as it was made; nothing was changed. Use one"
            " that can. If the agent has just made it with mkfs_options of the policy, take those back, then:"
            f" wipefs -a {request.source}, and ebs-agent forget for the volume."
        )
    parameters = {option.partition("=")[0] for option in split_options(request.options)[1]}
    if error.errno == errno.EINVAL and parameters & _QUOTAS:
        return (
            f"{', '.join(sorted(parameters & _QUOTAS))} needs a kernel with quotas, and on ext4 the feature:"
            f" tune2fs -O quota,project {request.source}"
        )
    return {
        errno.EBUSY: "Something holds the device, or mounted it with other options (lsblk, findmnt).",
        errno.EEXIST: "What has the same ID is mounted (lsblk -o NAME,UUID,MOUNTPOINT), and before Linux 6.7"
        " btrfs mounts no copy beside it: unmount that, or give this one an ID of its own:"
        f" btrfstune -m {request.source}",
        errno.ENODEV: f"Load the kernel's module: modprobe {request.type}.",
        errno.EINVAL: "Does this filesystem know all mount options of the policy? The kernel log tells more.",
    }.get(error.errno or 0, "The kernel log (dmesg) tells more.")
