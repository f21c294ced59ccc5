"""Options of ``mkfs_options``: which may reach a mkfs program, per filesystem type.

A list of what is allowed, not of what is not: an option unknown here could name another device, skip
part of the work, force, or end with success without making anything. Sources: mke2fs(8), mkfs.xfs(8) and
mkfs.btrfs(8) of e2fsprogs 1.47, xfsprogs 6.1 and btrfs-progs 6.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from agent.core.model import FsType
from agent.core.quoting import fit
from agent.core.suggestions import find_meant


class _Option(Struct, frozen=True):
    """An allowed option. ``keys``: the sub-options its value may hold; None means any plain value."""

    has_value: bool = True
    keys: frozenset[str] | None = None


def _keys(text: str) -> _Option:
    return _Option(keys=frozenset(text.split()))


_VALUE = _Option()
_FLAG = _Option(has_value=False)

_ALLOWED: dict[FsType, dict[str, _Option]] = {
    FsType.EXT4: {
        **dict.fromkeys(("-b", "-C", "-e", "-g", "-G", "-i", "-I", "-m", "-N", "-O", "-T"), _VALUE),
        "-E": _keys(
            "discard encoding encoding_flags lazy_itable_init lazy_journal_init nodiscard num_backup_sb"
            " orphan_file_size packed_meta_blocks quotatype resize root_owner root_perms stride stripe-width"
            " stripe_width"
        ),
        "-J": _keys("fast_commit_size location size"),
        "-q": _FLAG,
    },
    FsType.XFS: {
        "-b": _keys("size"),
        "-d": _keys("agcount agsize concurrency cowextsize extszinherit noalign su sunit sw swidth"),
        "-i": _keys("align attr exchange maxpct nrext64 perblock projid32bit size sparse"),
        "-K": _FLAG,
        "-l": _keys("concurrency internal lazy-count size su sunit version"),
        "-m": _keys("bigtime crc finobt inobtcount metadir reflink rmapbt"),
        "-n": _keys("ftype parent size version"),
        "-q": _FLAG,
        "-s": _keys("size"),
    },
    FsType.BTRFS: {
        **dict.fromkeys(
            ("-d", "--data", "-m", "--metadata", "-n", "--nodesize", "-s", "--sectorsize"), _VALUE
        ),
        **dict.fromkeys(("-O", "--features", "-R", "--runtime-features", "--csum", "--checksum"), _VALUE),
        **dict.fromkeys(("-K", "--nodiscard", "-M", "--mixed", "-q", "--quiet"), _FLAG),
    },
}

_UNKNOWN = "it is not known to be safe"
_FORCE = "it overrides the program's own safety"
_LABEL = "the label has a key of its own: filesystem.label"
_UUID = "the agent chooses the UUID, to know an interrupted format by it"
_PART = "the filesystem must begin at the start of the volume and span it"
_NOTHING = "nothing would be made"
_FILES = "it copies files from the node's root"
_WHY = {
    FsType.EXT4: {"-F": _FORCE, "-L": _LABEL, "-U": _UUID, "-n": _NOTHING, "-S": _NOTHING, "-d": _FILES},
    FsType.XFS: {"-f": _FORCE, "-L": _LABEL, "-N": _NOTHING, "-p": _FILES},
    FsType.BTRFS: {
        **dict.fromkeys(("-f", "--force"), _FORCE),
        **dict.fromkeys(("-L", "--label"), _LABEL),
        **dict.fromkeys(("-U", "--uuid"), _UUID),
        **dict.fromkeys(("-r", "--rootdir"), _FILES),
        **dict.fromkeys(("-b", "--byte-count"), _PART),
    },
}
_WHY_KEY = {"uuid": _UUID, "offset": _PART, "size": _PART, "file": _PART, "name": _PART}
_WHY_KEY |= dict.fromkeys(("device", "logdev", "rtdev"), "it names another device")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9^][A-Za-z0-9_.,:=^+%-]*", re.ASCII)


def find_refused_options(fs_type: FsType, options: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the options, by index, that may not reach mkfs, each with a sentence that says why."""
    awaiting: tuple[str, _Option] | None = None
    for index, text in enumerate(options):
        if awaiting is not None:
            name, option = awaiting
            awaiting = None
            yield from ((index, message) for message in _judge_value(name, option, text))
            continue
        name, value = _split_option(text)
        known = _ALLOWED[fs_type].get(name)
        if known is None:
            yield index, _explain_refusal(fs_type, name, text)
        elif value is None and known.has_value:
            awaiting = name, known
        elif value is not None and not known.has_value:
            yield index, f"The option {name} takes no value."
        elif value is not None:
            yield from ((index, message) for message in _judge_value(name, known, value))
    if awaiting is not None:
        yield len(options) - 1, f"The option {awaiting[0]} lacks its value."


def _split_option(text: str) -> tuple[str, str | None]:
    """Split ``-b4096`` and ``--nodesize=16k`` as getopt does."""
    if text.startswith("--"):
        name, equals, value = text.partition("=")
        return name, value if equals else None
    return text[:2], text[2:] or None


def _judge_value(name: str, option: _Option, value: str) -> Iterator[str]:
    if not _PLAIN_VALUE.fullmatch(value):
        yield f"{value!r:.60} cannot be the value of {name}."
        return
    if name == "-O" and "journal_dev" in value.split(","):
        yield "The feature journal_dev makes a journal, not a filesystem."
    if name == "-O" and "none" in value.split(","):
        yield "Without any feature (none) it is no ext4, and the agent would not know it again."
    if name == "-m" and "crc=0" in value.split(","):
        yield "crc=0 makes an XFS of version 4, which kernels are built without."
    if option.keys is None:
        return
    for part in value.split(","):
        key = part.partition("=")[0]
        if key not in option.keys:
            why = _WHY_KEY.get(key, _UNKNOWN)
            meant = find_meant(key, option.keys) if why == _UNKNOWN else None
            asked = "" if meant is None else f" Did you mean {meant}?"
            yield f"The option {name} {key:.40} is not allowed: {why}.{asked}"


def _explain_refusal(fs_type: FsType, name: str, text: str) -> str:
    if not text.startswith("-") or text in {"-", "--"}:
        return f"{text!r:.60} would be taken for a device or a size; only options may be given."
    why = _WHY[fs_type].get(name, _UNKNOWN)
    return f"The option {fit(name, 40)} of mkfs.{fs_type} is not allowed: {why}."
