"""What is remembered of a volume, durably: notes that are written and synced before the deed."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from agent.core.model.content import FsType
from agent.core.model.device import DeviceNumber, RootInode
from agent.core.model.volume import VolumeId


class FormatStage(str, Enum):
    """How far the agent's own formatting of a volume has come, as written down and synced."""

    INTENDED = "intended"
    DONE = "done"


class FormatRecord(Struct, frozen=True):
    """The durable note about formatting one volume: written before mkfs, completed after it was observed."""

    volume_id: VolumeId
    uuid: str
    type: FsType
    size_bytes: int
    stage: FormatStage
    recorded_at: str
    """UTC, ISO 8601. For people; no decision depends on it."""


class MountRecord(Struct, frozen=True):
    """The durable note that the agent mounted a volume; tells its stale mount from anyone else's."""

    volume_id: VolumeId
    path: str
    device_number: DeviceNumber
    boot_id: str
    diskseq: int | None = None
    options: tuple[str, ...] = ()
    """As last asked for; the kernel does not show every one of them."""


class OriginRecord(Struct, frozen=True):
    """The durable note that the cloud once said a volume was made from another's data.

    It never becomes untrue, so it outlasts the agent and the cloud's silence.
    """

    volume_id: VolumeId
    snapshot_id: str | None = None
    source_volume_id: str | None = None


class RawRecord(Struct, frozen=True):
    """The durable note that a volume was handed out raw: written before, and kept until nobody has it open.

    It holds for one appearance of the device: none outlasts a boot, and no descriptor of one is of another.
    """

    volume_id: VolumeId
    boot_id: str
    diskseq: int | None
    node_owner: RootInode | None
    """Of the device node before it was given the policy's; None once it has that again."""
