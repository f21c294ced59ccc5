"""Stable links of volumes below one directory: ``by-id/vol-…``, and names of the policy's choice.

A link is only ever replaced or removed where it is a symbolic link of root's; anything else in its place is
refused and left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from collections.abc import Collection
from pathlib import Path

from agent.core.errors import AgentError, RefusedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason

BY_ID = "by-id"

_LINK_NAME = re.compile(r"(?:by-id/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TEMPORARY_PREFIX = ".new-"


def list_links(directory: Path) -> dict[str, str]:
    """Return the links below ``directory`` and what each leads to: ``by-id/vol-…`` and policy names."""
    links: dict[str, str] = {}
    for prefix, place in (("", directory), (f"{BY_ID}/", directory / BY_ID)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
            for entry in entries:
                if entry.is_symlink() and not entry.name.startswith(_TEMPORARY_PREFIX):
                    links[f"{prefix}{entry.name}"] = os.readlink(entry.path)  # noqa: PTH115 (a DirEntry)
    return links


def find_links_to(directory: Path, device_path: str) -> frozenset[str]:
    """Return the names of the links that lead to a device node."""
    return frozenset(name for name, target in list_links(directory).items() if target == device_path)


def set_link(directory: Path, name: str, device_path: str) -> None:
    """Make ``name`` below ``directory`` lead to a device node, in one step that nobody sees half done."""
    if not _LINK_NAME.fullmatch(name) or name == BY_ID:
        raise RefusedError(f"{name!r} cannot be the name of a link.", retryable=False)
    link = directory / name
    link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        with contextlib.suppress(FileExistsError):
            link.symlink_to(device_path)
            return
        _check_replaceable(link)
        temporary = link.with_name(f"{_TEMPORARY_PREFIX}{link.name}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(device_path)
        temporary.rename(link)
    except OSError as error:
        if is_shortage(error, writes=True):
            raise explain_shortage(f"The link {link} could not be made", error) from error
        raise AgentError(
            f"The link {link} could not be made: {error.strerror}.", reason=Reason.STEP_FAILED
        ) from error


def remove_links(directory: Path, live: Collection[str]) -> list[str]:
    """Remove every link below ``directory`` whose name is not in ``live``; return the names removed.

    One in ``live`` that leads elsewhere stays: it is :func:`set_link` that brings it up to date.
    """
    removed: list[str] = []
    for name in list_links(directory):
        if name not in live:
            link = directory / name
            with contextlib.suppress(RefusedError, FileNotFoundError):
                _check_replaceable(link)
                link.unlink()
                removed.append(name)
    return removed


def _check_replaceable(link: Path) -> None:
    try:
        status = link.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISLNK(status.st_mode) or status.st_uid not in {0, os.geteuid()}:
        raise RefusedError(
            f"{link} is not a link of the agent's and is left alone.",
            hint=f"Find out what made it, and remove it: ls -ld {shlex.quote(str(link))}",
            reason=Reason.PATH_IN_USE,
        )
