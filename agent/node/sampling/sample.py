"""One sample of how a volume is: a single call to a worker, which may get stuck in it. Changes nothing.

What each part of the machine says is gathered side by side, so that one that fails hides no other. How it is
judged is not decided here (``agent.report.health.verdicts``).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agent.core.errors import AgentError, InconclusiveError, VanishedError
from agent.core.exhaustion import is_shortage
from agent.core.model import DeviceNumber, Identity, Mount, VolumeId
from agent.node.device.open_device import open_device, reopen
from agent.node.kernel import nvme
from agent.node.kernel.disk_counters import read_block_counters
from agent.node.kernel.mountinfo import follow_mounts, read_mounts_towards
from agent.node.kernel.sysfs import SYSFS, find_name, read_integer
from agent.node.sampling.mount_sample import sample_mount
from agent.node.sampling.values import Sample, SampleRequest

_PROBE_BYTES = 4096


def take_samples(
    requests: Sequence[SampleRequest], identify: Callable[[int], Identity]
) -> dict[VolumeId, Sample]:
    """Return how volumes are now, without those whose samples were not to be had.

    What is mounted is read once for all, as long as nobody mounts anything.
    """
    samples = {}
    with follow_mounts() as read:
        for request in requests:
            with contextlib.suppress(AgentError, OSError):
                samples[request.volume] = take_sample(request, identify, read)
    return samples


def take_sample(
    request: SampleRequest,
    identify: Callable[[int], Identity],
    read: Callable[[], Iterable[Mount]] | None = None,
) -> Sample:
    """Return how a volume is now. ``read``: what returns all mounts.

    Raises VanishedError where its device is gone or another volume by now, InconclusiveError where the kernel
    cannot reach it now, AgentError where it does not say which volume it is.
    """
    began = time.monotonic()
    fd, device = open_device(request.path, identify)
    try:
        if device.identity.volume_id != request.volume:
            raise VanishedError(f"{request.path} is {device.identity.volume_id}, not {request.volume}.")
        log_page, log_page_error = _read_log_page(fd)
        mount, size_bytes = None, device.size_bytes
        if request.mount_path is not None:
            mounts = read_mounts_towards(request.mount_path) if read is None else read()
            mount, size_bytes = sample_mount(fd, device, request.mount_path, mounts)
        # The read last, as it may hang, and the counters after it, so that the next ones tell others' work.
        read_errno, probe_s = _probe(fd) if request.may_read else (None, None)
        return Sample(
            device_number=device.device_number,
            size_bytes=size_bytes,
            counters=read_block_counters(device.device_number),
            log_page=log_page,
            log_page_error=log_page_error,
            mount=mount,
            read_errno=read_errno,
            probe_s=probe_s,
            io_timeout_s=read_io_timeout_s(device.device_number),
            duration_s=time.monotonic() - began,
        )
    finally:
        fd.close()


def read_io_timeout_s(number: DeviceNumber, sysfs: Path = SYSFS) -> int | None:
    """Return ``nvme_core.io_timeout``; None for a device that is no NVMe one, or where it cannot be read."""
    if not (find_name(number, sysfs) or "").startswith("nvme"):
        return None
    return read_integer(f"{sysfs}/module/nvme_core/parameters/io_timeout")


def _read_log_page(fd: int) -> tuple[bytes | None, str | None]:
    try:
        return nvme.read_log_page(fd), None
    except InconclusiveError:
        raise
    except AgentError as error:
        return None, error.message


def _probe(fd: int) -> tuple[int | None, float]:
    """Read the first block from the device itself; return the errno of a failure, and how long it took.

    A filesystem's write that failed, anywhere on the device, is told to whoever reads past the cache next,
    and once (filemap_check_errors in mm/filemap.c): what fails twice is the read.
    """
    began = time.monotonic()
    failure = _read_first_block(fd)
    if failure == errno.EIO:
        failure = _read_first_block(fd)
    return failure, time.monotonic() - began


def _read_first_block(fd: int) -> int | None:
    """Return the errno of a failure. Raises OSError where it was for want of something of the node's."""
    try:
        direct = reopen(fd, os.O_RDONLY | os.O_DIRECT)
        with contextlib.closing(direct), mmap.mmap(-1, _PROBE_BYTES) as block:
            os.preadv(direct, [block], 0)
    except OSError as error:
        if is_shortage(error):
            raise
        return error.errno
    return None
