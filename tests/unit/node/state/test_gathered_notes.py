"""Notes that many ask for at the same time: few calls, and none that began before it was asked."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agent.core.errors import AgentError, NotAnsweringError, RefusedError
from agent.core.model import DeviceNumber, MountRecord, VolumeId
from agent.core.replace import replace
from agent.node.state.gathered_notes import GatheredNotes
from agent.node.state.volume_records import Notes, Records, read_notes_of

pytestmark = pytest.mark.anyio

VOLUMES = tuple(VolumeId(f"vol-0{number:016x}") for number in range(20))
NOTE = MountRecord(VOLUMES[0], "/data", DeviceNumber(7, 0), "this boot", 1, ())


class Disk:
    """Where notes are read: slow, counting, and failing where it is told to."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.calls: list[tuple[VolumeId, ...]] = []
        self.failure: AgentError | None = None

    async def read(self, volumes: tuple[VolumeId, ...]) -> dict[VolumeId, Notes | AgentError]:
        self.calls.append(volumes)
        if self.failure is not None:
            await anyio.sleep(0.01)
            raise self.failure
        found = read_notes_of(self.records, volumes)
        await anyio.sleep(0.01)
        return found


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(Records(tmp_path, "this machine"))


async def read_all(notes: GatheredNotes) -> dict[VolumeId, Notes | AgentError]:
    """Return what each of all volumes is told, asked for at the same time."""
    found: dict[VolumeId, Notes | AgentError] = {}

    async def read(volume: VolumeId) -> None:
        try:
            found[volume] = await notes.read(volume)
        except AgentError as error:
            found[volume] = error

    async with anyio.create_task_group() as tasks:
        for volume in VOLUMES:
            tasks.start_soon(read, volume)
    return found


async def test_those_who_ask_together_are_answered_by_few_calls(disk: Disk, tmp_path: Path) -> None:
    """Each has its own notes, and one that cannot be trusted is told to whom it is about, alone."""
    for volume in VOLUMES[2:]:
        disk.records.mounts.write(replace(NOTE, volume_id=volume))
    (tmp_path / "mounts" / f"{VOLUMES[1]}.json").write_bytes(b"{")
    found = await read_all(GatheredNotes(disk.read))
    assert len(disk.calls) <= 2
    assert found[VOLUMES[0]] == Notes(None, None, None)
    assert isinstance(found[VOLUMES[1]], RefusedError)
    assert [found[volume] for volume in VOLUMES[2:]] == [
        Notes(replace(NOTE, volume_id=volume), None, None) for volume in VOLUMES[2:]
    ]


async def test_what_was_noted_before_it_was_asked_is_there(disk: Disk) -> None:
    """A call that is under way is not for who asks now: another process may have written since."""
    notes = GatheredNotes(disk.read)
    found: list[Notes] = []

    async def ask() -> None:
        found.append(await notes.read(VOLUMES[0]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.sleep(0.001)
        assert len(disk.calls) == 1
        disk.records.mounts.write(NOTE)
        tasks.start_soon(ask)
    assert [notes.mount for notes in found] == [None, NOTE]


async def test_disk_that_does_not_answer_is_waited_for_once(disk: Disk) -> None:
    """All who asked together are told so; who asks later has it asked again."""
    disk.failure = NotAnsweringError("state directory did not answer")
    notes = GatheredNotes(disk.read)
    found = await read_all(notes)
    assert all(isinstance(answer, NotAnsweringError) for answer in found.values())
    assert len(disk.calls) <= 2
    disk.failure = None
    assert await notes.read(VOLUMES[0]) == Notes(None, None, None)


async def test_who_is_cancelled_takes_nobody_along(disk: Disk) -> None:
    """The pass that asks for all may end before the answer; the next one asks, for all that are left."""
    notes = GatheredNotes(disk.read)
    disk.records.mounts.write(NOTE)
    found: list[Notes] = []
    leading = anyio.CancelScope()

    async def ask(volume: VolumeId) -> None:
        found.append(await notes.read(volume))

    async def lead() -> None:
        with leading:
            await notes.read(VOLUMES[1])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, VOLUMES[2])
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            tasks.start_soon(ask, VOLUMES[0])
        with anyio.fail_after(60):
            while len(disk.calls) < 2:
                await anyio.lowlevel.checkpoint()
        assert VOLUMES[1] in disk.calls[1]
        leading.cancel()
    assert [notes.mount for notes in found] == [None, NOTE, NOTE, NOTE]
    assert len(disk.calls) == 3
