"""Has several mounts change places at once: runs in a worker, and looks before and after for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from agent.core.errors import AgentError, CoveredError, NotMountedError
from agent.core.model import Mount, Reason, Relocation
from agent.core.quoting import make_printable
from agent.node.filesystem.change_mount import detach, open_mount, unmount_unused
from agent.node.filesystem.directories import check_beneath, check_free, open_directory, open_mount_point
from agent.node.filesystem.mount import attach
from agent.node.kernel import mount_api
from agent.node.mounts.mount_users import SEARCH_S, find_processes


def are_seen(ring: tuple[Relocation, ...]) -> bool:
    """Tell whether each of them is mounted where it is noted to be, hidden by nothing."""
    try:
        for one in ring:
            with open_mount(one.path, one.device_number):
                pass
    except (CoveredError, NotMountedError):
        return False
    return True


def refuse_used(ring: tuple[Relocation, ...]) -> None:
    """Raise AgentError with reason DeviceBusy where somebody uses one of them."""
    for one in ring:
        users = find_processes(one.path, one.device_number, SEARCH_S)
        if users:
            names = ", ".join(f"{user.name} ({user.pid})" for user in users[:5])
            raise AgentError(
                f"{make_printable(one.path)} and others change places, and {names} use it.",
                hint="End them, or put the old paths back in the policy; nothing was moved.",
                reason=Reason.DEVICE_BUSY,
            )


def exchange_mounts(ring: tuple[Relocation, ...], allowed_roots: tuple[str, ...]) -> None:
    """Take all of them to their new paths, or leave each where it was and raise.

    Each is copied first, where nobody sees it, so that there is something to put back: AgentError with reason
    DeviceBusy where somebody uses one of them. Killed in between, those that are mounted nowhere are mounted
    at their new paths, which are free, at the next look.
    """
    for one in ring:
        check_beneath(one.to_path, allowed_roots)
    refuse_used(ring)
    # What is to be undone is undone before the copies are closed, and all of it, whatever of it fails.
    with ExitStack() as stack, ExitStack() as undo:
        mounts, copies, spares = [], [], []
        for one in ring:
            with open_mount(one.path, one.device_number) as (mount_fd, mount):
                mounts.append(mount)
                copies.append(stack.enter_context(_copied(mount_fd)))
                spares.append(stack.enter_context(_copied(mount_fd)))
        for mount, spare in zip(mounts, spares, strict=True):
            unmount_unused(mount)
            undo.callback(_put_back, mount, spare)
        for one, copy in zip(ring, copies, strict=True):
            with open_mount_point(one.to_path, allowed_roots) as directory_fd:
                check_free(directory_fd, one.to_path)
                attach(copy, directory_fd, one.to_path)
            undo.callback(detach, copy)
        undo.pop_all()


@contextmanager
def _copied(mount_fd: int) -> Iterator[int]:
    copy_fd = mount_api.clone_mount(mount_fd)
    try:
        yield copy_fd
    finally:
        os.close(copy_fd)


def _put_back(mount: Mount, spare: int) -> None:
    with open_directory(mount.path) as directory_fd:
        attach(spare, directory_fd, mount.path)
