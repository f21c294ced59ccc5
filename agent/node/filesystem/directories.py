"""Directories to mount on: reached, and made, without following a single symbolic link.

The rule: a directory on the way must belong to root, and what it holds must be safe from others in it.
That is so where nobody but root may write in it, or where it is sticky (as ``/tmp``) and the next directory
belongs to root. Then nobody else can put another directory in the place of one that was looked at. The last
directory itself may belong to anybody, since the mount covers it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from collections.abc import Iterator, Sequence

from agent.core.errors import AgentError, NotMountedError, RefusedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason
from agent.core.quoting import make_printable
from agent.node.kernel.mountinfo import describe_mount, find_top_mount, read_mounts_towards
from agent.node.kernel.open_files import PROC, Descriptor

_OPEN_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MADE_MODE = 0o755
_ANOTHER_PATH = "Unmount it, or give the volume another path in the policy."
_ACCESS_LIST = "system.posix_acl_access"


@contextlib.contextmanager
def open_mount_point(path: str, allowed_roots: Sequence[str], *, is_making: bool = True) -> Iterator[int]:
    """Yield an O_PATH descriptor of the directory at ``path``, made with its parents where missing.

    ``is_making`` False: NotMountedError where it is missing. Raises RefusedError with reason PathNotAllowed
    for a path that is not beneath an allowed root, leads through a symbolic link, or could be swapped by
    someone other than root.
    """
    check_beneath(path, allowed_roots)
    with _walk(path, is_making=is_making, is_held_to_rule=True) as fd:
        yield fd


def is_missing(path: str | None) -> bool:
    """Tell whether there is a path, and no directory at it."""
    if path is None:
        return False
    try:
        with open_directory(path):
            return False
    except NotMountedError:
        return True
    except RefusedError:
        return False  # something is there; what, is told when it is to be mounted on


@contextlib.contextmanager
def open_directory(path: str) -> Iterator[int]:
    """Yield an O_PATH descriptor of an existing directory, following no symbolic link; no rule on owners.

    NotMountedError where there is none, and so nothing is mounted on it.
    """
    with _walk(path, is_making=False, is_held_to_rule=False) as fd:
        yield fd


@contextlib.contextmanager
def open_place(path: str) -> Iterator[int]:
    """Yield an O_PATH descriptor of what is at ``path``, a directory or a file; follows no symbolic link.

    A link at the end is opened itself. NotMountedError where nothing is there.
    """
    *parents, name = split_path(path)
    parent_path = "".join(f"/{parent}" for parent in parents)
    with open_directory(parent_path or "/") as parent_fd:
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        except OSError as error:
            raise _cannot_enter(parent_fd, name, path, error) from error
        try:
            yield fd
        finally:
            os.close(fd)


def check_beneath(path: str, allowed_roots: Sequence[str]) -> None:
    """Raise RefusedError unless ``path`` is written plainly and lies beneath an allowed root."""
    components = split_path(path)
    for root in allowed_roots:
        parents = split_path(root)
        if len(components) > len(parents) and components[: len(parents)] == parents:
            return
    raise RefusedError(
        f"{path} is not beneath an allowed root ({', '.join(allowed_roots) or 'there is none'}).",
        hint="Choose another mount path, or add its root to allowed_roots in the policy.",
        reason=Reason.PATH_NOT_ALLOWED,
        retryable=False,
    )


def split_path(path: str) -> list[str]:
    """Return the components of an absolute path; RefusedError where one is empty, ``.`` or ``..``."""
    components = path.split("/")[1:]
    # A root may be written with a slash at its end, and / is a path without components.
    if components and components[-1] == "":
        components.pop()
    if not path.startswith("/") or "\0" in path or any(part in {"", ".", ".."} for part in components):
        raise RefusedError(
            f"{path!r} is not a plain absolute path.",
            hint="Write it from / on, without empty components, . and ...",
            reason=Reason.PATH_NOT_ALLOWED,
            retryable=False,
        )
    return components


def read_mount_id(fd: int) -> int:
    """Return the ID, as in mountinfo, of the mount that a descriptor was opened on."""
    mount_id = Descriptor(PROC / "self", str(fd)).read_mount_id()
    if mount_id is None:
        raise AgentError("The kernel does not tell the mount of an open descriptor.", retryable=False)
    return mount_id


def check_free(place_fd: int, path: str, hint: str = _ANOTHER_PATH) -> None:
    """Refuse a directory or file that something is mounted on."""
    mount_id = read_mount_id(place_fd)
    top = find_top_mount(read_mounts_towards(path), path)
    if top is not None and top.mount_id == mount_id:
        raise RefusedError(
            f"{make_printable(path)} is taken: {describe_mount(top, path)} is mounted there.",
            hint=hint,
            reason=Reason.PATH_IN_USE,
        )


@contextlib.contextmanager
def _walk(path: str, *, is_making: bool, is_held_to_rule: bool) -> Iterator[int]:
    fd = os.open("/", _OPEN_FLAGS)
    try:
        walked = ""
        for component in split_path(path):
            child = _enter(fd, component, walked, is_making=is_making, is_held_to_rule=is_held_to_rule)
            os.close(fd)
            fd = child
            walked = f"{walked}/{component}"
        yield fd
    finally:
        os.close(fd)


def _enter(parent: int, name: str, parent_path: str, *, is_making: bool, is_held_to_rule: bool) -> int:
    path = f"{parent_path}/{name}"
    try:
        if is_making and not _exists(parent, name):
            _check_entry(parent, None, parent_path or "/", path)
            _make(parent, name)
        child = os.open(name, _OPEN_FLAGS, dir_fd=parent)
    except OSError as error:
        raise _cannot_enter(parent, name, path, error) from error
    if is_held_to_rule:
        try:
            _check_entry(parent, os.fstat(child), parent_path or "/", path)
        except BaseException:
            os.close(child)
            raise
    return child


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _make(parent: int, name: str) -> None:
    os.mkdir(name, _MADE_MODE, dir_fd=parent)
    # A strict umask would shut everybody out of what is mounted beneath.
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchmod(made, _MADE_MODE)
    finally:
        os.close(made)


def _cannot_enter(parent: int, name: str, path: str, error: OSError) -> AgentError:
    if error.errno == errno.ENOENT:
        return NotMountedError(f"The directory {path} is not there.")
    if is_shortage(error):
        return explain_shortage(f"The directory {path} could not be opened or made", error)
    if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
        return AgentError(
            f"The directory {path} could not be opened or made: {error.strerror}.",
            hint="Make it by hand, or choose a mount path on a writable filesystem.",
            reason=Reason.STEP_FAILED,
        )
    kind = "not a directory"
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            kind = "a symbolic link"
    return RefusedError(
        f"{path} is {kind}, and mounts follow no links.",
        hint=f"Remove it (whose it is: ls -ld {shlex.quote(path)}), or write the real path in the policy.",
        reason=Reason.PATH_NOT_ALLOWED,
    )


def _check_entry(parent_fd: int, child: os.stat_result | None, parent_path: str, path: str) -> None:
    """Hold one step of the way to the rule; ``child`` None is one that root is about to make."""
    parent = os.fstat(parent_fd)
    is_sticky = bool(parent.st_mode & stat.S_ISVTX) and (child is None or child.st_uid == 0)
    if parent.st_uid != 0:
        why = f"{parent_path} belongs to user {parent.st_uid}"
    elif _is_writable_by_others(parent_fd) and not is_sticky:
        why = f"others may write in {parent_path}"
    else:
        return
    raise RefusedError(
        f"{path} is no safe place to mount on: {why}, who could put something else there.",
        hint="Choose a path all of whose directories are root's alone, as below /data or /mnt. A user's own"
        " directory stays the user's: bind-mount the volume there instead.",
        reason=Reason.PATH_NOT_ALLOWED,
    )


def _is_writable_by_others(directory_fd: int) -> bool:
    status = os.fstat(directory_fd)
    if status.st_mode & stat.S_IWOTH:
        return True
    # Group 0 is root's own. Where an access control list is set, the group's bits are no group's: they are
    # the most that it grants to anybody it names.
    return bool(status.st_mode & stat.S_IWGRP) and (status.st_gid != 0 or _has_access_list(directory_fd))


def _has_access_list(directory_fd: int) -> bool:
    """Whether an open directory has a list that may let others in; so it has where that cannot be told."""
    try:
        # Of a descriptor that was opened with O_PATH only its link tells.
        os.getxattr(f"/proc/self/fd/{directory_fd}", _ACCESS_LIST)
    except OSError as error:
        return error.errno not in {errno.ENODATA, errno.ENOTSUP}
    return True
