"""What this node uses its block devices for: gathered from sysfs, procfs and the names below ``/dev``.

Reads no device and no filesystem on one, so that a stalled volume cannot hide what is known about the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.model import DeviceNumber, Mount
from agent.node.exclusion import SYSTEM_MOUNTS, BlockNode, Surroundings

_ESCAPE = re.compile(r"\\([0-3][0-7]{2})")
_DM_KINDS = {"LVM": "an LVM volume", "CRYPT": "an encrypted volume", "mpath": "a multipath device"}


def gather_surroundings(mounts: tuple[Mount, ...], root: Path = Path("/")) -> Surroundings:
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
        if re.fullmatch(r"loop\d+", block.name)
    }
    return Surroundings(
        mounts=mounts,
        blocks=blocks,
        sources={
            mount.mount_id: found
            for mount in mounts
            if mount.device_number not in blocks and (found := _find_sources(mount, root, numbers, pools))
        },
        swaps=_read_swaps(root, numbers),
        pools=pools,
        loops=loops,
    )


def _read_blocks(root: Path) -> dict[DeviceNumber, BlockNode]:
    found: dict[DeviceNumber, BlockNode] = {}
    # Every look reads this of every block device, so each is asked as few questions as will do.
    directory = f"{root}/sys/class/block"
    for name in _list_names(directory):
        node = f"{directory}/{name}"
        number = _read_number(f"{node}/dev")
        if number is not None:
            entries = _list_names(node)
            found[number] = BlockNode(
                name, frozenset(_read_beneath(node, entries, root)), _describe_block(node, entries)
            )
    return found


def _read_beneath(node: str, entries: frozenset[str], root: Path) -> Iterator[DeviceNumber]:
    below: list[str] = []
    if "partition" in entries:
        below = [f"{os.path.realpath(node)}/../dev"]
    elif "loop" in entries:
        backing = _read_text(f"{node}/loop/backing_file")
        if backing is not None and backing.startswith("/dev/"):
            below = [f"{root}/sys/class/block/{_resolve_name(backing, root)}/dev"]
    elif "slaves" in entries:
        below = [f"{node}/slaves/{slave}/dev" for slave in sorted(_list_names(f"{node}/slaves"))]
    for path in below:
        number = _read_number(path)
        if number is not None:
            yield number


def _describe_block(node: str, entries: frozenset[str]) -> str:
    if "dm" in entries and (name := _read_text(f"{node}/dm/name")) is not None:
        uuid = _read_text(f"{node}/dm/uuid")
        kind = _DM_KINDS.get((uuid or "").split("-")[0], "a mapped device")
        return f"{kind} {name}"
    if "md" in entries:
        return "a RAID array"
    if "bcache" in entries:
        return "a bcache device"
    return "a block device"


def _read_pools(root: Path, numbers: Mapping[str, DeviceNumber]) -> tuple[frozenset[DeviceNumber], ...]:
    pools = []
    for filesystem in _list_dir(root / "sys" / "fs" / "btrfs"):
        names = {entry.name for entry in _list_dir(filesystem / "devices")}
        members = frozenset(numbers[name] for name in names & numbers.keys())
        if members:
            pools.append(members)
    return tuple(pools)


def _read_swaps(root: Path, numbers: Mapping[str, DeviceNumber]) -> frozenset[DeviceNumber]:
    found = set()
    for line in (root / "proc" / "swaps").read_text("utf-8", "surrogateescape").splitlines()[1:]:
        path, kind = line.split()[:2]
        if kind == "partition":
            name = _resolve_name(_unescape(path), root)
            if name in numbers:
                found.add(numbers[name])
        else:
            number = _stat_number(root / _unescape(path).removesuffix(" (deleted)").lstrip("/"))
            if number is not None:
                found.add(number)
    return frozenset(found)


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


def _unescape(text: str) -> str:
    r"""Return a path of ``/proc/swaps`` with its octal escapes (``\040``) resolved."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _resolve_name(path: str, root: Path) -> str:
    """Return the kernel's name for a device path: ``/dev/mapper/vg-lv`` is a link to ``dm-0``."""
    return Path(os.path.realpath(root / path.lstrip("/"))).name


def _stat_number(path: Path) -> DeviceNumber | None:
    try:
        number = path.stat().st_dev
    except OSError:
        return None
    return DeviceNumber(os.major(number), os.minor(number))


def _read_number(path: str) -> DeviceNumber | None:
    text = _read_text(path)
    if text is None or ":" not in text:
        return None
    major, minor = text.split(":")
    return DeviceNumber(int(major), int(minor))


def _read_text(path: str) -> str | None:
    """Return a file of sysfs, which is a page at most; None where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 4096).decode("utf-8", "surrogateescape").strip()
    except OSError:
        return None
    finally:
        os.close(fd)


def _list_names(path: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(path))  # noqa: PTH208 -- a Path for each name costs most of a look
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _list_dir(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
