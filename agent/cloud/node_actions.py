"""What the cloud half has done on the node: unmount before a detach, freeze around a snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from agent.base.log import get_logger
from agent.cloud.release_volume import (
    check_ours,
    check_unshown,
    check_whole,
    name_users,
    release_all_uses,
)
from agent.cloud.state.released_volumes import EVERYTHING, ReleasedNote
from agent.cloud.state.state_file import FileStore
from agent.cloud.view.cloud_report import FREEZE_LIMIT_S
from agent.core.errors import AgentError, CoveredError, OccupiedError, RefusedError
from agent.core.model import (
    Mount,
    Reason,
    Released,
    Seen,
    VolumeId,
    Wanted,
)
from agent.core.steps import Relinquish
from agent.loop.goals import Want
from agent.loop.passes import Session
from agent.loop.wake_causes import Cause
from agent.node.filesystem.hold_frozen import FrozenNotes
from agent.node.machine import Machine

RELEASED = "released.json"
"""Below the state directory: the volumes a person took away."""
FROZEN = "frozen"
"""Directory of notes below the runtime directory, one for each volume that is being frozen."""
HOLD_PATIENCE_S = 10.0
"""For what is under way with a volume. Most takes less; a check takes hours, which neither the calls for
other volumes nor whoever gave an order are to wait for."""

log = get_logger(__name__)


class Passes(Protocol):
    """What is needed of the reconciler."""

    def hold(self, volume: VolumeId, patience_s: float | None) -> AbstractAsyncContextManager[Session]:
        """Give a session over one volume, or raise OccupiedError; no pass over it begins meanwhile."""

    def wake(self, volume: VolumeId, cause: Cause) -> None:
        """Have the volume looked at soon."""

    def list_wanted(self) -> Iterable[VolumeId]:
        """Return the volumes that something is wanted of, released or not."""


class NodeHands:
    """The node half as the cloud half may use it; ``released`` are volumes to be left unmounted."""

    def __init__(
        self,
        node: Machine,
        reconciler: Passes,
        present: Callable[[], Mapping[VolumeId, Seen]],
        assigned: Callable[[], Mapping[str, VolumeId]],
        refresh: Callable[[], None],
    ) -> None:
        self._node = node
        self._reconciler = reconciler
        self._present = present
        self.list_assigned = assigned
        self._refresh = refresh
        self._note = ReleasedNote(FileStore(node.paths.state / RELEASED, node.aside))
        self.frozen = FrozenNotes(node.workers, node.paths.runtime / FROZEN)
        """What is frozen by the agent, and what it has left so."""
        self._by_hand = self._note.read()
        """Those of the released that a person took away: the policy's own are let go anew after a restart."""
        self.released: set[VolumeId] = set(self._by_hand)
        self._withdrawn: str | None = None
        """Why everything was let go, as a clause, where no person ordered it."""

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        """Return the volumes whose devices are here, with the block device name chosen at attach."""
        return {
            volume_id: seen.identity.attach_name if seen.identity else None
            for volume_id, seen in self._present().items()
        }

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        """Unmount the volume wherever anyone has it, and flush it; raise AgentError that names its users.

        While it is released the policy does not have it used again. ``is_forced``: whoever uses it, flushed
        as far as that goes.
        """
        # From now on nothing is wanted of it, so that no pass mounts it again behind our back.
        self.released.add(volume_id)
        self._refresh()
        mounts: tuple[Mount, ...] = ()
        try:
            async with self._reconciler.hold(volume_id, HOLD_PATIENCE_S) as session:
                observed = await session.observe(None)
                check_ours(observed)
                check_unshown(observed)
                check_whole(observed)
                mounts = observed.mounts
                await release_all_uses(session, observed)
        except AgentError as error:
            # What hides a mount need not be in the way of taking the volume from under it. What is being done
            # with a volume is: a check that it is taken from leaves it half mended.
            is_in_vain = isinstance(error, RefusedError) and not isinstance(error, CoveredError)
            if is_forced and not is_in_vain and not isinstance(error, OccupiedError):
                await self.flush(volume_id)
                return
            self.keep(volume_id)
            if error.reason is Reason.DEVICE_BUSY:
                raise await name_users(self._node.workers, volume_id, error, mounts) from error
            raise

    async def flush(self, volume_id: VolumeId) -> None:
        """Flush what can be flushed of a volume that is about to be detached under its users.

        Raises CoveredError, with the volume kept, where nothing reaches what is mounted of it, and so
        OccupiedError.
        """
        try:
            async with self._reconciler.hold(volume_id, HOLD_PATIENCE_S) as session:
                observed = await session.observe(None)
                if observed.device is not None:
                    await session.execute(Relinquish(is_forced=True), observed)
        except (CoveredError, OccupiedError):
            self.keep(volume_id)
            raise
        except AgentError as error:
            log.warning("volume.unflushed", volume_id=volume_id, error=error.message)

    def withhold(self, volume_id: VolumeId, want: Want) -> Want:
        """Return what is wanted of a volume: of one that is released nothing, and by whose hand is told."""
        if volume_id not in self.released:
            return want
        if volume_id in self._by_hand:
            return Released(want) if isinstance(want, Wanted) else want
        return Released(want, self._withdrawn) if self._withdrawn and isinstance(want, Wanted) else None

    def keep(self, volume_id: VolumeId) -> None:
        """Have the volume mounted again as the policy says."""
        self.released.discard(volume_id)
        self._by_hand.discard(volume_id)
        self._note.note_change()
        self._refresh()
        self._reconciler.wake(volume_id, Cause.ORDER)

    def keep_all(self) -> None:
        """Give everything that was released back to the policy, as reloading it does."""
        self.released.clear()
        self._by_hand.clear()
        self._withdrawn = None
        self._note.note_change()

    async def note_by_hand(self, volume_id: VolumeId) -> None:
        """Have it on disk that a person takes the volume away, before anything is let go."""
        self._by_hand.add(volume_id)
        await self._note.write(self._by_hand)

    async def note_all_by_hand(self) -> tuple[VolumeId, ...]:
        """Have it on disk that a person takes everything away; return what is here and to be let go.

        That is what the policy wants, what was released before and what the agent has mounted. Volumes that
        come later, unless by an order, are left alone as well, until the policy is read again.
        """
        here = self._let_everything_go()
        self._by_hand |= self.released
        self._refresh()
        await self._note.write(self._by_hand)
        return here

    async def withdraw_all(self, why: str) -> tuple[VolumeId, ...]:
        """Leave everything alone, and return what is here; a reload, or a start of the agent, ends it.

        ``why``: a clause that is told of each volume.
        """
        self._withdrawn = why
        here = self._let_everything_go()
        self._refresh()
        return here

    def _let_everything_go(self) -> tuple[VolumeId, ...]:
        recorded = set(self._node.list_recorded())
        meant = {*self._reconciler.list_wanted(), *self.released, *recorded} - {EVERYTHING}
        self.released |= {*meant, EVERYTHING}
        return tuple(sorted(meant & {*self._present(), *recorded}))

    async def write_released(self) -> bool:
        """Have on disk what is released by now; False where a restart would not know of it."""
        return await self._note.write(self._by_hand)

    def note_arrived(self, volumes: Iterable[VolumeId]) -> None:
        """Leave volumes alone that have just come to a node of which everything was taken away."""
        if EVERYTHING in self.released:
            self.released.update(volumes)
        if EVERYTHING in self._by_hand:
            self._by_hand.update(volumes)
            self._note.note_change()

    async def note_given_back(self) -> None:
        """Write down what is given back, until cancelled."""
        await self._note.run(self._by_hand)

    @asynccontextmanager
    async def freeze(self, volume_id: VolumeId) -> AsyncIterator[bool]:
        """Keep the volume's filesystem frozen within; False where none is mounted.

        RefusedError where that is the running system's, which would stand still itself, or Kubernetes'.
        """
        # To the end, so that no step meets the freeze.
        async with self._reconciler.hold(volume_id, HOLD_PATIENCE_S) as session:
            observed = await session.observe(None)
            if not observed.mounts:
                yield False
                return
            check_ours(
                observed,
                f"The filesystem of {volume_id} is not frozen: ",
                f"ebs-agent snapshot {volume_id} --no-freeze takes one as after a power cut; "
                "from: SNAPSHOT makes volumes of it.",
            )
            # One filesystem, however often it is mounted: freezing it at one place freezes it.
            mount = observed.mounts[0]
            with self._node.freezes.holding(volume_id):
                async with self.frozen.hold(volume_id, mount, FREEZE_LIMIT_S + 2):
                    yield True
