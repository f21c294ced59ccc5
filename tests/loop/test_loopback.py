"""Files standing in for volumes, on real loop devices."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskStatus

from agent.core.errors import AgentError, RefusedError, VanishedError
from agent.node.device import open_device
from agent.node.device.source import Hint
from agent.node.isolate.workers import Workers
from agent.node.standins import files, loop_device
from agent.node.standins.source import LoopbackSource
from tests.corpus.tools import run
from tests.loop.devices import attached
from tests.waiting import until

MIB = 1 << 20
FIRST, SECOND = "vol-0123456789abcdef0", "vol-0123456789abcdef1"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "volumes"
    made.mkdir()
    return made


def add(directory: Path, volume: str, size_bytes: int = 64 * MIB) -> Path:
    path = directory / f"{volume}.img"
    with path.open("ab") as file:
        file.truncate(size_bytes)
    return path


class Heard:
    """What a source reported."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []

    async def wait_for(self, action: str) -> Hint:
        """Return the first hint of an action that was not asked for yet."""
        found = await until(lambda: next((hint for hint in self.hints if hint.action == action), None))
        assert found is not None
        self.hints.remove(found)
        return found


@asynccontextmanager
async def watching(directory: Path) -> AsyncIterator[tuple[LoopbackSource, Heard]]:
    heard = Heard()
    async with Workers() as workers, anyio.create_task_group() as tasks:
        source = LoopbackSource(directory, workers)

        async def watch(*, task_status: TaskStatus[None]) -> None:
            await source.watch(heard.hints.append, task_status=task_status)

        await tasks.start(watch)
        try:
            yield source, heard
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await workers.call(files.release_directory, str(directory), timeout_s=20, subject="it")


def list_below(directory: Path) -> set[loop_device.Loop]:
    """Return the loop devices on files below ``directory``: others come and go as they like."""
    return {item for item in loop_device.list_loops() if item.backing_file.startswith(f"{directory}/")}


def identify(source: LoopbackSource, path: str) -> str:
    fd, found = open_device.open_device(path, source.identify)
    fd.close()
    return found.identity.volume_id


async def test_files_that_are_there_are_attached_at_once(directory: Path) -> None:
    """Once watching has started every file is a device that says which volume it is."""
    add(directory, FIRST)
    add(directory, SECOND)
    (directory / "notes.txt").write_text("no volume", "ascii")
    add(directory, "vol-nonsense")
    add(directory, "vol-0a1b2c3d", 0)
    async with watching(directory) as (source, _):
        paths = source.list_paths()
        assert sorted(identify(source, path) for path in paths) == [FIRST, SECOND]
    assert source.list_paths() == []


async def test_file_is_attached_expanded_and_detached(directory: Path) -> None:
    """A new file is an attachment, a longer one an expansion, a removed one a detachment, each in moments."""
    async with watching(directory) as (source, heard):
        file = add(directory, FIRST)
        path = (await heard.wait_for("add")).path
        assert path is not None
        assert identify(source, path) == FIRST
        os.truncate(file, 128 * MIB)
        assert await heard.wait_for("change") == Hint(path, "change")
        fd, found = open_device.open_device(path, source.identify)
        fd.close()
        assert found.size_bytes == 128 * MIB
        file.unlink()
        assert (await heard.wait_for("remove")).path == path
        assert source.list_paths() == []
        with pytest.raises((VanishedError, RefusedError, AgentError)):
            identify(source, path)


async def test_devices_are_adopted_after_a_restart(directory: Path) -> None:
    """A second life of the agent finds the devices of the first, and attaches nothing twice."""
    file = add(directory, FIRST)
    with attached(file) as path:
        async with watching(directory) as (source, heard):
            assert source.list_paths() == [path]
            assert identify(source, path) == FIRST
            assert heard.hints == []


async def test_file_replaced_by_another_is_another_device(directory: Path) -> None:
    """A file put in the place of another is detached and attached, for it is other content."""
    add(directory, FIRST)
    async with watching(directory) as (source, heard):
        (old,) = source.list_paths()
        add(directory, "new", 32 * MIB).rename(directory / f"{FIRST}.img")
        assert (await heard.wait_for("remove")).path == old
        await heard.wait_for("add")
        (path,) = source.list_paths()
        assert identify(source, path) == FIRST


