"""Who is left on a mount that was taken out of sight because its device is gone: known by what they held.

The kernel keeps such a mount, and the filesystem on it, until the last process lets go; every access answers
an error. Nothing lists it, so the processes that use it are noted while it is still in its place, and looked
up afterwards. Reads ``/proc`` only, as ``agent.node.mounts.mount_users`` does, and follows no link in it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
from msgspec import Struct

from agent.core.errors import InconclusiveError, ShortageError
from agent.core.model import DeviceNumber, Mount, Process
from agent.node.filesystem import change_mount
from agent.node.kernel.open_files import PROC, list_descriptors, read_link
from agent.node.mounts.mount_users import find_processes

_LINKS = ("cwd", "root", "exe")
_LOOKS = 2
"""In vain, before somebody counts as gone: a descriptor may be passed on while one looks."""


class User(Struct, frozen=True):
    """A process that used a mount, and what it would be known by if it still does."""

    process: Process
    started: float
    links: frozenset[tuple[str, str]] = frozenset()
    """Working directory, root and program on the mount, as they read once it is out of sight."""


class Leftover(Struct, frozen=True):
    """A mount that is out of sight, and those who used it when it went."""

    mount_id: int
    device_number: DeviceNumber
    users: tuple[User, ...]


def detach_and_note(mount: Mount) -> Leftover:
    """Take a mount whose device is gone out of sight, and return who uses it on.

    CoveredError where something hides it; it is noted on, and taken away once it is seen.
    """
    change_mount.refuse_hidden(mount)
    users = []
    for process in _find_users(mount):
        # A process may end at any moment.
        with contextlib.suppress(OSError, psutil.Error):
            users.append(_note_user(process, mount.path))
    change_mount.detach_stale(mount)
    return Leftover(mount.mount_id, mount.device_number, tuple(users))


def _find_users(mount: Mount) -> tuple[Process, ...]:
    """Return who uses the mount; whoever may not be looked at keeps nothing in sight whose device is gone."""
    try:
        # A worker of the agent's too: stuck on its device, it keeps the filesystem for as long.
        return find_processes(mount.path, mount.device_number, are_workers_named=True)
    except ShortageError:
        raise
    except InconclusiveError:
        return ()


def list_left(leftovers: tuple[Leftover, ...]) -> tuple[Process, ...]:
    """Return those of the users who still use their mount."""
    return tuple(
        user.process for leftover in leftovers for user in leftover.users if _is_left(user, leftover)
    )


def _note_user(process: Process, path: str) -> User:
    links = set()
    for name in _LINKS:
        target = read_link(PROC / str(process.pid) / name)
        if target == path or target.startswith(f"{path}/"):
            # Out of the tree, the mount's root is where its paths begin.
            links.add((name, target.removeprefix(path) or "/"))
    return User(process, psutil.Process(process.pid).create_time(), frozenset(links))


def _is_left(user: User, leftover: Leftover, proc: Path = PROC) -> bool:
    """Whether it still has the mount: not only where that cannot be told, or was not seen once."""
    try:
        return any(_is_seen(user, leftover, proc) for _ in range(_LOOKS))
    except psutil.NoSuchProcess:
        return False
    except (OSError, psutil.Error):
        return True


def _is_seen(user: User, leftover: Leftover, proc: Path) -> bool:
    directory = proc / str(user.process.pid)
    if psutil.Process(user.process.pid).create_time() != user.started:
        return False
    return (
        any((name, read_link(directory / name)) in user.links for name in _LINKS)
        or any(one.read_mount_id() == leftover.mount_id for one in list_descriptors(directory))
        or _has_own_mount(directory, leftover.device_number)
    )


def _has_own_mount(directory: Path, number: DeviceNumber) -> bool:
    """Whether a process of another mount namespace, as in a container, still sees the device mounted."""
    if read_link(directory / "ns/mnt") == read_link(PROC / "self/ns/mnt"):
        return False
    word = f" {number} ".encode()
    return any(word in line for line in (directory / "mountinfo").read_bytes().splitlines())
