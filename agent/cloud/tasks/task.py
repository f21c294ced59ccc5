"""What a task of the cloud half is, and what it decides with.

A task decides the one next thing about its volume; the loop does it, in the same way for all of them, and
lets a task that failed rest without keeping the others from theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import datetime

from msgspec import Struct

from agent.cloud.aws.call import Make
from agent.cloud.aws.models import CloudVolume
from agent.cloud.limits.type_limits import TypeLimits
from agent.cloud.plan.decisions import Decision
from agent.cloud.snapshots.take_due import SnapshotKeeper
from agent.cloud.state.process_memory import CloudMemory
from agent.cloud.view.cloud_state import CloudState
from agent.core.model import VolumeId
from agent.core.steps import Refuse, Wait


class Means(Struct, frozen=True):
    """What tasks decide with."""

    make: Make
    memory: CloudMemory
    snapshots: SnapshotKeeper
    released: set[VolumeId]
    """Taken away, most of them by hand, and to be left so; ``EVERYTHING`` may be among them."""
    clock: Callable[[], float]
    now: Callable[[], datetime]
    limits: TypeLimits


class CloudTask(ABC):
    """One thing to bring about, call by call."""

    name: str
    """The policy entry's, under which people are told of it."""
    key: str
    """Its own, under which its failures and its last call are remembered."""
    needs_marks = False
    """It is not settled before AWS was asked for all volumes with the agent's marks."""

    @abstractmethod
    async def decide(self, look: CloudState) -> Decision | None:
        """Return the next thing to do; None: nothing, now."""

    async def keep_watch(self, look: CloudState) -> None:
        """See what the next decision will rest on, in a look in which the task itself rests."""
        del look

    def list_following(self, volume: CloudVolume) -> Iterator[CloudTask]:
        """Return what is to be seen to once ``volume`` is here."""
        del volume
        return iter(())

    def foresee(self, look: CloudState) -> None:
        """Note what is decided on for a later time."""
        del look

    def report(self, ending: Wait | Refuse, look: CloudState) -> None:
        """Say why this is not as wanted: here, why the volume cannot be used."""
        look.endings[self.name] = ending

    def report_asked(self, waiting: Wait, look: CloudState) -> None:
        """Say that AWS was asked for what is wanted."""
        self.report(waiting, look)
