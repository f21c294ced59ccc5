"""Where devices come from: what every source of them looks like to the rest of the agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from anyio.abc import TaskStatus
from msgspec import Struct

from agent.core.errors import InconclusiveError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import DeviceNumber, Identity, Reason


class Hint(Struct, frozen=True):
    """Something may have happened to a device. It is a reason to look, and never taken for a fact."""

    path: str | None
    """The device node; None where announcements were lost, so that everything is to be looked at."""
    action: str


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
        """Return the device nodes of all whole disks that may be volumes.

        Raises InconclusiveError where they could not be listed: what was there is there, for all one knows.
        """


def explain_unlisted(what: str, error: OSError) -> InconclusiveError:
    """Return what to say of devices that could not be listed; ``what`` begins a sentence."""
    if is_shortage(error):
        return explain_shortage(f"{what} could not be listed", error)
    return InconclusiveError(
        f"{what} could not be listed: {error.strerror or error}.",
        hint="Those that were known are taken to be there; the rest is found once it can be listed again.",
        reason=Reason.UNREACHABLE,
    )
