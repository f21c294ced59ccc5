"""The event loop waits for no disk, and a plan that is only shown changes nothing."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.model import Blank, FsType, VolumeId
from agent.node.device.partition_steps import save_table
from tests.loop.moments import VOLUME, Stage, WatchedWorkers, staged

_FILE_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename"}
_watched: list[tuple[str, list[str]]] = []


def _note_use(event: str, args: tuple[object, ...]) -> None:
    """Note what this process's own thread does to files of a directory that is watched."""
    if not _watched or event not in _FILE_EVENTS or threading.current_thread() is not threading.main_thread():
        return
    paths = [str(arg) for arg in args if isinstance(arg, (str, Path))]
    for directory, seen in _watched:
        seen += [f"{event} {path}" for path in paths if path.startswith(directory)]


@pytest.fixture(scope="session")
def _hook() -> None:
    sys.addaudithook(_note_use)


@contextmanager
def watching(directory: Path) -> Iterator[list[str]]:
    """Give what the event loop itself opened, listed or changed below a directory."""
    seen: list[str] = []
    _watched.append((str(directory), seen))
    try:
        yield seen
    finally:
        _watched.clear()


@pytest.mark.usefixtures("_hook")
async def test_loop_reads_and_writes_no_note_itself(tmp_path: Path) -> None:
    """From blank to mounted, looked at again, shown and unmounted: notes are read and written in workers."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        state = stage.node.paths.state
        with watching(state) as seen:
            await stage.node.list_notes()
            assert (await stage.run_pass()).is_done
            assert set(stage.node.list_recorded()) == {VOLUME}
            assert (await stage.run_pass()).is_done
            async with stage.node.open(VOLUME) as session:
                await session.observe(stage.wanted, for_show=True)
            async with stage.node.open(VolumeId("vol-0123456789abcdef9")) as session:
                await session.observe(None)
            await stage.node.save(save_table, state / "partition-tables/t", "label: gpt\n")
        assert seen == []
        with watching(state) as seen:
            assert stage.node.records.mounts.read(VOLUME) is not None
        assert seen != []


def is_locked(device: str) -> bool:
    """Tell whether somebody has the device locked."""
    fd = os.open(device, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


async def test_look_for_show_takes_no_lock(tmp_path: Path) -> None:
    """What may be formatted is proven blank for showing as well, and nobody is kept off the device."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        async with stage.node.open(VOLUME) as session:
            shown = await session.observe(stage.wanted, for_show=True)
            assert not is_locked(stage.device)
            assert isinstance(shown.content, Blank)
            acted_on = await session.observe(stage.wanted)
            assert is_locked(stage.device)
        assert acted_on.content == shown.content


@pytest.mark.parametrize("fs_type", [FsType.XFS])
async def test_look_for_show_notes_nothing(tmp_path: Path, fs_type: FsType) -> None:
    """A mount without its note is noted by a pass, and not by a look at what a pass would do."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers, fs_type) as stage:
        assert (await stage.run_pass()).is_done
        await stage.node.forget_mount(VOLUME)
        memory = stage.node.remember(VOLUME)
        memory.was_lost = True
        await look_for_show(stage)
        assert (stage.node.records.mounts.list_volumes(), memory.was_lost) == ((), True)
        assert (await stage.run_pass()).is_done
        assert (stage.node.records.mounts.list_volumes(), memory.was_lost) == ((VOLUME,), False)


async def look_for_show(stage: Stage) -> None:
    async with stage.node.open(VOLUME) as session:
        observed = await session.observe(stage.wanted, for_show=True)
    assert observed.mounts
