from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import pytest
from anyio.abc import Process

from agent.core.errors import AgentError, CoveredError, NotAnsweringError, NotMountedError, ShortageError
from agent.core.model import DeviceNumber, Mount, VolumeId
from agent.core.replace import replace
from agent.node.filesystem import change_mount
from agent.node.filesystem.hold_frozen import FrozenNotes
from agent.node.isolate.workers import Workers
from tests.waiting import until

pytestmark = pytest.mark.anyio

VOLUME = VolumeId("vol-0123456789abcdef0")
NUMBER = DeviceNumber(259, 3)
MOUNT = Mount(50, 20, NUMBER, "/", "/data", frozenset({"rw"}), "ext4", "/dev/nvme1n1", frozenset({"rw"}))


class Thawing:
    """Workers that thaw nothing: each call raises what is scripted, and then they have done it."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked: list[tuple[object, ...]] = []

    async def call(
        self, function: Callable[..., object], *args: object, timeout_s: float, subject: str
    ) -> None:
        assert function is change_mount.thaw
        assert timeout_s > 0
        assert subject != VOLUME, "what waits for the thaw would keep it from being tried"
        self.asked.append(args)
        if self.errors:
            raise self.errors.pop(0)


def note_frozen(directory: Path, text: str = json.dumps([MOUNT.path, *NUMBER])) -> Path:
    directory.mkdir()
    note = directory / VOLUME
    note.write_text(text)
    return note


def make_notes(thawing: Thawing, directory: Path) -> FrozenNotes:
    return FrozenNotes(cast("Workers", thawing), directory, retry_s=(0.0, 0.01))


@pytest.mark.parametrize("error", [ShortageError, NotAnsweringError, CoveredError, AgentError])
async def test_what_could_not_be_thawed_is_tried_again(tmp_path: Path, error: type[AgentError]) -> None:
    """It is noted until it is thawed: nobody else would do it."""
    note = note_frozen(tmp_path / "frozen")
    thawing = Thawing(error("not now"), error("nor now"), error("not yet"))
    notes = make_notes(thawing, note.parent)
    await notes.thaw_left()
    assert note.exists()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notes.run)
        await until(lambda: not note.exists())
        tasks.cancel_scope.cancel()
    assert thawing.asked == [(MOUNT.path, NUMBER)] * 4


async def test_note_that_could_not_be_read_is_read_later(tmp_path: Path) -> None:
    """A note is no file where its disk fails, and no reason to forget what it is of."""
    note = tmp_path / "frozen" / VOLUME
    note.mkdir(parents=True)
    thawing = Thawing()
    notes = make_notes(thawing, note.parent)
    await notes.thaw_left()
    note.rmdir()
    note.write_text(json.dumps([MOUNT.path, *NUMBER]))
    await notes.thaw_left()
    assert thawing.asked == [(MOUNT.path, NUMBER)]
    assert not note.exists()


@pytest.mark.parametrize("text", ["", "not a note", "[]", '["/data", 1]', '["/data", null, 2]', "7"])
async def test_note_that_makes_no_sense_is_forgotten(tmp_path: Path, text: str) -> None:
    """It was cut off before anything was frozen, and says nothing that could be thawed."""
    note = note_frozen(tmp_path / "frozen", text)
    thawing = Thawing()
    await make_notes(thawing, note.parent).thaw_left()
    assert not note.exists()
    assert not thawing.asked


async def test_what_is_not_mounted_any_more_is_forgotten(tmp_path: Path) -> None:
    """There is nothing at its path to thaw."""
    note = note_frozen(tmp_path / "frozen")
    await make_notes(Thawing(NotMountedError("gone")), note.parent).thaw_left()
    assert not note.exists()


async def test_what_is_left_of_a_volume_is_thawed_before_it_is_frozen_again(tmp_path: Path) -> None:
    """Where that fails nothing is frozen, and what was left stays noted."""
    note = note_frozen(tmp_path / "frozen")
    thawing = Thawing(NotAnsweringError("not now"))
    notes = make_notes(thawing, note.parent)
    with pytest.raises(NotAnsweringError, match="not now"):
        async with notes.hold(VOLUME, MOUNT, 1.0):
            pytest.fail("within a freeze")
    assert note.exists()
    await notes.thaw_left()
    assert thawing.asked == [(MOUNT.path, NUMBER)] * 2
    assert not note.exists()


@pytest.mark.parametrize(("returncode", "thawed"), [(0, 0), (-9, 1)])
async def test_guardian_that_hangs_is_waited_for(tmp_path: Path, returncode: int, thawed: int) -> None:
    """Until it ends it may yet freeze, or find that somebody else did; how it ended tells what is left."""
    note = note_frozen(tmp_path / "frozen")
    thawing, guardian = Thawing(), SimpleNamespace(returncode=None)
    notes = make_notes(thawing, note.parent)
    notes._left[note] = cast("Process", guardian)
    await notes.thaw_left()
    assert note.exists()
    assert not thawing.asked
    guardian.returncode = returncode
    await notes.thaw_left()
    assert len(thawing.asked) == thawed
    assert not note.exists()


async def test_nothing_is_noted_of_what_cannot_be_frozen(tmp_path: Path) -> None:
    """The guardian says that nothing is mounted there, and nothing was frozen."""
    thawing = Thawing()
    notes = make_notes(thawing, tmp_path / "frozen")
    nowhere = replace(MOUNT, path=str(tmp_path))
    with pytest.raises(AgentError, match="kept frozen"):
        async with notes.hold(VOLUME, nowhere, 1.0):
            pytest.fail("within a freeze")
    assert not list((tmp_path / "frozen").iterdir())
    assert not thawing.asked
