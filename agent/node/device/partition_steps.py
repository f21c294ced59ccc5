"""What workers do of growing a partition: its table is saved in a file, the kernel told of its new size."""

from __future__ import annotations

import ctypes
from pathlib import Path

from agent.core.errors import AgentError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason
from agent.node.kernel.ioctl import BlkpgArg, BlkpgPartition, Request, ioctl
from agent.node.state.record_files import write_synced

_BLKPG_RESIZE_PARTITION = 3


def save_table(path: Path, table: str) -> None:
    """Put the text of a partition table on disk; AgentError where that failed."""
    try:
        write_synced(path, table.encode())
    except (OSError, ValueError) as error:
        if is_shortage(error, writes=True):
            raise explain_shortage(f"The partition table could not be saved to {path}", error) from error
        raise AgentError(
            f"The partition table could not be saved to {path}, so it is left as it is: {error}.",
            hint="Free some space, or see why the state directory cannot be written.",
            reason=Reason.STEP_FAILED,
        ) from error


def resize_kernel_partition(device_fd: int, number: int, start_bytes: int, size_bytes: int) -> None:
    """Tell the kernel that a partition has another size, while it is in use (BLKPG).

    The kernel compares the start and refuses to move it (OSError EINVAL); include/uapi/linux/blkpg.h.
    """
    partition = BlkpgPartition(start_bytes, size_bytes, number)
    request = BlkpgArg(
        op=_BLKPG_RESIZE_PARTITION, datalen=ctypes.sizeof(partition), data=ctypes.pointer(partition)
    )
    try:
        ioctl(device_fd, Request.BLKPG, request)
    except OSError as error:
        raise AgentError(
            f"The kernel did not take the new size of partition {number}: {error.strerror}.",
            hint="Its table on the disk is right; a reboot makes the kernel read it.",
            reason=Reason.NOT_GROWN,
        ) from error
