from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from agent.core.errors import InconclusiveError, ShortageError
from agent.core.model import DeviceNumber, Process, Reason
from agent.node.isolate.workers import Workers
from agent.node.mounts.mount_users import find_processes
from tests.waiting import WAIT_S, until, wait_until

NOWHERE = DeviceNumber(0, 1 << 20)

OPENS = "import sys; f = open('file', 'w')"
MAPS = "import mmap; f = open('file', 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.close()"
DELETES = "import os; f = open('file', 'w'); os.unlink('file')"


@contextmanager
def running(script: str, cwd: Path) -> Iterator[int]:
    """Run Python that does ``script`` in ``cwd``, leaves it, and waits."""
    child = subprocess.Popen(
        [sys.executable, "-c", f"{script}\nprint(flush=True); input()"],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline()
        yield child.pid
    finally:
        child.communicate(b"\n", timeout=10)


@pytest.mark.parametrize("use", [OPENS, MAPS, DELETES])
def test_file_in_use_is_found(tmp_path: Path, use: str) -> None:
    """An open, a mapped and a deleted but open file each keep a mount busy."""
    with running(f"{use}\nimport os; os.chdir('/')", tmp_path) as pid:
        # What is mapped is asked last, and a busy machine may have thousands to ask.
        (found,) = find_processes(str(tmp_path), NOWHERE, time_limit_s=WAIT_S)
    assert found.pid == pid
    assert found.name.startswith("python")
    assert found.user == psutil.Process().username()


def test_working_directory_is_found(tmp_path: Path) -> None:
    """A shell that stands in a directory of the mount keeps it busy."""
    inside = tmp_path / "a/b"
    inside.mkdir(parents=True)
    with running("", inside) as pid:
        assert [process.pid for process in find_processes(str(tmp_path), NOWHERE)] == [pid]


def test_neighbour_is_not_found(tmp_path: Path) -> None:
    """A path that merely begins with the same letters is another place."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data2").mkdir()
    with running(OPENS, tmp_path / "data2"):
        assert find_processes(str(tmp_path / "data"), NOWHERE) == ()


def test_agent_itself_is_not_found(tmp_path: Path) -> None:
    """Who asks is not in the way."""
    with (tmp_path / "file").open("w"):
        assert find_processes(str(tmp_path), NOWHERE) == ()


def hold_until(path: str, end: str) -> None:
    """Have a file open, as a worker has what it looks at, until another one is there."""
    with Path(path).open("w"):
        wait_until(Path(end).exists, f"{end} was made")


async def test_worker_that_looks_is_not_in_the_way(tmp_path: Path) -> None:
    """What is looked at for another volume's sake can go all the same; what it keeps for good is told."""
    held, end = tmp_path / "data/file", tmp_path / "end"
    held.parent.mkdir()
    async with Workers() as workers, anyio.create_task_group() as tasks:

        async def hold() -> None:
            await workers.call(hold_until, str(held), str(end), timeout_s=WAIT_S, subject="other")

        tasks.start_soon(hold)
        await until(held.exists)
        found = await workers.call(
            find_processes, str(held.parent), NOWHERE, timeout_s=WAIT_S, subject="this one"
        )
        named = await workers.call(find_all, str(held.parent), timeout_s=WAIT_S, subject="this one")
        end.touch()
    assert found == ()
    assert len(named) == 1


def find_all(path: str) -> tuple[Process, ...]:
    return find_processes(path, NOWHERE, are_workers_named=True)


def test_search_without_time_ends_at_once(tmp_path: Path) -> None:
    """The limit holds however many processes there are, and nobody is taken for unused for want of time."""
    with running(OPENS, tmp_path), pytest.raises(InconclusiveError) as raised:
        find_processes(str(tmp_path), NOWHERE, -1.0)
    assert raised.value.reason is Reason.TOO_SLOW
    assert raised.value.retryable


def test_paths_are_read_and_not_visited(tmp_path: Path) -> None:
    """A process is found though what it has open cannot be reached by any path any more."""
    inside = tmp_path / "gone"
    inside.mkdir()
    with running("import os; f = open('file', 'w'); os.unlink('file'); os.rmdir(os.getcwd())", inside) as pid:
        assert not inside.exists()
        assert [process.pid for process in find_processes(str(inside), NOWHERE)] == [pid]
    assert os.getpid() != pid


# -- Processes that cannot be asked --------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of two processes in our namespace, of which the second stands in /data, and one outside."""
    root = tmp_path / "proc"
    for name, namespace, cwd in (
        ("self", "1", "/"),
        ("1", "1", "/"),
        ("5000001", "1", "/data"),
        ("5000002", "2", "/"),
    ):
        (root / name / "ns").mkdir(parents=True)
        (root / name / "fd").mkdir()
        (root / name / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
        (root / name / "cwd").symlink_to(cwd)
        (root / name / "comm").write_text("db\n")
        (root / name / "status").write_text("Name:\tdb\nUid:\t0\t0\t0\t0\n")
        (root / name / "mountinfo").write_text("")
    return root


def fail(monkeypatch: pytest.MonkeyPatch, name: str, place: Path, error: int) -> None:
    """Have one call of ``os`` fail at one place."""
    call = getattr(os, name)

    def do(path: object) -> object:
        if str(path) == str(place):
            raise OSError(error, os.strerror(error), str(path))
        return call(path)

    monkeypatch.setattr(os, name, do)


UNREADABLE = {
    "namespace": ("readlink", "5000002/ns/mnt"),
    "working directory": ("readlink", "5000001/cwd"),
    "descriptors": ("scandir", "5000001/fd"),
    "root of one outside": ("readlink", "5000002/root"),
}


@pytest.mark.parametrize(("call", "place"), UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("error", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_process_that_cannot_be_asked_is_not_without_a_use(
    proc: Path, monkeypatch: pytest.MonkeyPatch, call: str, place: str, error: int
) -> None:
    """Where nobody is found and somebody could not be asked, nobody knows whether the mount is used."""
    fail(monkeypatch, call, proc / place, error)
    with pytest.raises(InconclusiveError) as raised:
        find_processes("/other", NOWHERE, proc=proc)
    assert isinstance(raised.value, ShortageError) is (error == errno.EMFILE)
    if "5000001" not in place:
        assert [found.pid for found in find_processes("/data", NOWHERE, proc=proc)] == [5000001]


@pytest.mark.parametrize(("call", "place"), UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("error", [errno.ENOENT, errno.ESRCH])
def test_process_that_ended_uses_nothing(
    proc: Path, monkeypatch: pytest.MonkeyPatch, call: str, place: str, error: int
) -> None:
    """It may end between any two questions."""
    fail(monkeypatch, call, proc / place, error)
    assert find_processes("/other", NOWHERE, proc=proc) == ()


# -- Namespaces ----------------------------------------------------------------------------------------------

HOST_TABLE = """\
22 1 259:1 / / rw shared:1 - ext4 /dev/root rw
50 22 259:3 / /vol rw shared:40 - ext4 /dev/nvme1n1 rw
"""
FOREIGN_TABLE = """\
122 100 259:1 / / rw shared:9 master:{} - ext4 /dev/root rw
150 122 259:3 / /vol rw master:40 - ext4 /dev/nvme1n1 rw
"""
CHAINS = {
    "told by ours": (["1"], []),
    "told by one that is told by ours": (["7", "shared:7 master:1"], []),
    "told by one of nobody": (["7", "shared:7"], [5000002]),
    "told by one of another": (["7", "shared:7 master:8"], [5000002]),
    "told by one that nobody knows": (["7"], [5000002]),
}


@pytest.mark.parametrize(("ties", "users"), CHAINS.values(), ids=CHAINS.keys())
def test_namespace_that_is_told_by_others(proc: Path, ties: list[str], users: list[int]) -> None:
    """It keeps nothing where what is done in ours gets to it, through a namespace without the volume too."""
    master, *middle = ties
    (proc / "self/mountinfo").write_text(HOST_TABLE)
    (proc / "5000002/mountinfo").write_text(FOREIGN_TABLE.format(master))
    shutil.copytree(proc / "5000002", proc / "5000003", symlinks=True)
    (proc / "5000003/ns/mnt").unlink()
    (proc / "5000003/ns/mnt").symlink_to("mnt:[3]")
    lines = "".join(f"122 100 259:1 / / rw {tie} - ext4 /dev/root rw\n" for tie in middle)
    (proc / "5000003/mountinfo").write_text(lines)
    for directory in ("1", "5000001", "5000002", "5000003"):
        (proc / directory / "maps").write_text("")
    found = find_processes("/vol", DeviceNumber(259, 3), WAIT_S, proc=proc)
    assert [process.pid for process in found] == users


def test_mount_is_used_where_it_is_mounted_with_it(proc: Path) -> None:
    """What goes with it is no less in the way."""
    found = find_processes("/vol", NOWHERE, WAIT_S, ("/srv", "/data"), proc=proc)
    assert [process.pid for process in found] == [5000001]
