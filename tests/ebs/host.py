"""The Linux host's side: making its kernel connect to a volume, let it go, or lose it.

Requests to this machine's kernel, for a target that runs where its volumes are used. Nothing else in this
package knows of sysfs. What is asked is what nvme-cli would ask: starting that takes an emulated processor a
second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.ebs.errors import TargetError

log = logging.getLogger(__name__)

_FABRICS = Path("/dev/nvme-fabrics")
_CONTROLLERS = Path("/sys/class/nvme")
_SUBSYSTEMS = Path("/sys/class/nvme-subsystem")
_POLL_S = 0.05
_WAIT_S = 60.0


@dataclass(frozen=True)
class HostOptions:
    """How the kernel connects.

    ``lost_after_s`` is how long the kernel tries to reach a target that went away before it removes the
    device: long, since an EBS volume that does not answer does not vanish either. ``keep_alive_s`` is
    generous for slow guests.
    """

    queues: int = 1
    reconnect_every_s: int = 1
    lost_after_s: int = 3600
    keep_alive_s: int = 30


class LinuxHost:
    """The kernel of this machine as the host of volumes."""

    def __init__(self, options: HostOptions = HostOptions()) -> None:
        self._options = options

    async def connect(self, nqn: str, address: str, port: int) -> Path:
        """Connect to a subsystem and return its block device, ``/dev/nvmeXn1``, once the kernel shows it."""
        if not find_controllers(nqn):
            await asyncio.to_thread(_write, _FABRICS, self._describe(nqn, address, port))
        await _wait(lambda: bool(find_devices(nqn)), f"the kernel connected to {nqn} and shows no device")
        return find_devices(nqn)[0]

    def _describe(self, nqn: str, address: str, port: int) -> str:
        """Return what `nvme connect` writes (drivers/nvme/host/fabrics.c, opt_tokens)."""
        options = self._options
        return (
            f"transport=tcp,traddr={address},trsvcid={port},nqn={nqn},nr_io_queues={options.queues},"
            f"reconnect_delay={options.reconnect_every_s},ctrl_loss_tmo={options.lost_after_s},"
            f"keep_alive_tmo={options.keep_alive_s},disable_sqflow"
        )

    async def disconnect(self, nqn: str) -> None:
        """Remove the kernel's controllers of a subsystem while it answers; there may be none."""
        for controller in find_controllers(nqn):
            await asyncio.to_thread(_write_if_there, controller / "delete_controller", "1")
        await self.wait_until_gone(nqn)

    def give_up(self, nqn: str) -> None:
        """Make the kernel remove the device when its connection breaks next, rather than reconnect."""
        for controller in find_controllers(nqn):
            _write_if_there(controller / "ctrl_loss_tmo", "0")

    async def wait_until_gone(self, nqn: str) -> None:
        await _wait(lambda: not find_controllers(nqn), f"the kernel does not let go of {nqn}")


def find_controllers(nqn: str) -> list[Path]:
    """Return the sysfs directories of the kernel's controllers of a subsystem."""
    return [path for path in sorted(_CONTROLLERS.glob("nvme*")) if _read(path / "subsysnqn") == nqn]


def find_devices(nqn: str) -> list[Path]:
    """Return the block devices of a subsystem, without the hidden paths ``nvmeXcYnZ``."""
    # A disk is its controller's child, and the subsystem's where that is multi-path.
    names = {
        path.name
        for parent in (*find_controllers(nqn), *_find_subsystems(nqn))
        for path in parent.glob("nvme*n*")
        if "c" not in path.name.removeprefix("nvme")
    }
    return [device for name in sorted(names) if (device := Path("/dev") / name).exists()]


def _find_subsystems(nqn: str) -> list[Path]:
    return [path for path in _SUBSYSTEMS.glob("nvme-subsys*") if _read(path / "subsysnqn") == nqn]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # it vanished between the listing and the look
        return None


def _write(path: Path, text: str) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())


def _write_if_there(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except FileNotFoundError:
        log.info("%s is gone already", path)


async def _wait(is_so: Callable[[], bool], complaint: str) -> None:
    """Look until it is so. sysfs announces nothing that could be waited for instead."""
    deadline = time.monotonic() + _WAIT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TargetError(complaint)
        await asyncio.sleep(_POLL_S)
