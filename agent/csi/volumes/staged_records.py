"""What kubelet has asked for and not taken back: notes that are synced before anything is done for it.

A restart of the agent goes on with them. A reboot ends them all: kubelet begins anew then, and asks again.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import anyio

from agent.base.log import get_logger
from agent.core.errors import AgentError
from agent.core.model import FsType, VolumeId, parse_volume_id
from agent.csi.calls import AccessMode, Capability, StageCall
from agent.node.state.record_fields import Fields, check_text
from agent.node.state.record_files import Shelf

if sys.version_info >= (3, 11):
    from typing import TypeVarTuple, Unpack
else:
    from typing_extensions import TypeVarTuple, Unpack

DIRECTORY = "kubelet"
"""Below the state directory."""

_NAMED = re.compile(
    r"/volumes/kubernetes\.io~csi/([^/]+)/mount$|/volumeDevices/(?:staging|publish)/([^/]+)(?:/|$)", re.ASCII
)
"""Where kubelet publishes a filesystem, and stages and publishes a device (pkg/volume/csi in Kubernetes)."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Noted = TypeVar("Noted", bound="StagedRecord | None")

log = get_logger(__name__)


@dataclass(frozen=True)
class Publication:
    """One pod's view of a volume."""

    target_path: str
    is_read_only: bool
    access: AccessMode


@dataclass(frozen=True)
class StagedRecord:
    """The durable note that kubelet wants a volume on this node: from before it is staged until it is not."""

    volume_id: VolumeId
    boot_id: str
    staging_path: str
    """As kubelet gave it, not resolved."""
    access: AccessMode
    is_block: bool
    fs_type: FsType
    mount_flags: tuple[str, ...]
    mkfs_options: tuple[str, ...]
    partition: int | None
    is_copy: bool
    is_format_allowed: bool
    published: tuple[Publication, ...] = ()
    is_leaving: bool = False
    """Kubelet has taken it back, and something of it is mounted or held still."""

    @property
    def persistent_volume(self) -> str | None:
        """The name of the PersistentVolume, as kubelet's paths have it; None before they do."""
        paths = (self.staging_path, *(one.target_path for one in self.published))
        named = filter(None, map(_NAMED.search, paths))
        return next((found[1] or found[2] for found in named), None)

    def publishes(self, publication: Publication | None, target_path: str) -> StagedRecord:
        """Return the record with this at a target; None: with nothing there."""
        others = tuple(one for one in self.published if one.target_path != target_path)
        ours = () if publication is None else (publication,)
        return dataclasses.replace(self, published=(*others, *ours))

    def find_publication(self, target_path: str) -> Publication | None:
        """Return what is noted of a target."""
        return next((one for one in self.published if one.target_path == target_path), None)

    def has_path(self, path: str) -> bool:
        """Whether the volume is staged or published at a path."""
        return path == self.staging_path or self.find_publication(path) is not None


def make_record(call: StageCall, boot_id: str) -> StagedRecord:
    """Return the note about a call to stage a volume."""
    capability = call.capability
    return StagedRecord(
        call.volume_id,
        boot_id,
        call.staging_path,
        capability.access,
        capability.is_block,
        capability.fs_type,
        capability.mount_flags,
        call.mkfs_options,
        call.partition,
        call.is_copy,
        call.is_format_allowed,
    )


def make_bare_record(volume_id: VolumeId, boot_id: str, staging_path: str) -> StagedRecord:
    """Return a note that says no more than where a volume may be: for one of which none is kept."""
    capability = Capability(AccessMode.SINGLE_NODE_READER_ONLY)
    return make_record(StageCall(volume_id, staging_path, capability, is_format_allowed=False), boot_id)


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


def _names(record: type[StagedRecord | Publication]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(record))


def parse_record(fields: Fields) -> StagedRecord:
    """Return the note that a file holds; ValueError where it holds none."""
    return StagedRecord(
        volume_id=parse_volume_id(fields.take_text("volume_id")),
        boot_id=fields.take_text("boot_id"),
        staging_path=fields.take_text("staging_path"),
        access=AccessMode(fields.take_text("access")),
        is_block=fields.take_flag("is_block"),
        fs_type=FsType(fields.take_text("fs_type")),
        mount_flags=tuple(map(check_text, fields.take_list("mount_flags"))),
        mkfs_options=tuple(map(check_text, fields.take_list("mkfs_options"))),
        partition=None if fields.is_none("partition") else fields.take_number("partition"),
        is_copy=fields.take_flag("is_copy"),
        is_format_allowed=fields.take_flag("is_format_allowed"),
        published=tuple(map(_parse_publication, fields.take_list("published"))),
        is_leaving=fields.take_flag("is_leaving"),
    )


def _parse_publication(value: object) -> Publication:
    fields = Fields(value, _names(Publication))
    return Publication(
        fields.take_text("target_path"),
        fields.take_flag("is_read_only"),
        AccessMode(fields.take_text("access")),
    )
