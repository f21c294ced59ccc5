from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.model import DeviceNumber
from agent.node.processes import find_processes

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
        (found,) = find_processes(str(tmp_path), NOWHERE)
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


def test_search_without_time_ends_at_once(tmp_path: Path) -> None:
    """The limit holds however many processes there are."""
    with running(OPENS, tmp_path):
        assert find_processes(str(tmp_path), NOWHERE, -1.0) == ()


def test_paths_are_read_and_not_visited(tmp_path: Path) -> None:
    """A process is found though what it has open cannot be reached by any path any more."""
    inside = tmp_path / "gone"
    inside.mkdir()
    with running("import os; f = open('file', 'w'); os.unlink('file'); os.rmdir(os.getcwd())", inside) as pid:
        assert not inside.exists()
        assert [process.pid for process in find_processes(str(inside), NOWHERE)] == [pid]
    assert os.getpid() != pid