async def test_renamed_file_asks_for_a_full_look(directory: Path) -> None:
    """The same file under another volume's name is another volume on the same device."""
    file = add(directory, FIRST)
    async with watching(directory) as (source, heard):
        file.rename(directory / f"{SECOND}.img")
        assert (await heard.wait_for("change")).path is None
        (path,) = source.list_paths()
        assert identify(source, path) == SECOND


async def test_file_with_two_names_is_refused(directory: Path) -> None:
    """One file under two volume IDs would be one device that is two volumes."""
    os.link(add(directory, FIRST), directory / f"{SECOND}.img")
    async with watching(directory) as (source, _):
        (path,) = source.list_paths()
        with pytest.raises(RefusedError, match="several names"):
            identify(source, path)


async def test_mounted_volume_goes_with_its_last_user(directory: Path, tmp_path: Path) -> None:
    """A file removed while mounted is gone from the list at once, and its device when it is unmounted."""
    mountpoint = tmp_path / "mounted"
    mountpoint.mkdir()
    file = add(directory, FIRST)
    async with watching(directory) as (source, heard):
        (path,) = source.list_paths()
        run("mkfs.ext4", "-q", path)
        run("mount", path, mountpoint)
        try:
            file.unlink()
            assert (await heard.wait_for("remove")).path == path
            assert source.list_paths() == []
        finally:
            run("umount", mountpoint)
        assert list_below(directory) == set()


async def test_other_loop_devices_are_left_alone(directory: Path, tmp_path: Path) -> None:
    """A loop device on a file elsewhere, in a subdirectory or of another name is nobody's business here."""
    (directory / "below").mkdir()
    with (
        attached(add(tmp_path, FIRST)),
        attached(add(directory / "below", FIRST)),
        attached(tmp_path / "x", MIB),
    ):
        before = list_below(tmp_path)
        async with watching(directory) as (source, _):
            assert source.list_paths() == []
        assert len(before) == 3
        assert list_below(tmp_path) == before


def test_part_of_a_file_is_refused(directory: Path) -> None:
    """A loop device that shows a file from an offset on is not the volume."""
    file = add(directory, FIRST)
    path = run("losetup", "--find", "--show", "--offset", "4096", file).strip()
    try:
        with pytest.raises(RefusedError, match="part of"):
            open_device.open_device(path, LoopbackSource(directory, Workers()).identify)
    finally:
        loop_device.detach(path)


def test_missing_device_nodes_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody makes device nodes, those of disks and partitions are made, and wrong ones mended."""
    fake = tmp_path / "dev"
    fake.mkdir()
    os.mknod(fake / "loop-control", stat.S_IFCHR | 0o600, os.makedev(10, 237))
    monkeypatch.setattr(loop_device, "DEV", fake)
    with attached(tmp_path / "image", 64 * MIB) as path:
        assert Path(path).parent == fake
        run("addpart", path, "1", "2048", "4096")
        part = fake / f"{Path(path).name}p1"
        part.touch()
        loop_device.make_partition_nodes(path)
        number = part.stat().st_rdev
        listed = Path(f"/sys/block/{Path(path).name}/{part.name}/dev").read_text("ascii").strip()
        assert f"{os.major(number)}:{os.minor(number)}" == listed
        run("delpart", path, "1")


def test_identity_of_a_stand_in(directory: Path) -> None:
    """A stand-in says in its model what it is, and its serial has the form of a volume's."""
    with attached(add(directory, FIRST)) as path:
        fd, found = open_device.open_device(path, LoopbackSource(directory, Workers()).identify)
        fd.close()
    assert (found.identity.model, found.identity.serial) == (files.MODEL, "vol0123456789abcdef0")


@pytest.mark.parametrize(
    "names", [(f"{FIRST}.img",), (f"{FIRST}.img", f"{SECOND}.img"), ("other.img",), ("x",), ()]
)
def test_file_is_told_by_its_name_as_by_all_names(
    directory: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """Asking for the one file by its name says what a look at all the files does."""
    file = add(directory, FIRST)
    add(directory, "vol-0eeeeeeeeeeeeeeee")
    with attached(file) as path:
        aside = file.rename(directory / "aside")
        for name in names:
            os.link(aside, directory / name)
        aside.unlink()
        quick = identify_anyhow(directory, path)
        monkeypatch.setattr(files, "_find_alone", lambda *_: None)
        assert identify_anyhow(directory, path) == quick


def identify_anyhow(directory: Path, path: str) -> str:
    """Return what a loop device is, or why it is nothing."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return files.identify_loop(str(directory), fd).volume_id
    except AgentError as error:
        return error.message
    finally:
        os.close(fd)
