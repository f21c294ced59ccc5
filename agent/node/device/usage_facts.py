"""What this node uses its block devices for: gathered from sysfs, procfs and the names below ``/dev``.

Reads no device and no filesystem on one, so that a stalled volume cannot hide what is known about the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from agent.core.exhaustion import is_shortage
from agent.core.model import DeviceNumber, Mount
from agent.core.system_places import SYSTEM_MOUNTS
from agent.node.device.foreign_use import BlockNode, UsageFacts
from agent.node.kernel.swaps import list_swap_devices
from agent.node.kernel.sysfs import list_names, read_attribute, read_block_numbers, read_device_number

_LOOP = re.compile(r"loop\d+", re.ASCII)
_LEAF = re.compile(r"(?:nvme\d+n\d+|(?:sd|vd|xvd)[a-z]+|ram\d+|zram\d+|sr\d+|nbd\d+)", re.ASCII)
"""Drivers whose devices stand on no other block device."""

_KEPT_S = 5.0
"""For so long at the most a look at one volume serves the looks at those after it."""

_DM_KINDS = {"LVM": "an LVM volume", "CRYPT": "an encrypted volume", "mpath": "a multipath device"}


class _Table(Struct, frozen=True):
    """Every block device there is, at one moment."""

    blocks: Mapping[DeviceNumber, BlockNode]
    numbers: Mapping[str, DeviceNumber]
    loops: Mapping[DeviceNumber, str]


class _Kept(Struct, frozen=True):
    """A table read before, by what would tell of a change since."""

    marks: tuple[bytes, str]
    read_at: float
    table: _Table


_kept: dict[Path, _Kept] = {}
"""By root; of this process, which is a worker."""


def gather_surroundings(mounts: tuple[Mount, ...], root: Path = Path("/")) -> UsageFacts:
    """Return what the node uses block devices for; ``root`` holds ``sys``, ``proc``, ``dev``.

    Raises OSError where sysfs or procfs cannot be read: without them nothing is known to be free.
    """
    return _put_together(mounts, _read_table(root), root)


def gather_for_look(
    mounts: tuple[Mount, ...], root: Path = Path("/"), clock: Callable[[], float] = time.monotonic
) -> UsageFacts:
    """Return the same for a look, which does nothing itself: what there is is read once for looks in a row.

    That is for as long as the kernel has announced nothing, by the number it gives each announcement, and
    its table of block devices is the same to the byte; loop devices it may fill without a word. What is
    mounted, swapped to and in btrfs's pools is read each time. Whoever acts asks ``gather_surroundings``.
    """
    # Read before the table: what changes while that is read is read again by the next look.
    marks, now = _read_marks(root), clock()
    kept = _kept.get(root)
    if marks is None or kept is None or kept.marks != marks or not 0 <= now - kept.read_at < _KEPT_S:
        table = _read_table(root)
        if marks is not None:
            _kept[root] = _Kept(marks, now, table)
    else:
        table = kept.table
    return _put_together(mounts, table, root)


def _read_marks(root: Path) -> tuple[bytes, str] | None:
    """Return what differs once a block device has come, gone or changed; None where the kernel tells not."""
    number = read_attribute(f"{root}/sys/kernel/uevent_seqnum")
    return None if number is None else ((root / "proc/partitions").read_bytes(), number)


def _read_table(root: Path) -> _Table:
    blocks = _read_blocks(root)
    return _Table(
        blocks=blocks,
        numbers={block.name: number for number, block in blocks.items()},
        loops={
            number: block.name
            for block in blocks.values()
            for number in block.beneath
            if _LOOP.fullmatch(block.name)
        },
    )


def _put_together(mounts: tuple[Mount, ...], table: _Table, root: Path) -> UsageFacts:
    pools = _read_pools(root)
    return UsageFacts(
        mounts=mounts,
        blocks=table.blocks,
        sources={
            mount.mount_id: found
            for mount in mounts
            if mount.device_number not in table.blocks
            and (found := _find_sources(mount, root, table.numbers, pools))
        },
        swaps=_find_numbers(
            (_resolve_name(path, root) for path in list_swap_devices(root / "proc")), table.numbers
        ),
        pools=tuple(members for pool in pools if (members := _find_numbers(pool, table.numbers))),
        loops=table.loops,
    )


def _read_blocks(root: Path) -> dict[DeviceNumber, BlockNode]:
    """Return every block device. Each is asked only what its kind can answer: there may be hundreds."""
    directory = f"{root}/sys/class/block"
    names = list_names(directory)
    numbers = read_block_numbers(root / "proc")
    for name in names - numbers.keys():
        # The kernel's table leaves out what has no size: of loop devices, those without a file.
        number = None if _LOOP.fullmatch(name) else read_device_number(f"{directory}/{name}/dev")
        if number is not None:
            numbers[name] = number
    found = {}
    for name in names & numbers.keys():
        with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
            found[numbers[name]] = _read_block(f"{directory}/{name}", name, numbers, root)
    return found


def _read_block(node: str, name: str, numbers: Mapping[str, DeviceNumber], root: Path) -> BlockNode:
    # What is named like a disk of these kinds is one: partitions have names of their own.
    if _LOOP.fullmatch(name):
        backing = _read_loop_backing(node, root)
        return BlockNode(name) if backing is None else BlockNode(name, _find_numbers([backing], numbers))
    if _LEAF.fullmatch(name):
        return BlockNode(name)
    # A partition's directory lies in its disk's; a disk's lies in one that is no block device.
    disk = os.readlink(node).rsplit("/", 2)[-2]  # noqa: PTH115 -- of hundreds at each look
    if disk in numbers:
        return BlockNode(name, frozenset({numbers[disk]}))
    beneath = _find_numbers(list_names(f"{node}/slaves"), numbers)
    return BlockNode(name, beneath, _describe_block(node, list_names(node)))


def _find_numbers(
    names: Iterable[str | None], numbers: Mapping[str, DeviceNumber]
) -> frozenset[DeviceNumber]:
    return frozenset(numbers[name] for name in names if name is not None and name in numbers)


def _read_loop_backing(node: str, root: Path) -> str | None:
    """Return the name of the block device that a loop device stands on; None where it is a file, or none."""
    backing = read_attribute(f"{node}/loop/backing_file")
    return _resolve_name(backing, root) if backing is not None and backing.startswith("/dev/") else None


def _describe_block(node: str, entries: frozenset[str]) -> str:
    if "dm" in entries and (name := read_attribute(f"{node}/dm/name")) is not None:
        uuid = read_attribute(f"{node}/dm/uuid")
        kind = _DM_KINDS.get((uuid or "").split("-")[0], "a mapped device")
        return f"{kind} {name}"
    if "md" in entries:
        return "a RAID array"
    if "bcache" in entries:
        return "a bcache device"
    return "a block device"


def _read_pools(root: Path) -> tuple[frozenset[str], ...]:
    """Return the names of the devices of each btrfs that is mounted: of those that are gone as well."""
    directory = f"{root}/sys/fs/btrfs"
    return tuple(list_names(f"{directory}/{name}/devices") for name in sorted(list_names(directory)))


def _find_sources(
    mount: Mount,
    root: Path,
    numbers: Mapping[str, DeviceNumber],
    pools: tuple[frozenset[str], ...],
) -> frozenset[DeviceNumber]:
    """Return the block devices of a mount that has a number of its own: btrfs's source, overlay's layers."""
    name = _resolve_name(mount.source, root) if mount.source.startswith("/dev/") else None
    found = set(_find_numbers([name], numbers))
    # The layers of containers are not looked for: they may lie on a volume that does not answer.
    if mount.fs_type == "overlay" and mount.path in SYSTEM_MOUNTS:
        for option in mount.super_options:
            key, _, value = option.partition("=")
            if key in {"lowerdir", "lowerdir+", "upperdir", "datadir+"}:
                layers = (_stat_number(root / layer.lstrip("/")) for layer in value.split(":") if layer)
                found.update(number for number in layers if number is not None)
    for pool in pools:
        members = _find_numbers(pool, numbers)
        # Where the source is gone, the filesystem may live on by its other devices.
        if name in pool or found & members:
            found |= members
    return frozenset(found)


def _resolve_name(path: str, root: Path) -> str:
    """Return the kernel's name for a device path: ``/dev/mapper/vg-lv`` is a link to ``dm-0``."""
    return Path(os.path.realpath(root / path.lstrip("/"))).name


def _stat_number(path: Path) -> DeviceNumber | None:
    try:
        number = path.stat().st_dev
    except OSError as error:
        # What could not be asked may be on the disk that is asked about.
        if is_shortage(error):
            raise
        return None
    return DeviceNumber(os.major(number), os.minor(number))
