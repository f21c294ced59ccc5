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
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec import Struct

from agent.core.errors import AgentError, RefusedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason

BY_ID = "by-id"
_DIRECTORY_MODE = 0o755

_LINK_NAME = re.compile(r"(?:by-id/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TEMPORARY_PREFIX = ".new-"
_CLOCK_S = 2
"""Further apart than two changes of a directory that bear one time."""


class _Kept(Struct, frozen=True):
    """The names that lead to each device, and what the directories were like before they were read."""

    marks: tuple[tuple[int, int, int] | None, ...]
    names: Mapping[str, frozenset[str]]


_kept: dict[Path, _Kept] = {}
"""By directory; of this process. A node may have hundreds of links, each of which a look would read."""


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
    """Return the names of the links that lead to a device node.

    Links are read again when a directory of theirs has changed: a link cannot without it.
    """
    marks = tuple(_read_mark(place) for place in (directory, directory / BY_ID))
    kept = _kept.get(directory)
    if kept is None or kept.marks != marks:
        now_ns = time.time_ns()
        names: dict[str, set[str]] = {}
        for name, target in list_links(directory).items():
            names.setdefault(target, set()).add(name)
        kept = _Kept(marks, {target: frozenset(found) for target, found in names.items()})
        # One that has only just changed may change again and bear the same time.
        if all(mark is None or mark[2] < now_ns - _CLOCK_S * 10**9 for mark in marks):
            _kept[directory] = kept
    return kept.names.get(device_path, frozenset())


def _read_mark(place: Path) -> tuple[int, int, int] | None:
    """Return what tells one state of a directory from another; None where there is none."""
    try:
        status = os.stat(place)  # noqa: PTH116 -- at each look
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _make_directory(place: Path) -> None:
    """Make a directory, and what is missing above it, for everybody to look into, whatever the umask."""
    if not place.is_dir():
        _make_directory(place.parent)
        with contextlib.suppress(FileExistsError):
            place.mkdir(_DIRECTORY_MODE)
            place.chmod(_DIRECTORY_MODE)


def set_link(directory: Path, name: str, device_path: str) -> None:
    """Make ``name`` below ``directory`` lead to a device node, in one step that nobody sees half done."""
    if not _LINK_NAME.fullmatch(name) or name == BY_ID:
        raise RefusedError(f"{name!r} cannot be the name of a link.", retryable=False)
    link = directory / name
    try:
        _make_directory(link.parent)
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
