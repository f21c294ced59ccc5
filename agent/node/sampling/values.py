"""What a sample is asked of, and what it finds: values, which need nothing of what samples.

Whoever shows them or passes them on is spared all that looks at devices.
"""

from __future__ import annotations

from msgspec import Struct

from agent.core.model import DeviceNumber, VolumeId
from agent.node.kernel.disk_counters import BlockCounters


class SampleRequest(Struct, frozen=True):
    """Which volume to sample, and what of it may be touched."""

    volume: VolumeId
    path: str
    """Its device node."""
    mount_path: str | None = None
    """Where it is mounted; None: no filesystem is touched."""
    may_read: bool = False
    """Read one block of the device, past every cache: the only way to see an idle one stall."""
    may_write: bool = False
    """Make a nameless file in the filesystem's root and let it go again: by a call of its own, which a freeze
    holds up and the rest of the sample does not wait for."""


class MountSample(Struct, frozen=True):
    """How the filesystem of a volume is. ``…_errno`` is that of a call that failed."""

    path: str
    fs_type: str
    is_read_only: bool
    """The kernel takes no writes there, whatever the reason."""
    is_emergency: bool = False
    """An error made it so, or shut it down."""
    root_errno: int | None = None
    """Of looking at the root directory; EIO on one that is shut down."""
    write_errno: int | None = None
    """Of making a file without a name; None where that was not tried, too."""
    is_frozen: bool = False
    """Somebody else froze it: whoever writes to it waits."""
    size_bytes: int = 0
    avail_bytes: int = 0
    files: int = 0
    files_free: int = 0
    spans_bytes: int | None = None
    """Of its device, by its own superblock; statvfs leaves its own structures out."""
    errors: int | None = None
    """Errors it has counted: ext4 since mkfs or the last full check, btrfs since they were reset."""
    device_number: DeviceNumber | None = None
    mount_id: int = 0


class Sample(Struct, frozen=True):
    """What one sample found."""

    device_number: DeviceNumber
    size_bytes: int
    """Of the device, or of the partition that holds the filesystem."""
    counters: BlockCounters | None = None
    log_page: bytes | None = None
    """Log page 0xD0 as it came; None where the device has none."""
    log_page_error: str | None = None
    mount: MountSample | None = None
    read_errno: int | None = None
    probe_s: float | None = None
    """How long the one read took; None where none was made."""
    io_timeout_s: int | None = None
    """After which the kernel gives a command to this device up; None for what is no NVMe device."""
    duration_s: float = 0.0
