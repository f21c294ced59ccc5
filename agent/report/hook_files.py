"""Which programs of ``hooks.d`` may be run: those that nobody but root can have put there.

For workers, as the disk may hang: it imports little.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

from agent.core.errors import RefusedError
from agent.node.isolate.messages import Fd

_HOOK_NAME = re.compile(r"[A-Za-z0-9_-]+(\.(sh|py))?", re.ASCII)
"""As run-parts(8) has it, so that an editor's and a package manager's leftovers are not run."""


def list_hooks(directory: Path, owner_uid: int | None = None) -> tuple[Path, ...]:
    """Return the programs of ``directory`` to run, in the order of their names; none where there is no such.

    Raises RefusedError where somebody but root and ``owner_uid`` (by default whoever the agent runs as) could
    have put a program there, or changed one, or put another directory in its place.
    """
    owner_uid = os.geteuid() if owner_uid is None else owner_uid
    try:
        _check_trusted(directory, directory.lstat(), owner_uid, stat.S_ISDIR, "a directory")
        for parent in {*directory.absolute().parents, *directory.resolve().parents}:
            _check_parent(directory, parent, owner_uid)
        entries = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return ()
    hooks = []
    for entry in entries:
        status = entry.lstat()
        if _HOOK_NAME.fullmatch(entry.name) and status.st_mode & 0o111:
            _check_trusted(entry, status, owner_uid, stat.S_ISREG, "a file")
            hooks.append(entry)
    return tuple(hooks)


def open_hook(program: Path) -> Fd:
    """Open a hook to run it by its descriptor; RefusedError where somebody else could have changed it.

    What is looked at is what is run, whatever takes its place meanwhile. The descriptor is the caller's.
    """
    fd = os.open(program, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_trusted(program, os.fstat(fd), os.geteuid(), stat.S_ISREG, "a file")
    except BaseException:
        os.close(fd)
        raise
    return Fd(fd)


def _check_trusted(
    path: Path, status: os.stat_result, owner_uid: int, is_kind: Callable[[int], bool], kind: str
) -> None:
    why = None
    if not is_kind(status.st_mode):
        why = f"it is not {kind}"
    elif status.st_uid != owner_uid:
        why = f"it belongs to user {status.st_uid}"
    elif status.st_mode & 0o022:
        why = f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    if why is not None:
        name = shlex.quote(str(path))
        raise RefusedError(
            f"No hook is run: {path} cannot be trusted, since {why}.",
            hint=f"Look at what it does, then: chown root:root {name}; chmod go-w {name}",
            retryable=False,
        )


def _check_parent(directory: Path, parent: Path, owner_uid: int) -> None:
    """Refuse a directory above the hooks in which somebody else could exchange what leads to them."""
    status = parent.stat()
    why = None
    if status.st_uid not in {0, owner_uid}:
        why = f"belongs to user {status.st_uid}"
    elif status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        why = f"can be written to by others (mode {stat.S_IMODE(status.st_mode):04o})"
    if why is not None:
        raise RefusedError(
            f"No hook is run: {parent}, which leads to {directory}, {why}.",
            hint="Hooks belong below directories that only root may change, as /etc is.",
            retryable=False,
        )
