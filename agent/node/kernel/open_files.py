"""What a process has open, read from ``/proc`` so that what closes meanwhile hides nothing else.

A process may end, and a descriptor may close, at any moment; each such loss is that one entry's alone. What
cannot be read for any other reason is raised, since not knowing is not the same as finding nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from agent.core.errors import InconclusiveError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason

PROC = Path("/proc")

GONE = (FileNotFoundError, ProcessLookupError)
"""Its process has ended, or the descriptor has closed; any other error says that it cannot be read."""


def has_ended(error: OSError) -> bool:
    """Tell whether an error says that a process has ended, or is about to and has left its namespaces."""
    return isinstance(error, GONE) or error.errno == errno.EINVAL


def is_shielded_init(process: Path, error: OSError) -> bool:
    """Tell whether a system shields its first process, even from root.

    That one starts what uses volumes, and uses none itself.
    """
    return process.name == "1" and isinstance(error, PermissionError)


def cannot_look(what: str, error: OSError) -> InconclusiveError:
    """Return what to say where a process that may matter could not be read; ``what`` is a clause."""
    if is_shortage(error):
        return explain_shortage(f"{what[:1].upper()}{what[1:]} could not be found out", error)
    return InconclusiveError(
        f"{what[:1].upper()}{what[1:]} cannot be told: {error.strerror}: {error.filename}.",
        hint="To see what other processes have the agent needs CAP_SYS_PTRACE, which its unit gives it, and"
        " a /proc without hidepid.",
        reason=Reason.PROBE_FAILED,
    )


def list_processes(proc: Path = PROC) -> tuple[Path, ...]:
    """Return the directories of all processes there are; OSError where not all can be seen."""
    found = tuple(proc / name for name in os.listdir(proc) if name.isdecimal())  # noqa: PTH208 (names only)
    if proc / "1" not in found:
        # The first process is always there: hidepid= keeps us from seeing it, and others with it.
        raise PermissionError(errno.EACCES, "not all processes are shown", str(proc))
    return found


class Descriptor(Struct, frozen=True):
    """One open descriptor of a process."""

    directory: Path
    """Of its process, or of one thread."""
    number: str
    link: str = ""
    """What it is of, as the kernel writes it."""

    def read_mount_id(self) -> int | None:
        """Return the ID of the mount it was opened on; None where it has closed."""
        notes = f"{self.directory}/fdinfo/{self.number}"
        with suppress(*GONE), open(notes, "rb") as file:  # noqa: PTH123 (there are thousands)
            for line in file:
                name, _, value = line.partition(b":")
                if name == b"mnt_id":
                    return int(value)
        return None

    def stat(self) -> os.stat_result | None:
        """Return what it is of; None where it has closed. Waits where its filesystem does."""
        with suppress(*GONE):
            return os.stat(f"{self.directory}/fd/{self.number}")  # noqa: PTH116 (there are thousands)
        return None


def list_descriptors(process: Path) -> Iterator[Descriptor]:
    """Yield every descriptor of a process; nothing where it has ended.

    Raises OSError where the process is there and its descriptors cannot be read.
    """
    names = _list_names(f"{process}/fd")
    if names:
        yield from _read_links(process, names)
        return
    # Where the first thread has ended before the others, only they show what all have open.
    for thread in _list_names(f"{process}/task"):
        directory = process / "task" / thread
        yield from _read_links(directory, _list_names(f"{directory}/fd"))


def read_link(link: Path) -> str:
    """Return what a link in /proc says, as the kernel wrote it; nothing where there is none any more."""
    with suppress(*GONE):
        return os.readlink(link)  # noqa: PTH115 (Path would normalise what the kernel wrote)
    return ""


def _read_links(directory: Path, names: list[str]) -> Iterator[Descriptor]:
    links = f"{directory}/fd"
    for name in names:
        with suppress(*GONE):
            # Path would normalise what the kernel wrote.
            yield Descriptor(directory, name, os.readlink(f"{links}/{name}"))  # noqa: PTH115


def _list_names(directory: str) -> list[str]:
    with suppress(*GONE):
        return os.listdir(directory)  # noqa: PTH208 (names only)
    return []
