"""Making filesystems, with the tools of each type.

The tools get the pinned descriptor as ``/proc/self/fd/N``, never a path that may lead to another device by
now. mkfs runs only after its caller proved the device blank and wrote down that it will format it; nothing
here decides whether it may.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence

from agent.core.errors import InvalidValueError
from agent.core.model import LABEL_LIMIT_BYTES, FsType
from agent.node.isolate.installed_programs import find_program
from agent.node.isolate.programs import Run, descriptor_path, run

MKFS_TIMEOUT_S = 600.0
WIPE_TIMEOUT_S = 120.0
VERSION_TIMEOUT_S = 30.0


_WITHOUT_DEVICES = (
    *("unshare", "--mount", "--propagation", "private", "--"),
    *("sh", "-c", 'mount -t tmpfs -o size=0 none /dev && exec "$0" "$@"'),
)
"""Runs a program where ``/dev`` is empty. mkfs.btrfs, asked for a UUID, first reads every block device of the
machine to see whether it is taken (older than btrfs-progs 6.8 even for a filesystem of one device): a stalled
volume would stall it, and it would refuse to take up an interrupted format."""


def build_mkfs_argv(
    fs_type: FsType,
    device: str,
    *,
    uuid: str,
    label: str | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """Return the command that makes a filesystem on ``device``, fast, with this UUID and label.

    ``options`` come before the agent's own, so that those win. Force is never asked for: without it, mkfs.xfs
    and mkfs.btrfs refuse what they recognise, and all three refuse a device that is mounted or held.
    """
    check_label(fs_type, label)
    labels = [] if label is None else ["-L", label]
    if fs_type is FsType.EXT4:
        extended, others = _split_extended(options)
        return ["mkfs.ext4", "-q", "-E", extended, *others, *labels, "-U", uuid, device]
    if fs_type is FsType.XFS:
        return ["mkfs.xfs", "-q", "-K", *options, *labels, "-m", f"uuid={uuid}", device]
    return [*_WITHOUT_DEVICES, "mkfs.btrfs", "-q", "-K", *options, *labels, "-U", uuid, device]


_FAST = ("nodiscard", "lazy_itable_init=1", "lazy_journal_init=1")
"""A new volume has nothing to discard; tables and journal are zeroed by the kernel once it is mounted."""


def _split_extended(options: Sequence[str]) -> tuple[str, list[str]]:
    """Return the value of mkfs.ext4's ``-E``, and the other options: of two only the last counts."""
    given: list[str] = []
    others: list[str] = []
    words = iter(options)
    for word in words:
        if word.startswith("-E"):
            given += (word[2:] or next(words, "")).split(",")
        else:
            others.append(word)
    topics = {_name_extended(one) for one in given}
    fast = [one for one in _FAST if _name_extended(one) not in topics]
    return ",".join((*fast, *filter(None, given))), others


def _name_extended(option: str) -> str:
    name = option.partition("=")[0]
    return "discard" if name == "nodiscard" else name


_SINCE: dict[str, tuple[int, int]] = {
    "reflink": (4, 9),
    "rmapbt": (4, 9),
    "bigtime": (5, 10),
    "inobtcount": (5, 10),
    "nrext64": (5, 19),
}
"""Which xfsprogs know a feature first (``doc/CHANGES`` of xfsprogs)."""
_VERSION = re.compile(r"mkfs\.xfs version (\d+)\.(\d+)", re.ASCII)


def leave_out_unknown(options: Sequence[str], version: tuple[int, int]) -> list[str]:
    """Return options of mkfs.xfs without features switched off that this version of xfsprogs does not have.

    It refuses the whole command for their names, and makes a filesystem without them all the same.
    """
    kept: list[str] = []
    for option, value in _pair_up(options):
        parts = value.split(",") if option in {"-m", "-i"} else [value]
        known = [part for part in parts if version >= _find_since(part)]
        if known == parts:
            kept += [option, value] if value else [option]
        elif known:
            kept += [option, ",".join(known)]
    return kept


