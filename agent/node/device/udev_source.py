"""Real volumes: NVMe disks as the kernel lists them, and udev's announcements of changes to them.

An announcement only ever means "look". The list comes from sysfs, so udev may be late, repeat itself or say
nothing, and all that is lost is time. Device nodes are not opened here.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pyudev
from anyio.abc import TaskStatus

from agent.core.model import DeviceNumber, Identity
from agent.node.device.open_device import is_block_device
from agent.node.device.source import Hint, explain_unlisted
from agent.node.kernel import nvme
from agent.node.kernel.sysfs import read_attribute

# A path to a namespace shared by controllers is nvme0c1n1; only the head nvme0n1 is a disk.
_DISK = re.compile(r"nvme\d+n\d+", re.ASCII)
_RECEIVE_BUFFER_BYTES = 16 << 20
_MAX_BURST = 256
"""Announcements taken before other tasks have their turn."""


class UdevSource:
    """The NVMe disks of this machine; ``takes_fabrics`` as :func:`agent.node.kernel.nvme.identify` has it."""

    is_present: Callable[[DeviceNumber], bool] = staticmethod(is_block_device)

    def __init__(self, sysfs: Path = Path("/sys"), *, takes_fabrics: bool = False) -> None:
        self.identify: Callable[[int], Identity] = (
            functools.partial(nvme.identify, takes_fabrics=True) if takes_fabrics else nvme.identify
        )
        self._sysfs = sysfs

    def list_paths(self) -> list[str]:
        """Return the device nodes of all NVMe disks that are not hidden, in no order that means anything.

        Raises InconclusiveError where they could not be listed, by which none is gone.
        """
        try:
            return sorted(f"/dev/{node.name}" for node in (self._sysfs / "block").iterdir() if _is_disk(node))
        except OSError as error:
            raise explain_unlisted("The disks of this machine", error) from error

    async def watch(
        self, seen: Callable[[Hint], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Report every announcement about an NVMe disk or a partition of one, until cancelled."""
        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
        monitor.filter_by(subsystem="block")
        with contextlib.suppress(PermissionError):
            # Without CAP_NET_ADMIN the default has to do; what it drops is noticed.
            monitor.set_receive_buffer_size(_RECEIVE_BUFFER_BYTES)
        monitor.start()
        task_status.started()
        with socket.socket(fileno=os.dup(monitor.fileno())) as sock:
            while True:
                await anyio.wait_readable(sock)
                # Taken off the socket first: as long as an error stands, polling fails without saying which.
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error == errno.ENOBUFS:
                    seen(Hint(path=None, action="overflow"))
                elif error:
                    raise OSError(error, f"listening to udev failed: {os.strerror(error)}")
                _take_burst(monitor, seen)
                await anyio.lowlevel.checkpoint()


def _take_burst(monitor: pyudev.Monitor, seen: Callable[[Hint], None]) -> None:
    for _ in range(_MAX_BURST):
        try:
            device = monitor.poll(timeout=0)
        except OSError:
            # The socket's error says more, and the next turn asks for it.
            return
        if device is None:
            return
        hint = make_hint(device.action, device.sys_name)
        if hint is not None:
            seen(hint)


def make_hint(action: str | None, name: str) -> Hint | None:
    """Return the hint an announcement about the block device ``name`` gives; None otherwise than of NVMe.

    A partition that comes or goes is a change of its disk, which stays.
    """
    match = re.fullmatch(rf"({_DISK.pattern})(p\d+)?", name, re.ASCII)
    if match is None:
        return None
    told = "change" if match[2] or action is None else action
    return Hint(path=f"/dev/{match[1]}", action=told)


def _is_disk(node: Path) -> bool:
    if not _DISK.fullmatch(node.name):
        return False
    # Kernels before 4.15 hide nothing. A disk on its way out is asked, and will not answer.
    return read_attribute(f"{node}/hidden") != "1"
