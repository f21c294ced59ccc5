"""Whether a device is still what was looked at: asked right before it is checked or mounted, and of a check.

A look is as old as what was done since, and a check may take hours in which others write to the device. So
what a look recognised, and what a check found, holds for as long as nobody has written to the device since,
by what the kernel counts, and no longer: else it is recognised afresh. Runs in a worker.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
from collections.abc import Callable

from msgspec import Struct

from agent.core.errors import AgentError, RefusedError
from agent.core.model import Device, Filesystem, Foreign, Identity, Reason
from agent.core.replace import replace
from agent.node.content.recognize import find_signatures, reread
from agent.node.content.superblocks import LAYOUTS
from agent.node.device.foreign_use import find_exclusion
from agent.node.device.open_device import count_writes, verify_pin
from agent.node.device.usage_facts import gather_surroundings
from agent.node.filesystem.mount import MountRequest, mount_filesystem
from agent.node.kernel.ioctl import Request, ioctl
from agent.node.kernel.mountinfo import read_mounts
from agent.node.kernel.sysfs import SECTOR_BYTES, locate, read_attribute

_CLEAN_PAGES = 2
"""What e2fsck writes to a filesystem that is clean: its superblock, and its journal's."""


class State(Struct, frozen=True):
    """One appearance of a disk, as far as it was written: equal to another where nobody wrote in between."""

    diskseq: int
    size_bytes: int
    writes: tuple[int, ...]
    """By ``count_writes``."""

    def add(self, written_bytes: int) -> State:
        """Return the state after so much was written, and nothing discarded."""
        sectors, *others = self.writes
        return replace(self, writes=(sectors + written_bytes // SECTOR_BYTES, *others))


class Recognized(Struct, frozen=True):
    """What bears on whether a content that was recognised is still alone on its device."""

    state: State
    """In which it was."""
    head: bytes
    """What was beside its superblock at the head of the device, as a digest."""


class CheckedState(Struct, frozen=True):
    """How a check left a device."""

    state: State | None
    is_recognized: bool
    """What was recognised before it is what is there in that state: nobody but the check has written."""


class Unchanged(Struct, frozen=True):
    """What a device was when it was looked at."""

    device: Device
    identify: Callable[[int], Identity]
    content: Filesystem
    checked: State | None = None
    """In which state it was checked; None where it was not, or that is not known."""
    recognized: State | None = None
    """In which state the content was recognised: in that state its superblock alone is read again. None where
    it is recognised afresh."""


def read_state(fd: int, device: Device, is_flushing: bool = True) -> State | None:  # noqa: FBT001, FBT002 -- for workers
    """Return the state of the device open at ``fd``; None where the kernel does not tell one from the next.

    That is before Linux 5.15, and where it does not count (``queue/iostats``). ``is_flushing``: what the
    kernel holds back is written first, so that it counts.
    """
    if device.diskseq is None or read_attribute(f"{locate(device.device_number)}/queue/iostats") == "0":
        return None
    return State(device.diskseq, device.size_bytes, count_writes(fd, is_flushing=is_flushing))


def verify_unchanged(fd: int, request: Unchanged) -> Recognized | None:
    """Raise unless the device is the one that was looked at, holds the same, and is nobody else's by now.

    Returns what tells whether that holds after a check; None where nothing does.
    """
    state = _verify(fd, request)
    # What is counted of a partition is its disk's, and its pages are others than the disk's.
    if state is None or request.content.partition is not None:
        return None
    return Recognized(state, _read_head(fd, request.content))


def read_checked_state(
    fd: int, device: Device, content: Filesystem, before: Recognized | None, written_bytes: int | None
) -> CheckedState:
    """Return in which state a check left the device open at ``fd``, which wrote so much, where that is known.

    The kernel counts what a program makes dirty by pages, and what a disk is given by sectors. Both being
    the same, nobody else has written, but to a page that the check was just about to write: those are few
    where there was nothing to mend, and the first, where signatures are, is compared.
    """
    state = read_state(fd, device)
    # What was there before was read just before the check; what is there now comes from the disk.
    os.posix_fadvise(fd, 0, resource.getpagesize(), os.POSIX_FADV_DONTNEED)
    is_recognized = (
        before is not None
        and written_bytes is not None
        and written_bytes <= _CLEAN_PAGES * resource.getpagesize()
        and _is_written_in_pages(fd)
        and before.state.add(written_bytes) == state
        and before.head == _read_head(fd, content)
    )
    return CheckedState(state, is_recognized)


def _is_written_in_pages(fd: int) -> bool:
    """Tell whether what is made dirty is all written: of a page of smaller blocks only some may be."""
    block_bytes = ctypes.c_int()
    ioctl(fd, Request.BLKBSZGET, block_bytes)
    return block_bytes.value == resource.getpagesize()


def _read_head(fd: int, content: Filesystem) -> bytes:
    """Return a digest of the first page of the device, the superblock in it left out."""
    head = bytearray(os.pread(fd, resource.getpagesize(), 0))
    layout = LAYOUTS[content.type]
    del head[layout.offset_bytes : layout.offset_bytes + layout.length_bytes]
    return hashlib.sha256(head).digest()


def _verify(fd: int, request: Unchanged) -> State | None:
    """Raise as ``verify_unchanged``; return the state in which it was recognised, if it is in that one."""
    device, content = request.device, request.content
    verify_pin(fd, device, request.identify)
    exclusion = find_exclusion(device, gather_surroundings(read_mounts()))
    if exclusion is not None:
        raise RefusedError(exclusion.message, hint=exclusion.hint, reason=exclusion.reason)
    state = None if request.recognized is None else read_state(fd, device)
    if state is not None and state == request.recognized:
        found = reread(fd, device, content)
    else:
        found, state = find_signatures(fd, device), None
    is_same = isinstance(found, Filesystem) and _key(found) == _key(content)
    if not is_same:
        raise RefusedError(
            f"{device.path} held {_name(content)} when it was looked at, and holds {_name(found)} now.",
            hint="Someone else is writing to it; nothing was changed by the agent.",
            reason=Reason.NOT_BLANK,
        )
    if request.checked is not None and (state or read_state(fd, device)) != request.checked:
        raise AgentError(
            f"{device.path} was written to after it was checked, so it is not mounted.",
            hint="Someone else uses it without a claim to it (fuser -v). It is checked again by itself.",
            reason=Reason.DEVICE_BUSY,
        )
    return state


def verify_and_mount(fd: int, request: Unchanged, mount: MountRequest) -> int:
    """Mount the device that was looked at, and return the mount's ID; raises as its two parts do."""
    _verify(fd, request)
    return mount_filesystem(mount)


def _key(content: Filesystem) -> tuple[object, ...]:
    return content.type, content.uuid, content.partition


def _name(content: Filesystem | Foreign | None) -> str:
    if content is None:
        return "nothing that is recognised"
    return content.what if isinstance(content, Foreign) else f"{content.type} {content.uuid}"
