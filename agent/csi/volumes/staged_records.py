"""What kubelet has asked for and not taken back: notes that are synced before anything is done for it.

A restart of the agent goes on with them. A reboot ends them all: kubelet begins anew then, and asks again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import anyio

from agent.base.log import get_logger
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.csi.volumes.staged_record import StagedRecord, parse_record
from agent.node.state.record_files import Shelf

if sys.version_info >= (3, 11):
    from typing import TypeVarTuple, Unpack
else:
    from typing_extensions import TypeVarTuple, Unpack

DIRECTORY = "kubelet"
"""Below the state directory."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Noted = TypeVar("Noted", bound="StagedRecord | None")

log = get_logger(__name__)


class Notes(Protocol):
    """Where the notes are kept: on a disk that may be slow, and that the loop does not wait for."""

    async def read(self, read: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Return what ``read`` finds."""

    async def save(self, write: Callable[[Unpack[Ts]], None], *args: Unpack[Ts]) -> None:
        """Have a note written and synced."""


class StagedRecords:
    """The notes of this boot, in memory and on disk."""

    def __init__(self, directory: Path, notes: Notes, boot_id: str, machine_id: str) -> None:
        self._shelf = Shelf(directory / DIRECTORY, "staged", StagedRecord, parse_record, machine_id)
        self._notes = notes
        self.boot_id = boot_id
        self._records: dict[VolumeId, StagedRecord] = {}
        self._unsound: dict[VolumeId, AgentError] = {}
        self._locks: dict[VolumeId, anyio.Lock] = {}
        self.hear_change: Callable[[], None] = lambda: None
        """Called after each change, by whoever put it here."""

    @property
    def all(self) -> Mapping[VolumeId, StagedRecord]:
        """What is noted of each volume."""
        return self._records

    async def load(self) -> None:
        """Read the notes; those of an earlier boot go, and one that is not sound stands by itself."""
        for volume in await self._notes.read(self._shelf.list_volumes):
            try:
                record = await self._notes.read(self._shelf.read, volume)
                if record is None:
                    continue
                if record.boot_id == self.boot_id:
                    self._records[volume] = record
                else:
                    await self._notes.save(self._shelf.remove, volume)
            except AgentError as error:
                log.warning("kubelet.note_unsound", volume_id=volume, error=error.message, hint=error.hint)
                self._unsound[volume] = error

    def find(self, volume_id: VolumeId) -> StagedRecord | None:
        """Return what is noted of a volume; raise AgentError where its note is not sound."""
        if volume_id in self._unsound:
            raise self._unsound[volume_id]
        return self._records.get(volume_id)

    async def change(self, volume_id: VolumeId, change: Callable[[StagedRecord | None], Noted]) -> Noted:
        """Have the note that ``change`` makes of the present one on disk, and return it; None: there is none.

        One change follows the other, so that none is lost. What ``change`` raises leaves the note as it is.
        """
        async with self._locks.setdefault(volume_id, anyio.Lock()):
            known = self.find(volume_id)
            record = change(known)
            if record is None and known is not None:
                await self._notes.save(self._shelf.remove, volume_id)
                self._records.pop(volume_id, None)
            elif record is not None and record != known:
                await self._notes.save(self._shelf.write, record)
                self._records[volume_id] = record
        self.hear_change()
        return record
