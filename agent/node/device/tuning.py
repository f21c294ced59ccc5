"""Tuning of the block layer: read-ahead and scheduler of a whole disk, by sysfs.

A write to sysfs may wait for the device: for workers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from agent.core.errors import AgentError
from agent.core.model import DeviceNumber, Reason, Tuning
from agent.node.kernel.sysfs import SYSFS, locate, read_attribute, read_integer


def read_tuning(device_number: DeviceNumber, sysfs: Path = SYSFS) -> Tuning:
    """Return the read-ahead and the scheduler of a whole disk; None for what its driver does not have."""
    queue = f"{locate(device_number, sysfs)}/queue"
    read_ahead_kib = read_integer(f"{queue}/read_ahead_kb")
    scheduler = parse_scheduler(read_attribute(f"{queue}/scheduler") or "")
    return Tuning(None if read_ahead_kib is None else read_ahead_kib * 1024, scheduler)


def parse_scheduler(text: str) -> str | None:
    """Return the chosen one of ``[none] mq-deadline``."""
    chosen = re.search(r"\[([^\]]+)\]", text)
    return chosen[1] if chosen else None


def set_tuning(
    device_number: DeviceNumber,
    read_ahead_bytes: int | None,
    scheduler: str | None,
    sysfs: Path = SYSFS,
) -> None:
    """Set the read-ahead and the scheduler of a whole disk; None leaves one as it is."""
    queue = Path(locate(device_number, sysfs), "queue")
    if read_ahead_bytes is not None:
        _write_setting(queue / "read_ahead_kb", str(read_ahead_bytes // 1024))
    if scheduler is not None:
        _write_setting(queue / "scheduler", scheduler)


def _write_setting(path: Path, value: str) -> None:
    try:
        # Not created: where sysfs does not have it, the device is gone or its driver cannot.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        hint = None
        if path.name == "scheduler" and error.errno == errno.EINVAL:
            with contextlib.suppress(OSError):
                known = path.read_text(encoding="ascii").replace("[", "").replace("]", "").split()
                hint = f"The kernel knows these here: {', '.join(known)}."
        raise AgentError(
            f"{path} did not take {value!r}: {error.strerror}.", hint=hint, reason=Reason.STEP_FAILED
        ) from error