def _pair_up(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option with its value, which stands in the same word or in the next, or is empty."""
    words = iter(options)
    for word in words:
        option, value = word[:2], word[2:]
        yield option, value if value or option in {"-K", "-q"} else next(words, "")


def _find_since(part: str) -> tuple[int, int]:
    name, _, value = part.partition("=")
    return _SINCE.get(name, (0, 0)) if value == "0" else (0, 0)


async def _fit_options(options: Sequence[str], run: Run, device_fd: int) -> Sequence[str]:
    """Return the options of mkfs.xfs as the one that is installed takes them."""
    parts = (part for _, value in _pair_up(options) for part in value.split(","))
    if not any(_find_since(part) > (0, 0) for part in parts):
        return options
    asked = await run(["mkfs.xfs", "-V"], timeout_s=VERSION_TIMEOUT_S, pass_fds=[device_fd])
    found = _VERSION.search(asked.stdout)
    return options if found is None else leave_out_unknown(options, (int(found[1]), int(found[2])))


def build_wipe_argv(fs_type: FsType, device: str) -> list[str]:
    """Return the command that takes the signature of one filesystem type off ``device``, and no other."""
    return ["wipefs", "--quiet", "--all", "--types", fs_type.value, device]


def check_label(fs_type: FsType, label: str | None) -> None:
    """Raise InvalidValueError for a label that does not fit the type; its length counts in bytes."""
    limit_bytes = LABEL_LIMIT_BYTES[fs_type]
    if label is None or (0 < len(label.encode()) <= limit_bytes and label.isprintable() and label[0] != "-"):
        return
    raise InvalidValueError(
        f"{label!r} cannot be the label of a filesystem of type {fs_type}.",
        hint=f"A label is printable, does not begin with a dash, and takes at most {limit_bytes} bytes.",
    )


async def make_filesystem(  # noqa: PLR0913 -- all but two are a format's own
    device_fd: int,
    fs_type: FsType,
    *,
    uuid: str,
    label: str | None = None,
    options: Sequence[str] = (),
    is_resuming: bool = False,
    confirm: Callable[[], None] = lambda: None,
    run: Run = run,
) -> None:
    """Make a filesystem on the pinned device. Whether it is there then, only another look tells.

    ``confirm`` raises where it is not to be made any more; nothing is waited for between asking and mkfs.

    ``is_resuming`` says that an interrupted run of the same command left its signature, which is taken off
    first. mkfs.btrfs forced over a filesystem of the same UUID makes one that cannot be mounted: it takes
    over the old device's UUID in some places only (seen with btrfs-progs 6.2).
    """
    device = descriptor_path(device_fd)
    if fs_type is FsType.XFS:
        options = await _fit_options(options, run, device_fd)
    argv = build_mkfs_argv(fs_type, device, uuid=uuid, label=label, options=options)
    if fs_type is FsType.BTRFS:
        find_program("mkfs.btrfs")  # the program started is the one that empties /dev for it
    if is_resuming:
        confirm()
        await run(build_wipe_argv(fs_type, device), timeout_s=WIPE_TIMEOUT_S, pass_fds=[device_fd])
    confirm()
    await run(argv, timeout_s=MKFS_TIMEOUT_S, pass_fds=[device_fd], name=f"mkfs.{fs_type}")


async def make_reference(
    size_bytes: int, *, uuid: str, label: str | None = None, options: Sequence[str] = (), run: Run = run
) -> int:
    """Return the descriptor of a file in memory that holds what mkfs.ext4 makes; the caller closes it.

    Only what is written takes memory: some MiB of 1 TiB. Raises AgentError where mkfs fails.
    """
    fd = os.memfd_create("ebs-agent-reference")
    try:
        os.ftruncate(fd, size_bytes)
        argv = build_mkfs_argv(FsType.EXT4, descriptor_path(fd), uuid=uuid, label=label, options=options)
        await run(argv, timeout_s=MKFS_TIMEOUT_S, pass_fds=[fd], name="mkfs.ext4 (in memory)")
    except BaseException:
        os.close(fd)
        raise
    return fd
