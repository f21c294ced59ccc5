"""Making and checking filesystems, with the tools of each type.

The tools get the pinned descriptor as ``/proc/self/fd/N``, never a path that may lead to another device by
now. mkfs runs only after its caller proved the device blank and wrote down that it will format it; nothing
here decides whether it may.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from agent.core.errors import AgentError, InvalidValueError
from agent.core.exhaustion import explain_shortage
from agent.core.model import Checked, FsType, Reason
from agent.node.isolate.installed_programs import find_program
from agent.node.isolate.programs import Completed, Run, descriptor_path, run

MKFS_TIMEOUT_S = 600.0
CHECK_TIMEOUT_S = 6 * 3600.0
"""A full e2fsck of a large damaged filesystem takes hours, and ending it half way helps nobody."""
SUPERBLOCK_TIMEOUT_S = 120.0

LABEL_LIMIT_BYTES = {FsType.EXT4: 16, FsType.XFS: 12, FsType.BTRFS: 255}

_WITHOUT_DEVICES = (
    *("unshare", "--mount", "--propagation", "private", "--"),
    *("sh", "-c", 'mount -t tmpfs -o size=0 none /dev && exec "$0" "$@"'),
)
"""Runs a program where ``/dev`` is empty. mkfs.btrfs, asked for a UUID, first reads every block device of the
machine to see whether it is taken (older than btrfs-progs 6.8 even for a filesystem of one device): a stalled
volume would stall it, and it would refuse to take up an interrupted format."""

_E2FSCK_UNCORRECTED = 4
_XFS_LOG_STATE = re.compile(r"state: <(CLEAN|DIRTY)>")

_BTRFS_FLAGS = re.compile(r"^flags\s+0x([0-9a-f]+)", re.MULTILINE)
_BTRFS_BAD_FLAGS = {
    1 << 2: "it records errors",
    1 << 33: "it is an image of metadata only",
    1 << 34: "it is an image of metadata only",
    1 << 35: "a change of its UUID was interrupted",
    1 << 36: "a change of its UUID was interrupted",
}
"""BTRFS_SUPER_FLAG_ERROR, METADUMP, METADUMP_V2, CHANGING_FSID, CHANGING_FSID_V2 (fs/btrfs/fs.h)."""


# -- Making --------------------------------------------------------------------------------------------------


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
    argv = build_mkfs_argv(fs_type, device, uuid=uuid, label=label, options=options)
    if fs_type is FsType.BTRFS:
        find_program("mkfs.btrfs")  # the program started is the one that empties /dev for it
    if is_resuming:
        confirm()
        await run(build_wipe_argv(fs_type, device), timeout_s=SUPERBLOCK_TIMEOUT_S, pass_fds=[device_fd])
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


# -- Checking ------------------------------------------------------------------------------------------------


async def check_filesystem(device_fd: int, fs_type: FsType, *, run: Run = run) -> Checked:
    """Check an unmounted filesystem and mend what is always safe to mend.

    ext4: ``e2fsck -p`` replays the journal, and checks in full what is marked as needing it. xfs: its log
    must be whole, since mounting replays it; a full check (xfs_repair) is for a person to decide on. btrfs:
    its superblock must be whole and without error flags; a full check reads all and mends nothing.
    A check that could not be made raises, and says nothing about the filesystem.
    """
    check = {FsType.EXT4: _check_ext4, FsType.XFS: _check_xfs, FsType.BTRFS: _check_btrfs}[fs_type]
    return await check(device_fd, run)


async def _check_ext4(device_fd: int, run: Run) -> Checked:
    completed = await run(
        ["e2fsck", "-p", descriptor_path(device_fd)],
        timeout_s=CHECK_TIMEOUT_S,
        pass_fds=[device_fd],
        check=range(256),
    )
    return parse_e2fsck(completed)


def parse_e2fsck(completed: Completed) -> Checked:
    """Return what ``e2fsck -p`` found, from its exit status (e2fsck(8): a sum of bits)."""
    summary = completed.summarize()
    if completed.returncode in {0, 1}:
        return Checked(is_clean=True, detail=summary)
    is_done = completed.returncode > 0
    words = completed.stdout + completed.stderr
    is_known = "unsupported feature" not in words and not _is_unread(words)
    if is_done and is_known and (completed.returncode & _E2FSCK_UNCORRECTED or _is_bad_superblock(summary)):
        return Checked(is_clean=False, detail=summary)
    # 2 asks for a reboot, which is for root filesystems; 8 and more mean that nothing was checked.
    raise _cannot_check(completed, summary)


def _cannot_check(completed: Completed, summary: str) -> AgentError:
    """Return why e2fsck did not check, by its words: its exit status is the same for all of it."""
    words = f"{completed.stdout}\n{completed.stderr}"
    if "Memory allocation failed" in words or "Cannot allocate memory" in words:
        return explain_shortage("e2fsck could not check the filesystem", MemoryError())
    reason, hint = Reason.STEP_FAILED, "The kernel log (dmesg) tells more."
    if "is mounted" in words or "in use" in words or "busy" in words:
        reason, hint = (
            Reason.DEVICE_BUSY,
            "The device is mounted or held (lsblk; lsns -t mnt, findmnt -N PID).",
        )
    elif _is_unread(words):
        reason, hint = Reason.IO_ERRORS, "The device answers with errors; see the kernel log for them."
    elif "unsupported feature" in words or "newer version of e2fsck" in words:
        reason = Reason.UNSUPPORTED
        hint = "Install a newer e2fsprogs, as new as the one that made the filesystem; nothing was changed."
    elif "Permission denied" in words or "Operation not permitted" in words:
        hint = "The agent may not open the device: is it confined more than its own unit does?"
    said = " ".join(words.split())[:300] or summary
    return AgentError(
        f"e2fsck could not check the filesystem ({completed.returncode}): {said}", hint=hint, reason=reason
    )


def _is_unread(words: str) -> bool:
    # It goes on after what it could not read, and then tells of what it could not find as of damage.
    return "Input/output error" in words or "Remote I/O error" in words


def _is_bad_superblock(summary: str) -> bool:
    # Given as an operational error (8), although the filesystem is what is wrong.
    return "superblock" in summary or "super-block" in summary


async def _check_xfs(device_fd: int, run: Run) -> Checked:
    completed = await run(
        ["xfs_logprint", "-t", descriptor_path(device_fd)],
        timeout_s=SUPERBLOCK_TIMEOUT_S,
        pass_fds=[device_fd],
        check=range(256),
    )
    return parse_xfs_log(completed)


def parse_xfs_log(completed: Completed) -> Checked:
    """Return what ``xfs_logprint -t`` found: a clean log, or a dirty one that mounting can replay."""
    _refuse_unmade(completed)
    state = _XFS_LOG_STATE.search(completed.stdout)
    if completed.returncode == 0 and state is not None:
        return Checked(is_clean=True, detail=f"the log is {state[1].lower()}")
    return Checked(is_clean=False, detail=f"its log cannot be read ({completed.summarize()})")


async def _check_btrfs(device_fd: int, run: Run) -> Checked:
    completed = await run(
        ["btrfs", "inspect-internal", "dump-super", descriptor_path(device_fd)],
        timeout_s=SUPERBLOCK_TIMEOUT_S,
        pass_fds=[device_fd],
        check=range(256),
    )
    return parse_btrfs_super(completed)


def parse_btrfs_super(completed: Completed) -> Checked:
    """Return what the superblock says of itself, from ``btrfs inspect-internal dump-super``."""
    _refuse_unmade(completed)
    if completed.returncode != 0:
        return Checked(is_clean=False, detail=f"its superblock is damaged ({completed.summarize()})")
    flags = _BTRFS_FLAGS.search(completed.stdout)
    if flags is None or not re.search(r"^csum\s.*\[match\]$", completed.stdout, re.MULTILINE):
        return Checked(is_clean=False, detail="the checksum of its superblock does not match")
    for flag, why in _BTRFS_BAD_FLAGS.items():
        if int(flags[1], 16) & flag:
            return Checked(is_clean=False, detail=why)
    return Checked(is_clean=True, detail="the superblock is whole")


_NOT_ITS_FAULT = (
    ("cannot allocate memory", Reason.NODE_EXHAUSTED, "Memory is used up; it is tried again by itself."),
    ("memory allocation", Reason.NODE_EXHAUSTED, "Memory is used up; it is tried again by itself."),
    ("too many open files", Reason.NODE_EXHAUSTED, "Descriptors are used up; it is tried again by itself."),
    ("not permitted", Reason.STEP_FAILED, "The agent may not open the device: is it confined further?"),
    ("permission denied", Reason.STEP_FAILED, "The agent may not open the device: is it confined further?"),
    ("device or resource busy", Reason.DEVICE_BUSY, "Something holds the device (lsblk)."),
)
"""Words of tools that could not look, which says nothing about what they were to look at."""


def _refuse_unmade(completed: Completed) -> None:
    """Raise for a tool that did not come to look at the filesystem."""
    _refuse_killed(completed)
    if completed.returncode == 0:
        return
    words = " ".join(f"{completed.stdout[:2000]} {completed.stderr}".split())
    for said, reason, hint in _NOT_ITS_FAULT:
        if said in words.lower():
            raise AgentError(
                f"{completed.argv[0]} could not check the filesystem ({completed.returncode}): {words[:300]}",
                hint=hint,
                reason=reason,
            )


def _refuse_killed(completed: Completed) -> None:
    """Raise for a tool that a signal ended, which says nothing about the filesystem."""
    if completed.returncode < 0:
        raise AgentError(
            f"{completed.argv[0]} was ended by signal {-completed.returncode}, so nothing was checked.",
            hint="The kernel log tells whether memory ran out.",
            reason=Reason.STEP_FAILED,
        )
