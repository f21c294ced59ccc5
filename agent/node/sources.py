"""Where devices come from: what every source of them looks like to the rest of the agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from anyio.abc import TaskStatus

from agent.model import DeviceNumber, Identity


@dataclass(frozen=True)
class Hint:
    """Something may have happened to a device. It is a reason to look, and never taken for a fact."""

    path: str | None
    """The device node; None where announcements were lost, so that everything is to be looked at."""
    action: str
    is_resize: bool = False


class DeviceSource(Protocol):
    """Real NVMe devices, or files standing in for them."""

    @property
    def identify(self) -> Callable[[int], Identity]:
        """The function that asks an open descriptor which volume it is; runs in a worker."""

    @property
    def is_present(self) -> Callable[[DeviceNumber], bool]:
        """The function that tells whether a device number is still of an attached disk; runs in a worker."""

    async def watch(self, seen: Callable[[Hint], None], *, task_status: TaskStatus[None]) -> None:
        """Report hints until cancelled. Started once nothing can be missed that happens from then on."""

    def list_paths(self) -> list[str]:
        """Return the device nodes of all whole disks that may be volumes."""
