"""What a device is: one appearance of a volume on this node, and who it says it is."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from agent.core.model.volume import VolumeId


class DeviceNumber(NamedTuple):
    """A dev_t: what the kernel, mountinfo and sysfs call a device by while it exists."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


class Identity(Struct, frozen=True):
    """What a device says it is, asked by ioctl on an open descriptor."""

    volume_id: VolumeId
    model: str
    serial: str
    attach_name: str | None = None
    """Block device name chosen at attach, with ``/dev/``: ``/dev/sdf``. A hint for matching, no identity."""
    is_shared: bool = False
    """The namespace may be attached to several controllers: an io2 multi-attach volume."""


class Partition(Struct, frozen=True):
    """One partition of a device, as the kernel has it."""

    number: int
    path: str
    device_number: DeviceNumber
    start_bytes: int
    size_bytes: int
    holders: tuple[str, ...] = ()


class Device(Struct, frozen=True):
    """One appearance of a volume on this node. All of it may change at the next look but the identity."""

    path: str
    device_number: DeviceNumber
    identity: Identity
    size_bytes: int
    diskseq: int | None = None
    """The kernel's serial number of this appearance (BLKGETDISKSEQ, Linux 5.15 and later)."""
    is_read_only: bool = False
    partitions: tuple[Partition, ...] = ()
    holders: tuple[str, ...] = ()
    """Names under sysfs ``holders/``: device-mapper, md and the like built on the device."""

    @property
    def numbers(self) -> frozenset[DeviceNumber]:
        return frozenset({self.device_number, *(p.device_number for p in self.partitions)})


class Seen(Struct, frozen=True):
    """A device path, and what it answered when asked which volume it is: ``identity`` or ``refusal``."""

    path: str
    identity: Identity | None = None
    size_bytes: int = 0
    refusal: str | None = None
    """Why it is no volume of ours, or why it did not say; a sentence."""
    diskseq: int | None = None
    """The kernel's number of this appearance of the disk; None from kernels that count none."""
    is_silent: bool = False
    """It did not say which volume it is; the one it was known to be may be there, stalled or cut off."""


class RootInode(Struct, frozen=True):
    """Owner, group and permission bits of the directory a filesystem is seen at, or of a device node."""

    uid: int
    gid: int
    mode: int
