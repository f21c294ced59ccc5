"""Checking filesystems that are not mounted, with the tools of each type, and what the tools' answers mean.

The tools get the pinned descriptor as ``/proc/self/fd/N``, never a path. A tool that could not look has found
nothing: that is told from damage, which alone says something about the filesystem.
"""

from __future__ import annotations

import re

from agent.core.errors import AgentError
from agent.core.exhaustion import explain_shortage
from agent.core.model import Checked, FsType, Reason
from agent.node.isolate.programs import Completed, Run, descriptor_path, run

CHECK_TIMEOUT_S = 6 * 3600.0
"""A full e2fsck of a large damaged filesystem takes hours, and ending it half way helps nobody."""
SUPERBLOCK_TIMEOUT_S = 120.0
LOG_TIMEOUT_S = 1800.0
"""XFS's log is read to the end: up to 2 GiB, which AWS may have to fetch from a snapshot first."""

_UNREAD_HINT = "The device answers with errors; see the kernel log for them."

_E2FSCK_UNCORRECTED = 4
_XFS_LOG_STATE = re.compile(r"state: <(CLEAN|DIRTY)>")

_BTRFS_CHECKSUM = re.compile(r"^csum\s.*\[(match|DON'T MATCH)\]$", re.MULTILINE)
_BTRFS_FLAGS = re.compile(r"^flags\s+0x([0-9a-f]+)", re.MULTILINE)
_BTRFS_BAD_FLAGS = {
    1 << 2: "it records errors",
    1 << 33: "it is an image of metadata only",
    1 << 34: "it is an image of metadata only",
    1 << 35: "a change of its UUID was interrupted",
    1 << 36: "a change of its UUID was interrupted",
}
"""BTRFS_SUPER_FLAG_ERROR, METADUMP, METADUMP_V2, CHANGING_FSID, CHANGING_FSID_V2 (fs/btrfs/fs.h)."""


async def check_filesystem(device_fd: int, fs_type: FsType, *, run: Run = run) -> Checked:
    """Check an unmounted filesystem and mend what is always safe to mend.

    ext4: ``e2fsck -p`` replays the journal, and checks in full what is marked as needing it. xfs: its log
    must be whole, since mounting replays it; a full check (xfs_repair) is for a person to decide on. btrfs:
    its superblock must be whole and without error flags; a full check reads all and mends nothing.
    A check that could not be made raises, and says nothing about the filesystem.
    """
    check = {FsType.EXT4: _check_ext4, FsType.XFS: _check_xfs, FsType.BTRFS: _check_btrfs}[fs_type]
    return await check(device_fd, run)


async def _ask(device_fd: int, run: Run, *argv: str, timeout_s: float = SUPERBLOCK_TIMEOUT_S) -> Completed:
    """Return what a tool says of the device, whatever its exit status is."""
    words = [*argv, descriptor_path(device_fd)]
    return await run(words, timeout_s=timeout_s, pass_fds=[device_fd], check=range(256))


async def _check_ext4(device_fd: int, run: Run) -> Checked:
    return parse_e2fsck(await _ask(device_fd, run, "e2fsck", "-p", timeout_s=CHECK_TIMEOUT_S))


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
        reason, hint = Reason.IO_ERRORS, _UNREAD_HINT
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
    return any(said in words for said in ("Input/output error", "Remote I/O error", "resulted in short read"))


def _is_bad_superblock(summary: str) -> bool:
    # Given as an operational error (8), although the filesystem is what is wrong.
    return "superblock" in summary or "super-block" in summary


async def _check_xfs(device_fd: int, run: Run) -> Checked:
    return parse_xfs_log(await _ask(device_fd, run, "xfs_logprint", "-t", timeout_s=LOG_TIMEOUT_S))


def parse_xfs_log(completed: Completed) -> Checked:
    """Return what ``xfs_logprint -t`` found: a clean log, or a dirty one that mounting can replay.

    It says the state first, then all that is to be replayed, which may be a gigabyte of text. It ends with 0
    only where it could read all of that.
    """
    _refuse_unmade(completed)
    if completed.returncode != 0:
        return Checked(is_clean=False, detail=f"its log cannot be read ({completed.summarize()})")
    state = _XFS_LOG_STATE.search(completed.stdout)
    if state is None:
        raise _is_not_told(completed, "whether the log is clean", "xfsprogs")
    return Checked(is_clean=True, detail=f"the log is {state[1].lower()}")


async def _check_btrfs(device_fd: int, run: Run) -> Checked:
    return parse_btrfs_super(await _ask(device_fd, run, "btrfs", "inspect-internal", "dump-super"))


def parse_btrfs_super(completed: Completed) -> Checked:
    """Return what the superblock says of itself, from ``btrfs inspect-internal dump-super``."""
    _refuse_unmade(completed)
    if completed.returncode != 0:
        return Checked(is_clean=False, detail=f"its superblock is damaged ({completed.summarize()})")
    checksum = _BTRFS_CHECKSUM.search(completed.stdout)
    flags = _BTRFS_FLAGS.search(completed.stdout)
    if checksum is None or flags is None:
        raise _is_not_told(completed, "whether the superblock is whole", "btrfs-progs")
    if checksum[1] != "match":
        return Checked(is_clean=False, detail="the checksum of its superblock does not match")
    for flag, why in _BTRFS_BAD_FLAGS.items():
        if int(flags[1], 16) & flag:
            return Checked(is_clean=False, detail=why)
    return Checked(is_clean=True, detail="the superblock is whole")


def _is_not_told(completed: Completed, what: str, package: str) -> AgentError:
    """Return the error for a tool that ended well and did not say what it was asked for."""
    return AgentError(
        f"{completed.argv[0]} did not say {what}, so nothing was checked.",
        hint=f"Is the program that of {package}? `{' '.join(completed.argv[:-1])} DEVICE` is to say it.",
        reason=Reason.STEP_FAILED,
    )


_NOT_ITS_FAULT = (
    ("cannot allocate memory", Reason.NODE_EXHAUSTED, "Memory is used up; it is tried again by itself."),
    ("memory allocation", Reason.NODE_EXHAUSTED, "Memory is used up; it is tried again by itself."),
    ("too many open files", Reason.NODE_EXHAUSTED, "Descriptors are used up; it is tried again by itself."),
    ("not permitted", Reason.STEP_FAILED, "The agent may not open the device: is it confined further?"),
    ("permission denied", Reason.STEP_FAILED, "The agent may not open the device: is it confined further?"),
    ("device or resource busy", Reason.DEVICE_BUSY, "Something holds the device (lsblk)."),
    ("input/output error", Reason.IO_ERRORS, _UNREAD_HINT),
    ("remote i/o error", Reason.IO_ERRORS, _UNREAD_HINT),
    ("read of xfs superblock failed", Reason.IO_ERRORS, _UNREAD_HINT),
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
