"""What is on a device, as far as reading it tells."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from msgspec import Struct


class FsType(str, Enum):
    """A filesystem the agent can make, check, grow and mount."""

    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"

    def __str__(self) -> str:
        return self.value


LABEL_LIMIT_BYTES = {FsType.EXT4: 16, FsType.XFS: 12, FsType.BTRFS: 255}
"""How long a label may be."""


class Blank(Struct, frozen=True):
    """Proven: no signature, no partition, no holder, and every sampled read succeeded and was zero."""

    sampled_bytes: int
    is_whole: bool = False
    """Every byte was read, not a sample."""


class Unproven(Struct, frozen=True):
    """Nothing is recognised there, and no proof of blankness was made, since nothing would follow from it."""


class Filesystem(Struct, frozen=True):
    """A filesystem of a type the agent knows, on the whole device or on its only partition."""

    type: FsType
    uuid: str
    label: str | None = None
    size_bytes: int | None = None
    """Bytes the filesystem spans, from its superblock; None where that could not be read."""
    partition: int | None = None
    has_errors: bool = False
    """The superblock itself records errors (ext4's error flag)."""
    is_pristine: bool | None = None
    """The superblock proves that it was never mounted since mkfs began; None where it cannot tell."""
    is_panicking: bool = False
    """Its superblock has the kernel panic at an error of it, where the mount does not say otherwise."""


class Foreign(Struct, frozen=True):
    """Something is there that the agent must not touch. ``what`` completes "the volume holds …"."""

    what: str
    offset_bytes: int | None = None
    is_signed: bool = True
    """A known format was recognised; False for bytes that are merely not zero."""
    is_own_remains: bool = False
    """All that is there was shown to come from the interrupted format that the agent has a note of."""


class Unknown(Struct, frozen=True):
    """The probe failed, so nothing is known. ``why`` is a clause. Never blank."""

    why: str


Content: TypeAlias = "Blank | Unproven | Filesystem | Foreign | Unknown"
