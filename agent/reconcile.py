"""The loop: which volumes are followed, and when a pass is made over each.

One pass at a time for a volume, all volumes at once. Whoever wakes a volume only says "look at it". What a
pass does is told in ``agent.passes``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

import anyio
from anyio.abc import TaskGroup, TaskStatus

from agent.faults import RETRY_S, supervise
from agent.model import VolumeId
from agent.passes import Context, Memory, Node, Pass, Session, Want, look
from agent.report.board import Board
from agent.report.counters import Counters
from agent.report.volume_status import VolumeStatus


@dataclass
class _Track:
    """One volume being followed."""

    wake: anyio.Event = field(default_factory=anyio.Event)
    pass_lock: anyio.Lock = field(default_factory=anyio.Lock)
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set when a pass has ended, however it did, and no other was asked for meanwhile."""
    memory: Memory = field(default_factory=Memory)


class Reconciler:
    """Follows every volume it is told of, until the volume is gone and nobody wants it."""

    def __init__(
        self,
        node: Node,
        board: Board,
        counters: Counters,
        dev_ebs: str = "/dev/ebs",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._context = Context(node, board, counters, dev_ebs, clock)
        self._board = board
        self._clock = clock
        self._wants: dict[VolumeId, Want] = {}
        self._tracks: dict[VolumeId, _Track] = {}
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow volumes until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def set_wants(self, wants: Mapping[VolumeId, Want]) -> None:
        """Say which volumes there are and what is wanted of each; changed ones are looked at.

        A volume not named any more is looked at a last time, and forgotten once nothing is left of it.
        """
        old = self._wants
        changed = {volume for volume in {*wants, *old} if _differs(volume, old, wants)}
        self._wants = dict(wants)
        for volume in changed:
            self.wake(volume)

    def wake(self, volume: VolumeId) -> None:
        """Have ``volume`` looked at soon; asking twice before it happens is asking once."""
        track = self._tracks.get(volume)
        if track is None:
            if self._tasks is None:
                raise RuntimeError("the reconciler does not run")
            track = self._tracks[volume] = _Track()
            follow = partial(self._follow, volume, track)
            self._tasks.start_soon(supervise, f"follow {volume}", follow, name=f"volume {volume}")
        elif track.settled.is_set():
            track.settled = anyio.Event()
        track.wake.set()

    def announce(self, volume: VolumeId) -> None:
        """Have ``volume`` looked at, and time how long it takes to be ready: its device has just appeared."""
        self.wake(volume)
        self._tracks[volume].memory.attached_at = self._clock()

    def wake_all(self) -> None:
        """Have every volume looked at soon."""
        for volume in self.list_volumes():
            self.wake(volume)

    def list_volumes(self) -> tuple[VolumeId, ...]:
        """Return the volumes followed now, and those to be."""
        return tuple(sorted({*self._wants, *self._tracks}))

    async def wait_settled(self, volumes: Iterable[VolumeId], timeout_s: float) -> None:
        """Return when all ``volumes`` were looked at since they were woken last, or after ``timeout_s``.

        A device that does not answer must hold up nobody.
        """
        with anyio.move_on_after(timeout_s):
            for volume in volumes:
                if volume in self._tracks:
                    await self._tracks[volume].settled.wait()

    async def look(self, volume: VolumeId) -> VolumeStatus:
        """Look at one volume now and return how it is and what would be done, doing none of it."""
        track = self._tracks.get(volume) or _Track()
        async with track.pass_lock:
            return await look(self._context, track.memory, volume, self._wants.get(volume))

    async def look_at_all(self) -> tuple[VolumeStatus, ...]:
        """Look at every volume now, all at once, as ``look`` does."""
        found: dict[VolumeId, VolumeStatus] = {}

        async def put(volume: VolumeId) -> None:
            found[volume] = await self.look(volume)

        async with anyio.create_task_group() as tasks:
            for volume in self.list_volumes():
                tasks.start_soon(put, volume)
        return tuple(found[volume] for volume in sorted(found))

    @asynccontextmanager
    async def hold(self, volume: VolumeId) -> AsyncIterator[Session]:
        """Give a session over one volume for what is asked for by hand; no pass over it begins meanwhile."""
        track = self._tracks.get(volume) or _Track()
        async with track.pass_lock, self._context.node.open(volume) as session:
            yield session

    async def _follow(self, volume: VolumeId, track: _Track) -> None:
        track.wake.set()
        while True:
            await track.wake.wait()
            track.wake = anyio.Event()
            async with track.pass_lock:
                a_pass = Pass(self._context, track.memory, volume, lambda: self._wants.get(volume))
                pass_outcome = await a_pass.run()
            if pass_outcome.is_overtaken:
                track.wake.set()
                continue
            if not track.wake.is_set():
                track.settled.set()
            if pass_outcome.needs_retry:
                track.memory.failures += 1
                # After one failed pass, two, and so on; being woken ends a pause early.
                with anyio.move_on_after(RETRY_S[min(track.memory.failures, len(RETRY_S)) - 1]):
                    await track.wake.wait()
                track.wake.set()
            else:
                track.memory.failures = 0
                if volume not in self._wants and not pass_outcome.is_here and not track.wake.is_set():
                    break
        del self._tracks[volume]
        self._board.remove(volume)


def _differs(volume: VolumeId, old: Mapping[VolumeId, Want], new: Mapping[VolumeId, Want]) -> bool:
    return (volume in old) != (volume in new) or old.get(volume) != new.get(volume)
