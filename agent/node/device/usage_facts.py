"""What this node uses its block devices for: gathered from sysfs, procfs and the names below ``/dev``.

Reads no device and no filesystem on one, so that a stalled volume cannot hide what is known about the others.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.core.exhaustion import is_shortage
from agent.core.model import DeviceNumber, Mount
from agent.node.device.foreign_use import SYSTEM_MOUNTS, BlockNode, UsageFacts
from agent.node.kernel.swaps import list_swap_devices
from agent.node.kernel.sysfs import list_names, read_attribute, read_block_numbers, read_device_number

_LOOP = re.compile(r"loop\d+", re.ASCII)
_LEAF = re.compile(r"(?:nvme\d+n\d+|(?:sd|vd|xvd)[a-z]+|ram\d+|zram\d+|sr\d+|nbd\d+)", re.ASCII)
"""Drivers whose devices stand on no other block device."""

_DM_KINDS = {"LVM": "an LVM volume", "CRYPT": "an encrypted volume", "mpath": "a multipath device"}


def gather_surroundings(mounts: tuple[Mount, ...], root: Path = Path("/")) -> UsageFacts:
    """Return what the node uses block devices for; ``root`` holds ``sys``, ``proc``, ``dev``.

    Raises OSError where sysfs or procfs cannot be read: without them nothing is known to be free.
    """
    blocks = _read_blocks(root)
    numbers = {block.name: number for number, block in blocks.items()}
    pools = _read_pools(root, numbers)
    loops = {
        number: block.name
        for block in blocks.values()
        for number in block.beneath
        if _LOOP.fullmatch(block.name)
    }
    return UsageFacts(
        mounts=mounts,
        blocks=blocks,
        sources={
            mount.mount_id: found
            for mount in mounts
            if mount.device_number not in blocks and (found := _find_sources(mount, root, numbers, pools))
        },
        swaps=_find_numbers(
            (_resolve_name(path, root) for path in list_swap_devices(root / "proc")), numbers
        ),
        pools=pools,
        loops=loops,
    )


def _read_blocks(root: Path) -> dict[DeviceNumber, BlockNode]:
    """Return every block device. Each look does this, so a device is asked only what its kind can answer."""
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
    # A partition's directory lies in its disk's; a disk's lies in one that is no block device.
    disk = os.readlink(node).rsplit("/", 2)[-2]  # noqa: PTH115 -- of hundreds at each look
    if disk in numbers:
        return BlockNode(name, frozenset({numbers[disk]}))
    if _LOOP.fullmatch(name):
        return BlockNode(name, _find_numbers([_read_loop_backing(node, root)], numbers))
    if _LEAF.fullmatch(name):
        return BlockNode(name)
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


def _read_pools(root: Path, numbers: Mapping[str, DeviceNumber]) -> tuple[frozenset[DeviceNumber], ...]:
    pools = []
    directory = f"{root}/sys/fs/btrfs"
    for filesystem in sorted(list_names(directory)):
        names = list_names(f"{directory}/{filesystem}/devices")
        members = frozenset(numbers[name] for name in names & numbers.keys())
        if members:
            pools.append(members)
    return tuple(pools)


def _find_sources(
    mount: Mount,
    root: Path,
    numbers: Mapping[str, DeviceNumber],
    pools: tuple[frozenset[DeviceNumber], ...],
) -> frozenset[DeviceNumber]:
    """Return the block devices of a mount that has a number of its own: btrfs's source, overlay's layers."""
    found: set[DeviceNumber] = set()
    if mount.source.startswith("/dev/"):
        name = _resolve_name(mount.source, root)
        if name in numbers:
            found.add(numbers[name])
    # The layers of containers are not looked for: they may lie on a volume that does not answer.
    if mount.fs_type == "overlay" and mount.path in SYSTEM_MOUNTS:
        for option in mount.super_options:
            key, _, value = option.partition("=")
            if key in {"lowerdir", "lowerdir+", "upperdir", "datadir+"}:
                layers = (_stat_number(root / layer.lstrip("/")) for layer in value.split(":") if layer)
                found.update(number for number in layers if number is not None)
    for pool in pools:
        if found & pool:
            found |= pool
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
