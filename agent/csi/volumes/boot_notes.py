"""Notes about volumes that hold until the node is started anew: synced before anything is done for them.

A restart of the agent goes on with them. A reboot ends them all: kubelet begins anew then, and asks again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

import anyio

from agent.base.log import get_logger
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.node.state.record_fields import Note
from agent.node.state.record_files import Shelf

if sys.version_info >= (3, 11):
    from typing import TypeVarTuple, Unpack
else:
    from typing_extensions import TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = get_logger(__name__)


class BootNote(Note, Protocol):
    """A note that says which boot it was made in."""

    @property
    def boot_id(self) -> str: ...


Record = TypeVar("Record", bound=BootNote)


class Notes(Protocol):
    """Where the notes are kept: on a disk that may be slow, and that the loop does not wait for."""

    async def read(self, read: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Return what ``read`` finds."""

    async def save(self, write: Callable[[Unpack[Ts]], None], *args: Unpack[Ts]) -> None:
        """Have a note written and synced."""


class BootNotes(Generic[Record]):
    """The notes of one kind, one a volume at most, in memory and on disk."""

    def __init__(self, shelf: Shelf[Record], notes: Notes, boot_id: str) -> None:
        self._shelf = shelf
        self._notes = notes
        self.boot_id = boot_id
        self._records: dict[VolumeId, Record] = {}
        self._unread: AgentError | None = None
        """Why it is not known yet of which volumes there are notes."""
        self._faults: dict[VolumeId, AgentError] = {}
        """Why the note about a volume says nothing: it is not sound, or could not be looked at yet."""
        self._locks: WeakValueDictionary[VolumeId, anyio.Lock] = WeakValueDictionary()
        """Each for as long as somebody has it or waits for it."""
        self.hear_change: Callable[[], None] = lambda: None
        """Called after each change, by whoever put it here."""

    @property
    def all(self) -> Mapping[VolumeId, Record]:
        """What is noted of each volume."""
        return self._records

    @property
    def faults(self) -> Mapping[VolumeId, AgentError]:
        """Of volumes that have a note which says nothing, why it does not."""
        return self._faults

    def path_of(self, volume_id: VolumeId) -> str:
        """Return where the note about a volume is, or would be."""
        return str(self._shelf.path_of(volume_id))

    @property
    def is_read(self) -> bool:
        """Nothing is left to be read again: one that is not sound stays so."""
        return self._unread is None and not any(map(_may_be_sound, self._faults.values()))

    async def load(self) -> None:
        """Read the notes that were not read yet; those of an earlier boot go.

        One that is not sound stands by itself. What could not be looked at is left for the next time.
        """
        try:
            listed = await self._notes.read(self._shelf.list_volumes)
        except AgentError as error:
            if self._unread is None:
                log.warning("kubelet.notes_unread", error=error.message, hint=error.hint)
            self._unread = error
            return
        self._unread = None
        for volume in listed:
            async with self._lock(volume):
                if volume not in self._records and _may_be_sound(self._faults.get(volume)):
                    await self._read(volume)
        self.hear_change()

    async def _read(self, volume: VolumeId) -> None:
        """Find out what is noted of one volume."""
        try:
            record = await self._notes.read(self._shelf.read, volume)
            if record is not None and record.boot_id == self.boot_id:
                self._records[volume] = record
            elif record is not None:
                await self._notes.save(self._shelf.remove, volume)
            self._faults.pop(volume, None)
        except AgentError as error:
            event = "kubelet.note_unread" if _may_be_sound(error) else "kubelet.note_unsound"
            if volume not in self._faults or not _may_be_sound(error):
                log.warning(event, volume_id=volume, error=error.message, hint=error.hint)
            self._faults[volume] = error

    def find(self, volume_id: VolumeId) -> Record | None:
        """Return what is noted of a volume; raise AgentError where that is not known."""
        fault = self._faults.get(volume_id)
        if fault is None and volume_id not in self._records:
            fault = self._unread
        if fault is not None:
            raise fault
        return self._records.get(volume_id)

    async def note(self, volume_id: VolumeId, make: Callable[[Record | None], Record]) -> Record:
        """Have the note that ``make`` makes of the present one on disk, and return it.

        One change follows the other, so that none is lost. What ``make`` raises leaves the note as it is.
        """
        async with self._lock(volume_id):
            record = make(self.find(volume_id))
            await self._keep(record)
        self.hear_change()
        return record

    async def change(
        self, volume_id: VolumeId, change: Callable[[Record | None], Record | None]
    ) -> Record | None:
        """As ``note``, of a note that may go: None, made or returned, is no note."""
        async with self._lock(volume_id):
            known = self.find(volume_id)
            record = change(known)
            if record is not None:
                await self._keep(record)
            elif known is not None:
                await self._notes.save(self._shelf.remove, volume_id)
                self._records.pop(volume_id, None)
        self.hear_change()
        return record

    async def _keep(self, record: Record) -> None:
        if record != self._records.get(record.volume_id):
            await self._notes.save(self._shelf.write, record)
            self._records[record.volume_id] = record

    def _lock(self, volume_id: VolumeId) -> anyio.Lock:
        return self._locks.setdefault(volume_id, anyio.Lock())


def _may_be_sound(fault: AgentError | None) -> bool:
    """Whether a note may say something when it is looked at again."""
    return not isinstance(fault, RefusedError)
