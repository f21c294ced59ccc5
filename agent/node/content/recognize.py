"""What is on a device: proven blank, one filesystem the agent knows, something foreign, or unknown.

Says Blank only after :mod:`agent.node.content.blankness` has proven it. Whatever failed, contradicts itself
or is more than one thing is never blank. Reads only, on the descriptor it is given; runs in a worker.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence

from agent.core.exhaustion import is_shortage
from agent.core.model import Content, Device, Filesystem, Foreign, FsType, Unknown
from agent.node.content.blankness import prove_blank
from agent.node.content.superblocks import FS_TYPES, LAYOUTS
from agent.node.kernel import libblkid
from agent.node.kernel.libblkid import Region, Signature

_USAGES = {
    "raid": "a member of a volume group or array",
    "crypto": "encrypted data",
    "table": "a partition table",
}

_EDGE_BYTES = 512 * 1024
"""What libblkid reads of a device's head and of its tail, in some fifty pieces one after the other."""
_AHEAD_BYTES = 128 * 1024
"""What the kernel reads ahead at a time, whatever it is asked for."""


def probe(fd: int, device: Device, rng: random.Random | None = None) -> Content:
    """Return what is on ``device``, open at ``fd``; proves blankness where no signature is found.

    Reads from some KiB to 300 MiB (1 GiB of a volume no larger): give it a minute, and more on a throttled
    volume.
    """
    content = recognize(fd, device)
    return prove_blank(fd, device.size_bytes, rng) if content is None else content


def recognize(
    fd: int, device: Device, known: Filesystem | None = None
) -> Filesystem | Foreign | Unknown | None:
    """Return what ``find_signatures`` does, and Unknown where a probe failed: that is an answer as well.

    OSError only where the node has run out of something, by which the device has not been asked.

    ``known`` is what was recognised a moment ago: one read confirms it, and only what has changed is looked
    for anew.
    """
    try:
        if known is not None and reread(fd, device, known) == known:
            return known
        return find_signatures(fd, device)
    except OSError as error:
        if is_shortage(error):
            raise
        return Unknown(f"the probe for signatures failed ({error.strerror or error})")


def reread(fd: int, device: Device, known: Filesystem) -> Filesystem | Foreign | None:
    """Return what the superblock of ``known`` says now, and nothing else; None where its partition is gone.

    Raises OSError where it could not be read.
    """
    start_bytes = 0
    if known.partition is not None:
        starts = {partition.number: partition.start_bytes for partition in device.partitions}
        if known.partition not in starts:
            return None
        start_bytes = starts[known.partition]
    layout = LAYOUTS[known.type]
    os.posix_fadvise(fd, start_bytes + layout.offset_bytes, layout.length_bytes, os.POSIX_FADV_DONTNEED)
    return _read_filesystem(fd, known.type, known.uuid, start_bytes, known.partition)


def find_signatures(fd: int, device: Device) -> Filesystem | Foreign | None:
    """Return what libblkid and the kernel recognise on ``device``; None for nothing, which proves nothing.

    Reads some hundred KiB. Raises OSError where a probe failed.
    """
    # What this kernel cached of the device may be older than what is on it.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    _read_ahead(fd, device.size_bytes)
    signatures = libblkid.list_signatures(fd)
    tables = [signature for signature in signatures if signature.usage == "table"]
    if tables and len(signatures) == 1:
        return _find_in_partition(fd, device, tables[0], libblkid.list_regions(fd))
    if device.partitions:
        return Foreign(f"{len(device.partitions)} partition(s) that the kernel has")
    return _judge(fd, signatures, 0, None) if signatures else None


def _read_ahead(fd: int, size_bytes: int) -> None:
    """Have the kernel read at once what libblkid reads piece by piece: each would wait for the device.

    What cannot be read is found out by whoever reads it.
    """
    for edge in (0, max(0, size_bytes - _EDGE_BYTES)):
        for offset in range(edge, edge + _EDGE_BYTES, _AHEAD_BYTES):
            os.posix_fadvise(fd, offset, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def _find_in_partition(
    fd: int, device: Device, table: Signature, regions: Sequence[Region]
) -> Filesystem | Foreign:
    """Return what a partition table holds: it is usable where its only partition is one filesystem."""
    if len(regions) != 1:
        return Foreign(f"a partition table ({table.type}) with {len(regions)} partitions")
    region = regions[0]
    kernel = [(partition.number, partition.start_bytes) for partition in device.partitions]
    if kernel != [(region.number, region.start_bytes)]:
        return Foreign("a partition table that is not the one the kernel has read")
    if region.start_bytes + region.size_bytes > device.size_bytes or region.size_bytes <= 0:
        return Foreign("a partition that reaches beyond the end of the device")
    signatures = libblkid.list_signatures(fd, region.start_bytes, region.size_bytes)
    if not signatures:
        return Foreign(f"a partition table ({table.type}) whose partition holds no known filesystem")
    return _judge(fd, signatures, region.start_bytes, region.number)


def _judge(
    fd: int, signatures: Sequence[Signature], start_bytes: int, partition: int | None
) -> Filesystem | Foreign:
    where = "" if partition is None else f" in partition {partition}"
    if len(signatures) > 1:
        types = ", ".join(sorted(signature.type for signature in signatures))
        return Foreign(f"several signatures at once{where} ({types})")
    (signature,) = signatures
    kind = FS_TYPES.get(signature.type)
    if kind is None or signature.usage != "filesystem":
        what = _USAGES.get(signature.usage, "a filesystem" if signature.usage == "filesystem" else "data")
        return Foreign(f"{what} of type {signature.type}{where}")
    return _read_filesystem(fd, kind, signature.uuid, start_bytes, partition)


def _read_filesystem(
    fd: int, kind: FsType, uuid: str | None, start_bytes: int, partition: int | None
) -> Filesystem | Foreign:
    layout = LAYOUTS[kind]
    raw = os.pread(fd, layout.length_bytes, start_bytes + layout.offset_bytes)
    if len(raw) != layout.length_bytes:
        raise OSError(errno.EIO, f"reading the {kind} superblock gave {len(raw)} bytes")
    try:
        superblock = layout.parse(raw)
    except ValueError as error:
        return Foreign(str(error), offset_bytes=start_bytes + layout.offset_bytes)
    if uuid != superblock.uuid:
        return Foreign(f"a filesystem of type {kind} with two UUIDs: {uuid} and {superblock.uuid}")
    return Filesystem(
        type=kind,
        uuid=superblock.uuid,
        label=superblock.label,
        size_bytes=superblock.size_bytes,
        partition=partition,
        has_errors=superblock.has_errors,
        is_pristine=superblock.is_pristine,
        is_panicking=superblock.is_panicking,
    )
