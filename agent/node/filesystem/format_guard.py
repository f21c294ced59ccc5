"""What is asked of a device before mkfs, and first after it. Runs in a worker, on the pinned device.

Between the proof of blankness and mkfs lie a plan and a synced note: milliseconds, under udev's lock. What
can change in them without anyone breaking that lock is asked again here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from msgspec import Struct

from agent.core.errors import RefusedError, VanishedError
from agent.core.model import Content, Device, Filesystem, Foreign, FormatRecord, FormatStage, Identity, Reason
from agent.core.replace import replace
from agent.node.content.recognize import find_signatures, probe
from agent.node.device.device_lock import LOCK_PATIENCE_S, lock_device, refuse_claimed
from agent.node.device.foreign_use import find_exclusion
from agent.node.device.open_device import count_writes, verify_pin
from agent.node.device.usage_facts import gather_surroundings
from agent.node.kernel.mountinfo import read_mounts


class VerifyRequest(Struct, frozen=True):
    """What the device was when it was looked at; ``resume_uuid`` where a format of ours was interrupted."""

    device: Device
    identify: Callable[[int], Identity]
    resume_uuid: str | None = None
    writes: tuple[int, ...] | None = None
    """By ``count_writes``, from before the proof of what is on the device began."""


class LockedProbe(Struct, frozen=True):
    """What is on a locked device, and what had been written to it before that was looked at."""

    content: Content
    writes: tuple[int, ...]


def lock_and_probe(fd: int, device: Device, patience_s: float = LOCK_PATIENCE_S) -> LockedProbe:
    """Keep udev and other tools off the device from now on, and find out what is on it, to the last proof.

    The lock is the descriptor's: it lasts when this worker is gone. Raises RefusedError where another program
    keeps it for longer than ``patience_s``.
    """
    lock_device(fd, patience_s)
    writes = count_writes(fd)
    return LockedProbe(probe(fd, device), writes)


def choose_uuid() -> str:
    """Return a new random UUID for a filesystem."""
    return str(uuid.uuid4())


def complete(record: FormatRecord) -> FormatRecord:
    """Return the note of the same format, made and seen to be there."""
    return replace(record, stage=FormatStage.DONE)


def verify_formattable(fd: int, request: VerifyRequest) -> None:
    """Raise unless it is the device that was looked at, unused, not written to, and without a signature."""
    verify_pin(fd, request.device, request.identify)
    refuse_claimed(fd)
    exclusion = find_exclusion(request.device, gather_surroundings(read_mounts()))
    if exclusion is not None:
        raise RefusedError(exclusion.message, hint=exclusion.hint, reason=exclusion.reason)
    if request.writes is not None and count_writes(fd) != request.writes:
        raise RefusedError(
            f"{request.device.path} was written to after it was proven blank.",
            hint="Someone else uses it without a claim to it; nothing was changed by the agent.",
            reason=Reason.NOT_BLANK,
        )
    found = find_signatures(fd, request.device)
    is_own = isinstance(found, Filesystem) and found.uuid == request.resume_uuid
    if found is None or is_own:
        return
    what = found.what if isinstance(found, Foreign) else f"{found.type} {found.uuid}"
    raise RefusedError(
        f"{request.device.path} was blank when it was looked at and now holds {what}.",
        hint="Someone else is writing to it; nothing was changed by the agent.",
        reason=Reason.NOT_BLANK,
    )


def verify_formatted(fd: int, device: Device, record: FormatRecord) -> None:
    """Raise unless the filesystem that ``record`` announces is on the device now."""
    found = find_signatures(fd, device)
    if isinstance(found, Filesystem) and (found.uuid, found.type) == (record.uuid, record.type):
        return
    if found is not None:
        what = found.what if isinstance(found, Foreign) else f"a filesystem of type {found.type}"
        raise VanishedError(
            f"mkfs.{record.type} made something else of {device.path} than {record.type}: {what}.",
            hint="Its mkfs_options in the policy say so. Take them back, then: wipefs -a"
            f" {device.path}, and ebs-agent forget {record.volume_id}.",
            reason=Reason.UNSUPPORTED,
        )
    raise VanishedError(
        f"mkfs.{record.type} ended well, but {device.path} does not hold the filesystem it was to make.",
        hint="See the kernel log for write errors of the device.",
        reason=Reason.STEP_FAILED,
    )
