"""Who is in the way of an unmount: the processes that use a mount, found without touching it.

Reads ``/proc`` only, and of that nothing that waits for a filesystem: links are read and never followed,
which rules out psutil's own lists of open files, and what takes a process's memory lock (its maps) is asked
last and not of a process that is stuck in the kernel. For a worker all the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import psutil

from agent.model import DeviceNumber, Process

MAX_PROCESSES = 50
_MAX_DESCRIPTORS = 65536
_MAPS_PATH_FIELD = 5


@dataclass
class _Search:
    """What is asked about, what was found, and when to stop."""

    path: str
    device_number: DeviceNumber
    deadline: float
    found: dict[int, Process] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return monotonic() > self.deadline or len(self.found) >= MAX_PROCESSES

    def is_on_mount(self, link: str) -> bool:
        """Whether what a link in /proc leads to lies on the mount, going by its path."""
        target = link.removesuffix(" (deleted)")
        return target == self.path or target.startswith(f"{self.path.rstrip('/')}/")


def find_processes(path: str, device_number: DeviceNumber, time_limit_s: float = 2.0) -> tuple[Process, ...]:
    """Return the processes that use the mount at ``path``: at most 50 of them, found within the time.

    A use is a working or root directory, a running program, an open or a mapped file on the mount. A process
    of another mount namespace, as in a container, uses it where it has the device mounted for itself, so that
    an unmount outside does not reach it.
    """
    search = _Search(path, device_number, monotonic() + time_limit_s)
    own_namespace = read_link(Path("/proc/self/ns/mnt"))
    insiders: list[Path] = []
    outsiders: dict[str, Path] = {}
    for pid in psutil.pids():
        process = Path("/proc", str(pid))
        namespace = read_link(process / "ns/mnt")
        if namespace == own_namespace:
            insiders.append(process)
        elif namespace:
            outsiders.setdefault(namespace, process)
    # The cheap questions to all processes first, so that running out of time costs the rarest answers.
    _ask(search, insiders, _has_link)
    _ask(search, insiders, _has_descriptor)
    _ask(search, outsiders.values(), _has_own_mount)
    _ask(search, insiders, _has_map)
    return tuple(search.found.values())


def _ask(search: _Search, processes: Iterable[Path], is_using: Callable[[Path, _Search], bool]) -> None:
    for process in processes:
        pid = int(process.name)
        if search.is_over:
            return
        if pid in search.found or pid == os.getpid():
            continue
        # A process may end, or not be ours to look at, at any moment.
        with contextlib.suppress(OSError, psutil.Error):
            if is_using(process, search):
                search.found[pid] = describe_process(process)


def _has_link(process: Path, search: _Search) -> bool:
    return any(search.is_on_mount(read_link(process / name)) for name in ("cwd", "root", "exe"))


def _has_descriptor(process: Path, search: _Search) -> bool:
    with os.scandir(process / "fd") as entries:
        return any(
            search.is_on_mount(read_link(Path(entry.path)))
            for entry in itertools.islice(entries, _MAX_DESCRIPTORS)
        )


def _has_own_mount(process: Path, search: _Search) -> bool:
    number = str(search.device_number).encode()
    for line in (process / "mountinfo").read_bytes().split(b"\n"):
        words = line.split(b" ")
        # A mount that shares, or is slave to, another's is unmounted with it.
        is_tied = any(word.startswith((b"shared:", b"master:")) for word in words[6:])
        if len(words) > 6 and words[2] == number and not is_tied:  # noqa: PLR2004 (optional fields begin)
            return True
    return False


def _has_map(process: Path, search: _Search) -> bool:
    if psutil.Process(int(process.name)).status() == psutil.STATUS_DISK_SLEEP:
        return False
    with (process / "maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(None, _MAPS_PATH_FIELD)
            if len(fields) > _MAPS_PATH_FIELD and search.is_on_mount(fields[_MAPS_PATH_FIELD]):
                return True
    return False


def describe_process(process: Path) -> Process:
    """Return a process by its name, ID and user, asking nothing that waits."""
    # Not psutil's name(): for a long one it reads the command line, which waits for the memory lock.
    name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return Process(int(process.name), printable, _read_user(process))


def _read_user(process: Path) -> str:
    """Return the name of the real user, or the number of one that has none."""
    for line in (process / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "Uid":
            uid = int(value.split()[0])
            try:
                return pwd.getpwuid(uid).pw_name
            except KeyError:
                return str(uid)
    return "?"


def read_link(path: Path) -> str:
    """Return what a link in /proc says, as the kernel wrote it; nothing where it cannot be read."""
    try:
        return os.readlink(path)  # noqa: PTH115 (Path would normalise what the kernel wrote)
    except OSError:
        return ""
