"""Who is in the way of an unmount: the processes that use a mount, found without touching it.

Reads ``/proc`` only, and of that nothing that waits for a filesystem: links are read and never followed,
which rules out psutil's own lists of open files, and what takes a process's memory lock (its maps) is asked
last and not of a process that is stuck in the kernel. For a worker all the same.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pwd
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic

import psutil
from msgspec import Struct, field

from agent.core.errors import InconclusiveError
from agent.core.model import DeviceNumber, Process, Reason
from agent.core.quoting import make_printable
from agent.node.kernel.open_files import (
    PROC,
    cannot_look,
    has_ended,
    is_shielded_init,
    list_processes,
    read_link,
)
from agent.node.mounts.propagation import Place, are_told, find_groups, find_masters, find_place

SEARCH_S = 8.0
"""For whoever uses a mount: without an answer it is left as it is, so most nodes should have one."""
MAX_PROCESSES = 50
_MAX_DESCRIPTORS = 65536
_MAPS_PATH_FIELD = 5


class _Search(Struct):
    """What is asked about, what was found, what kept from finding more, and when to stop."""

    paths: tuple[str, ...]
    """Where it is mounted: by which an unmount takes it away, and those that go with that."""
    device_number: DeviceNumber
    deadline: float
    own: frozenset[int] = field(default_factory=lambda: frozenset({os.getpid()}))
    """Processes that are not asked."""
    found: dict[int, Process] = field(default_factory=dict)
    failure: OSError | None = None
    """Why a process that had not ended could not be asked."""
    asked: dict[tuple[str, str], Path] = field(default_factory=dict)
    """Places outside, by namespace and root directory, and one process of each: what is mounted there is
    known."""
    groups: dict[Path, frozenset[int]] = field(default_factory=dict)
    """Of those that have the device: by which peer groups it may be unmounted there, too."""
    place: Place | None = None
    """Where the mount is attached, if what is done there is done elsewhere, too."""
    masters: dict[int, int] = field(default_factory=dict)
    """Which peer groups of mounts get what is done in which others."""
    is_cut_off: bool = False
    """The time was over before all were asked."""

    @property
    def is_over(self) -> bool:
        return monotonic() > self.deadline or len(self.found) >= MAX_PROCESSES

    def is_on_mount(self, link: str) -> bool:
        """Whether what a link in /proc leads to lies on the mount, going by its path."""
        target = link.removesuffix(" (deleted)")
        return any(target == path or target.startswith(f"{path.rstrip('/')}/") for path in self.paths)


def find_processes(
    path: str,
    device_number: DeviceNumber,
    time_limit_s: float = 2.0,
    going: tuple[str, ...] = (),
    proc: Path = PROC,
    *,
    are_workers_named: bool = False,
) -> tuple[Process, ...]:
    """Return the processes that use the mount at ``path``: at most 50 of them, found within the time.

    ``going``: where in this namespace it is mounted too, and is unmounted with it. Used there, it is used.

    A use is a working or root directory, a running program, an open or a mapped file on the mount. A process
    of another mount namespace, as in a container, uses it where it has the device mounted so that an unmount
    outside does not reach it. The agent's workers are left out unless ``are_workers_named``: one
    that looks at the mount for another volume's sake is done in a moment, and must keep nothing from going.

    Raises InconclusiveError where none is found and one that has not ended could not be asked, or not within
    the time.
    """
    search = _Search((path, *going), device_number, monotonic() + time_limit_s)
    insiders, outsiders = _sort_processes(search, proc)
    if not are_workers_named:
        with _noting_failure(search, PROC / "self"):
            search.own = list_workers()
    # The cheap questions to all processes first, so that running out of time costs the rarest answers.
    _ask(search, insiders, _has_link)
    _ask(search, insiders, _has_descriptor)
    _ask(search, outsiders, _read_table)
    _read_masters(search, proc)
    _ask(search, list(search.groups), _has_own_mount)
    _ask(search, insiders, _has_map)
    if search.failure is not None and not search.found:
        raise cannot_look(f"who uses what is mounted at {make_printable(path)}", search.failure)
    if search.is_cut_off and not search.found:
        raise InconclusiveError(
            f"Who uses what is mounted at {make_printable(path)} cannot be told: not all processes could be"
            f" asked within {time_limit_s:g} s.",
            hint="It is left as it is, and looked at again by itself. See what keeps the processors busy.",
            reason=Reason.TOO_SLOW,
        )
    return tuple(search.found.values())


def list_workers() -> frozenset[int]:
    """Return the IDs of this worker and of the agent's others, who have what they look at open for a moment.

    To be asked after the processes are listed, so that one forked in between is not taken for a stranger.
    """
    parent = os.getppid()
    # Whose parent has ended is given to the first process, and no worker is what that has started.
    children = psutil.Process(parent).children() if parent > 1 else ()
    return frozenset({os.getpid(), *(child.pid for child in children)})


def _sort_processes(search: _Search, proc: Path) -> tuple[list[Path], list[Path]]:
    """Return the processes of this mount namespace, and those of others."""
    try:
        own_namespace = os.readlink(proc / "self/ns/mnt")  # noqa: PTH115 (as it is)
        mounts = (proc / "self/mountinfo").read_bytes()
        processes = list_processes(proc)
    except OSError as error:
        raise cannot_look(f"who uses what is mounted at {make_printable(search.paths[0])}", error) from error
    search.place = find_place(mounts, search.paths[0], str(search.device_number))
    insiders: list[Path] = []
    outsiders: list[Path] = []
    for process in processes:
        with _noting_failure(search, process):
            namespace = os.readlink(process / "ns/mnt")  # noqa: PTH115
            (insiders if namespace == own_namespace else outsiders).append(process)
    return insiders, outsiders


@contextlib.contextmanager
def _noting_failure(search: _Search, process: Path) -> Iterator[None]:
    """Go on where a process cannot be asked; why is noted unless it has ended, as it may at any moment."""
    try:
        yield
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        search.failure = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(process))
    except OSError as error:
        if not has_ended(error) and not is_shielded_init(process, error):
            search.failure = search.failure or error


def _ask(search: _Search, processes: Iterable[Path], is_using: Callable[[Path, _Search], bool]) -> None:
    for process in processes:
        pid = int(process.name)
        if search.is_over:
            search.is_cut_off = True
            return
        if pid in search.found or pid in search.own:
            continue
        with _noting_failure(search, process):
            if is_using(process, search):
                search.found[pid] = Process(pid, "?")  # and more, if it stays to be asked
                search.found[pid] = describe_process(process)


def _has_link(process: Path, search: _Search) -> bool:
    return any(search.is_on_mount(read_link(process / name)) for name in ("cwd", "root", "exe"))


def _has_descriptor(process: Path, search: _Search) -> bool:
    with os.scandir(process / "fd") as entries:
        return any(
            search.is_on_mount(read_link(Path(entry.path)))
            for entry in itertools.islice(entries, _MAX_DESCRIPTORS)
        )


def _read_table(process: Path, search: _Search) -> bool:
    """Whether one of another namespace keeps the device mounted for certain; else note on what it depends."""
    # One with a root directory of its own sees a part of its namespace.
    place = (read_link(process / "ns/mnt"), read_link(process / "root"))
    if place in search.asked:
        return False
    table = (process / "mountinfo").read_bytes()
    search.asked[place] = process
    groups = find_groups(table, str(search.device_number), search.place)
    if groups:
        search.groups[process] = groups
    return groups is None


def _read_masters(search: _Search, proc: Path) -> None:
    """Find out which groups are slaves to which, where any is not told by the mount's own parent itself.

    The tables are read once more for it, since all of a node's may be more than a worker's memory. Of one
    that ended meanwhile nothing is known, and so what hangs by it stays.
    """
    if all(are_told(groups, search.place, {}) for groups in search.groups.values()):
        return
    for process in (proc / "self", *search.asked.values()):
        if search.is_over:
            search.is_cut_off = True
            return
        with _noting_failure(search, process):
            search.masters.update(find_masters((process / "mountinfo").read_bytes()))


def _has_own_mount(process: Path, search: _Search) -> bool:
    return not are_told(search.groups[process], search.place, search.masters)


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
