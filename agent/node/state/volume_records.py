"""What the agent must remember across its own death: what it set out to format, mounted, must not format.

The files themselves, and what makes one trustworthy, are in :mod:`agent.node.state.record_files`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from agent.core.errors import AgentError
from agent.core.model import (
    DeviceNumber,
    FormatRecord,
    FormatStage,
    FsType,
    MountRecord,
    OriginRecord,
    RawRecord,
    RootInode,
    VolumeId,
    parse_volume_id,
)
from agent.node.state.record_fields import Fields, check_number, check_text
from agent.node.state.record_files import Shelf

T = TypeVar("T")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MACHINE_ID = Path("/etc/machine-id")
_LARGEST_ID, _ALL_BITS = 0xFFFF_FFFE, 0o7777


def read_boot_id(path: Path = BOOT_ID) -> str:
    """Return the kernel's name for this boot; notes of mounts made in another one are history."""
    return path.read_text(encoding="ascii").strip()


def read_machine_id(path: Path = MACHINE_ID) -> str:
    """Return systemd's name for this machine; empty where it has none, and notes are bound to no machine.

    Raises OSError where it could not be read: without it every note would look like another machine's.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


class Records:
    """The notes below one state directory, each in a file named after its volume."""

    def __init__(self, directory: Path, machine_id: str | None = None) -> None:
        machine = read_machine_id() if machine_id is None else machine_id
        self.formats = Shelf(directory / "formats", "format", FormatRecord, _parse_format, machine)
        self.mounts = Shelf(directory / "mounts", "mount", MountRecord, _parse_mount, machine)
        self.origins = Shelf(directory / "origins", "origin", OriginRecord, _parse_origin, machine)
        self.raws = Shelf(directory / "raw", "raw", RawRecord, _parse_raw, machine)


class Notes(Struct, frozen=True):
    """What is noted of one volume; in the place of a note that cannot be read or trusted, why that is."""

    mount: MountRecord | None
    format: FormatRecord | AgentError | None
    raw: RawRecord | AgentError | None
    origin: OriginRecord | AgentError | None = None


def read_notes(records: Records, volume: VolumeId) -> Notes:
    """Return what a look needs of the notes about a volume. Raises as ``Shelf.read`` does of the mount's."""
    return Notes(
        records.mounts.read(volume),
        _read_or_explain(records.formats.read, volume),
        _read_or_explain(records.raws.read, volume),
        _read_or_explain(records.origins.read, volume),
    )


def read_notes_of(records: Records, volumes: tuple[VolumeId, ...]) -> dict[VolumeId, Notes | AgentError]:
    """Return the notes about each of some volumes; in their place, what ``read_notes`` raises."""
    return {volume: _read_or_explain(partial(read_notes, records), volume) for volume in volumes}


def _read_or_explain(read: Callable[[VolumeId], T], volume: VolumeId) -> T | AgentError:
    try:
        return read(volume)
    except AgentError as error:
        return error


def _parse_format(fields: Fields) -> FormatRecord:
    return FormatRecord(
        volume_id=parse_volume_id(fields.take_text("volume_id")),
        uuid=fields.take_text("uuid"),
        type=FsType(fields.take_text("type")),
        size_bytes=fields.take_number("size_bytes"),
        stage=FormatStage(fields.take_text("stage")),
        recorded_at=fields.take_text("recorded_at"),
    )


def _parse_mount(fields: Fields) -> MountRecord:
    major, minor = (check_number(part) for part in fields.take_list("device_number"))
    return MountRecord(
        volume_id=parse_volume_id(fields.take_text("volume_id")),
        path=fields.take_text("path"),
        device_number=DeviceNumber(major, minor),
        boot_id=fields.take_text("boot_id"),
        diskseq=None if fields.is_none("diskseq") else fields.take_number("diskseq"),
        options=tuple(check_text(option) for option in fields.take_list("options")),
    )


def _parse_origin(fields: Fields) -> OriginRecord:
    return OriginRecord(
        volume_id=parse_volume_id(fields.take_text("volume_id")),
        snapshot_id=None if fields.is_none("snapshot_id") else fields.take_text("snapshot_id"),
        source_volume_id=None if fields.is_none("source_volume_id") else fields.take_text("source_volume_id"),
    )


def _parse_raw(fields: Fields) -> RawRecord:
    return RawRecord(
        volume_id=parse_volume_id(fields.take_text("volume_id")),
        boot_id=fields.take_text("boot_id"),
        diskseq=None if fields.is_none("diskseq") else fields.take_number("diskseq"),
        node_owner=None if fields.is_none("node_owner") else _parse_owner(fields.take_object("node_owner")),
    )


def _parse_owner(value: object) -> RootInode:
    fields = Fields(value, frozenset(RootInode.__struct_fields__))
    owner = RootInode(fields.take_number("uid"), fields.take_number("gid"), fields.take_number("mode"))
    if owner.uid > _LARGEST_ID or owner.gid > _LARGEST_ID or owner.mode > _ALL_BITS:
        raise ValueError("no device node has such an owner or mode")
    return owner
