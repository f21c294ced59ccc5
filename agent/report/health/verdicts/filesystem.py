"""Rules about the mounted filesystem: is it alive, writable where it is to be, free of errors, and grown."""

from __future__ import annotations

import errno
import os
import shlex

from agent.core.frozen_filesystem import hint_at_thaw, tell_frozen
from agent.core.model import Condition, Reason
from agent.core.units import show_size
from agent.report.board.readings import Reading, Verdict
from agent.report.health.verdicts.sample_window import Window

GROW_SLACK_BYTES = 16 << 20
GROW_S = 60.0
"""The agent itself grows a volume within seconds."""


def find_shut_down(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that answers nothing but errors, though statvfs calls it well."""
    mount, sample = window.mount, window.sample
    if mount is None or sample is None or mount.root_errno is None or sample.read_errno is not None:
        return None
    return Verdict(
        Condition.FAILED,
        Reason.SHUT_DOWN,
        f"The {mount.fs_type} filesystem at {mount.path} answers {os.strerror(mount.root_errno)!r}:"
        " it shut itself down.",
        "What was not flushed is lost. See the kernel log, then:"
        f" umount {shlex.quote(mount.path)}; it is checked and mounted again by itself.",
    )


def find_frozen(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that somebody else than the agent has frozen."""
    mount = window.mount or next((one.mount for one in window.backwards() if one.mount is not None), None)
    if not (window.newest.is_frozen or (window.mount is not None and window.mount.is_frozen)):
        return None
    path = None if mount is None else mount.path
    return Verdict(
        Condition.FAILED,
        Reason.FROZEN,
        tell_frozen(window.subject.label, path),
        hint_at_thaw(path),
    )


def find_read_only(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that takes no writes and is to take them."""
    mount = window.mount
    if mount is None or window.subject.is_read_only or mount.root_errno is not None:
        return None
    is_refusing = mount.write_errno in {errno.EROFS, errno.EIO}
    if not (mount.is_read_only or mount.is_emergency or is_refusing):
        return None
    why = ": it is mounted read-only"
    hint = f"ebs-agent explain {shlex.quote(window.subject.label)} tells what is in the way of changing that."
    if mount.is_emergency or is_refusing:
        why = " after an error"
        hint = (
            f"See the kernel log; save the data, then: umount {shlex.quote(mount.path)}; it is checked and"
            " mounted again."
        )
    return Verdict(
        Condition.FAILED,
        Reason.READ_ONLY,
        f"The {mount.fs_type} filesystem at {mount.path} is to be written to and takes no writes{why}.",
        hint,
    )


def find_filesystem_errors(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that has counted errors, or spans more than its device has."""
    mount, sample = window.mount, window.sample
    if mount is None or sample is None:
        return None
    if mount.spans_bytes is not None and mount.spans_bytes > sample.size_bytes:
        return Verdict(
            Condition.FAILED,
            Reason.FILESYSTEM_ERRORS,
            f"The filesystem at {mount.path} spans {show_size(mount.spans_bytes)} and its device has"
            f" {show_size(sample.size_bytes)}: the rest of its data is not there.",
            "Do not write to it. Restore the volume from a snapshot, or attach the one of full size.",
        )
    if not mount.errors:
        return None
    return Verdict(
        Condition.DEGRADED,
        Reason.FILESYSTEM_ERRORS,
        f"The {mount.fs_type} filesystem at {mount.path} has counted {mount.errors} errors.",
        f"Take a snapshot, then repair it while it is not mounted ({_name_repair(mount.fs_type)}).",
    )


def find_not_grown(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find a filesystem that is to fill its device, and for a minute has not."""
    mount = window.mount
    if not window.subject.grows or mount is None or mount.is_read_only:
        return None
    gaps = [_measure_gap(reading) for reading in window.since(GROW_S)]
    if len(gaps) < 2 or window.newest.at - window.since(GROW_S)[0].at < GROW_S:  # noqa: PLR2004
        return None
    if not all(gap is not None and gap >= GROW_SLACK_BYTES for gap in gaps):
        return None
    unused = show_size(gaps[-1] or 0)
    return Verdict(
        Condition.DEGRADED,
        Reason.NOT_GROWN,
        f"{window.subject.label} has {unused} that its filesystem at {mount.path} does not use.",
        "ebs-agent events shows why growing it failed; ebs-agent reconcile tries again now.",
    )


def _measure_gap(reading: Reading) -> int | None:
    if reading.sample is None or reading.mount is None or reading.mount.spans_bytes is None:
        return None
    return reading.sample.size_bytes - reading.mount.spans_bytes


def _name_repair(fs_type: str) -> str:
    return {"ext4": "e2fsck -f", "xfs": "xfs_repair", "btrfs": "btrfs check"}.get(fs_type, "fsck")
