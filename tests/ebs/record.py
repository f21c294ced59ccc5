"""What is remembered of a volume across a restart of the target: one JSON file beside each backing file.

Written whole or not at all. A record that cannot be read is an error that names its file, never a guess.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.ebs.errors import TargetError
from tests.ebs.limits import Rates

SECTOR_BYTES = 512
_VOLUME_ID = re.compile(r"vol-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)
_INSTANCE_STORE_ID = re.compile(r"AWS[0-9A-F]{17}", re.ASCII)
_SERIAL = re.compile(r"[!-~]{1,20}", re.ASCII)
_DEVICE_NAME_BYTES = 32


@dataclass(frozen=True)
class VolumeRecord:
    """A volume as its owner described it.

    ``volume_id`` is ``vol-…``, or ``AWS…`` for an instance-store drive. ``serial`` is what the controller
    says of itself, the ID without its hyphen unless another was asked for. ``device_name`` is the block
    device name chosen at attach, as it stands in the vendor bytes. A multi-attach volume's namespace says
    that it may be shared. ``has_paths`` makes the subsystem multi-path, so that Linux shows hidden
    ``nvmeXcYnZ`` devices beside the disk.
    """

    volume_id: str
    size_bytes: int
    serial: str
    device_name: str = ""
    is_attached: bool = False
    is_multi_attach: bool = False
    has_paths: bool = False
    rates: Rates = field(default_factory=Rates)

    def __post_init__(self) -> None:
        check_volume_id(self.volume_id)
        if self.size_bytes <= 0 or self.size_bytes % SECTOR_BYTES:
            raise TargetError(
                f"{self.volume_id}: {self.size_bytes} bytes is not a positive number of sectors"
            )
        if not _SERIAL.fullmatch(self.serial):
            raise TargetError(f"{self.volume_id}: a serial is 1 to 20 printable ASCII characters")
        if not self.device_name.isascii() or len(self.device_name) > _DEVICE_NAME_BYTES:
            raise TargetError(
                f"{self.volume_id}: a device name is at most {_DEVICE_NAME_BYTES} ASCII characters"
            )

    @property
    def is_instance_store(self) -> bool:
        return not self.volume_id.startswith("vol-")

    @property
    def nqn(self) -> str:
        """The subsystem's name. It follows the serial, as on PCIe: another serial is another device."""
        return f"nqn.2026-01.example.ebs:{self.serial}"

    @property
    def sectors(self) -> int:
        return self.size_bytes // SECTOR_BYTES


def check_volume_id(volume_id: str) -> None:
    """Raise TargetError unless this names a volume; what passes is safe as a file name."""
    if not _VOLUME_ID.fullmatch(volume_id) and not _INSTANCE_STORE_ID.fullmatch(volume_id):
        raise TargetError(
            f"{volume_id!r} is not a volume: vol- and 8 or 17 hexadecimal digits, "
            "or AWS and 17 upper-case ones for an instance-store drive"
        )


def serial_of(volume_id: str) -> str:
    return volume_id.replace("-", "")


def save_record(path: Path, record: VolumeRecord) -> None:
    """Replace the record at ``path``, durably."""
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        json.dump(asdict(record), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def load_record(path: Path) -> VolumeRecord:
    """Return the record at ``path``; raise TargetError where it is not one."""
    try:
        fields = json.loads(path.read_text())
        return VolumeRecord(**{**fields, "rates": Rates(**fields["rates"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TargetError(f"{path} is not a volume's record: {error}") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
