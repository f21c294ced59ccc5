"""What a volume's context says: how its filesystem is made, its partition, where it comes from.

The context is ``volumeAttributes`` of a PersistentVolume: parameters that AWS's driver has a StorageClass
take, in any case, and keys of the agent's own. Attributes of others are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from agent.core.errors import InvalidValueError
from agent.core.model import FsType
from agent.core.quoting import quote
from agent.policy.values.mkfs_options import find_refused_options

OWN_PREFIX = "ebs-agent/"
SOURCE_KEY = "ebs-agent/source"
FORMAT_KEY = "ebs-agent/format"
LEGACY_XFS_KEY = "ebs-agent/legacy-xfs"

_SOURCE = re.compile(r"snapshot|volume|(?:snap|vol)-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)
_SIZE = re.compile(r"[1-9][0-9]{0,11}[kKmM]?", re.ASCII)
_COUNT = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
_MAX_PARTITION = 256

LEGACY_XFS = ("-m", "bigtime=0,inobtcount=0,reflink=0", "-i", "nrext64=0")
"""An XFS that kernels before 5.10 mount too."""


class VolumeContext(Struct, frozen=True):
    """A context, checked."""

    mkfs_options: tuple[str, ...] = ()
    partition: int | None = None
    is_copy: bool = False
    is_format_allowed: bool = True


def parse_context(context: Mapping[str, str], fs_type: FsType | None) -> VolumeContext:
    """Return what a volume's context says. ``fs_type`` is None for a block volume, which is never formatted.

    Raises InvalidValueError naming the attribute.
    """
    said = _lower_keys(context)
    for key in said:
        if key.startswith(OWN_PREFIX) and key not in _OWN:
            raise _refuse(key, "is not known.", f"The agent's own are {', '.join(sorted(_OWN))}.")
    source = said.get(SOURCE_KEY, "none")
    if source != "none" and not _SOURCE.fullmatch(source):
        raise _refuse(
            SOURCE_KEY, f"cannot be {quote(source)}.", "Write none, or the ID of a snapshot or a volume."
        )
    return VolumeContext(
        mkfs_options=() if fs_type is None else _build_options(said, fs_type),
        partition=_parse_partition(said.get("partition", "")),
        is_copy=source != "none",
        is_format_allowed=_choose(said, FORMAT_KEY, ("never", "if-blank")) != "never",
    )


_OWN = frozenset({SOURCE_KEY, FORMAT_KEY, LEGACY_XFS_KEY})


def _refuse(key: str, what: str, hint: str | None = None) -> InvalidValueError:
    return InvalidValueError(f"The attribute {quote(key)} in volume_context {what}", hint=hint)


def _lower_keys(context: Mapping[str, str]) -> dict[str, str]:
    said: dict[str, str] = {}
    for key, value in context.items():
        lower = key.lower()
        known = lower in _PARAMETERS or lower == "partition" or lower.startswith(OWN_PREFIX)
        if known and said.setdefault(lower, value) != value:
            raise _refuse(lower, "is given twice, with different values.", "Keep one of them.")
    return said


def _choose(said: Mapping[str, str], key: str, choices: tuple[str, str]) -> str | None:
    value = said.get(key)
    if value is not None and value not in choices:
        raise _refuse(key, f"cannot be {quote(value)}.", f"Write {choices[0]} or {choices[1]}.")
    return value


def _parse_partition(text: str) -> int | None:
    if text in {"", "0"}:  # AWS's driver takes both for none
        return None
    if not _COUNT.fullmatch(text) or int(text) > _MAX_PARTITION:
        raise _refuse("partition", f"cannot be {quote(text)}.", f"It is a number from 1 to {_MAX_PARTITION}.")
    return int(text)


def _size(key: str, value: str) -> str:
    if not _SIZE.fullmatch(value):
        raise _refuse(key, f"cannot be {quote(value)}.", "It is a number of bytes, as in 4096.")
    return value


def _count(key: str, value: str) -> str:
    if not _COUNT.fullmatch(value):
        raise _refuse(key, f"cannot be {quote(value)}.", "It is a whole number.")
    return value


_Build = Callable[[str], tuple[str, ...]]
_PARAMETERS: dict[str, tuple[Callable[[str, str], str] | None, dict[FsType, _Build]]] = {
    "blocksize": (
        _size,
        {FsType.EXT4: lambda size: ("-b", size), FsType.XFS: lambda size: ("-b", f"size={size}")},
    ),
    "inodesize": (
        _size,
        {FsType.EXT4: lambda size: ("-I", size), FsType.XFS: lambda size: ("-i", f"size={size}")},
    ),
    "bytesperinode": (_size, {FsType.EXT4: lambda size: ("-i", size)}),
    "numberofinodes": (_count, {FsType.EXT4: lambda count: ("-N", count)}),
    "ext4bigalloc": (None, {FsType.EXT4: lambda _: ("-O", "bigalloc")}),
    "ext4clustersize": (_size, {FsType.EXT4: lambda size: ("-C", size)}),
    "ext4encryptionsupport": (None, {FsType.EXT4: lambda _: ("-O", "encrypt")}),
    LEGACY_XFS_KEY: (None, {FsType.XFS: lambda _: LEGACY_XFS}),
}
"""How each value is read (None: true or false), and what it becomes for the types that have such a thing."""


def _build_options(said: Mapping[str, str], fs_type: FsType) -> tuple[str, ...]:
    options: list[str] = []
    for key, (read, builders) in _PARAMETERS.items():
        value = said.get(key)
        if not value:
            continue
        if read is None:
            if _choose(said, key, ("true", "false")) == "false":
                continue
        else:
            value = read(key, value)
        build = builders.get(fs_type)
        if build is None:
            kinds = " and ".join(str(kind) for kind in builders)
            raise _refuse(key, f"is for {kinds}, and the volume is to have {fs_type}.", "Remove it.")
        options += build(value)
    if "-C" in options and "bigalloc" not in options:
        raise _refuse("ext4clustersize", "needs ext4bigalloc.", 'Add ext4bigalloc: "true".')
    for _index, why in find_refused_options(fs_type, options):
        raise InvalidValueError(f"volume_context asks for what mkfs must not get. {why}")
    return tuple(options)
