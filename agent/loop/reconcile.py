"""The loop: which volumes are followed, and when a pass is made over each.

One pass at a time for a volume, all volumes at once. Whoever wakes a volume only says "look at it", and why:
after a pass that failed that decides whether it is done at once (``agent.loop.wake_causes``). What a pass
does is told in ``agent.loop.passes``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import monotonic

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Struct, field

from agent.base.error_barrier import RETRY_S, supervise
from agent.core.errors import AgentError, ExitCode, OccupiedError
from agent.core.model import Reason, VolumeId, Wanted
from agent.loop.goals import Want, choose_goal
from agent.loop.passes import DONE, Context, Node, Pass, PassMemory, Session, describe_busy, look
from agent.loop.wake_causes import BEGINS_ANEW, ENDS_PAUSE, Cause
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.volume_status import VolumeStatus

LOCK_PATIENCE_S = 2.0
"""How long whoever asks for a plan waits for the pass under way; most take milliseconds."""

LOOK_TIMEOUT_S = 20.0
"""And for the look itself: a command waits 30 s for its answer."""


class _Track(Struct):
    """One volume being followed."""

    wake: anyio.Event = field(default_factory=anyio.Event)
    news: anyio.Event = field(default_factory=anyio.Event)
    """Set beside ``wake`` by what ends a pause."""
    causes: set[Cause] = field(default_factory=set)
    """Why it was woken since its last pass began."""
    is_pausing: bool = False
    is_at_rest: bool = False
    """As its last pass ended: what would be done is nothing, as long as a look finds the same."""
    pass_lock: anyio.Lock = field(default_factory=anyio.Lock)
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set when a pass has ended, however it did, and none is to follow at once."""
    memory: PassMemory = field(default_factory=PassMemory)
    is_followed: bool = False
    users: int = 0
    """Who looks at it or holds it beside the one that follows it."""


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
            self.wake(volume, Cause.WANT)

    def wake(self, volume: VolumeId, cause: Cause = Cause.HINT) -> None:
        """Have ``volume`` looked at soon; asking twice before it happens is asking once.

        After a pass that failed, soon is when the pause is over, unless ``cause`` ends that.
        """
        track = self._tracks.get(volume)
        if track is None or not track.is_followed:
            if self._tasks is None:
                raise RuntimeError("the reconciler does not run")
            track = self._tracks.setdefault(volume, _Track())
            track.is_followed = True
            track.settled = anyio.Event()
            follow = partial(self._follow, volume, track)
            self._tasks.start_soon(supervise, f"follow {volume}", follow, name=f"volume {volume}")
        elif track.settled.is_set() and (cause in ENDS_PAUSE or not track.is_pausing):
            track.settled = anyio.Event()
        track.causes.add(cause)
        track.wake.set()
        if cause in ENDS_PAUSE:
            track.news.set()

    def announce(self, volume: VolumeId) -> None:
        """Have ``volume`` looked at, and time how long it takes to be ready: its device has just appeared."""
        self.wake(volume, Cause.DEVICE)
        self._tracks[volume].memory.attached_at = self._clock()

    def wake_all(self, cause: Cause = Cause.HINT) -> None:
        """Have every volume looked at soon, as ``wake`` does."""
        for volume in self.list_volumes():
            self.wake(volume, cause)

    def find_path(self, volume: VolumeId) -> str | None:
        """Return where a volume is to be mounted; None where it is not, or nothing is wanted of it."""
        want = self._wants.get(volume)
        return want.mount.path if isinstance(want, Wanted) and want.mount is not None else None

    def hear_free(self, path: str) -> None:
        """Have those looked at that are to be mounted where a mount has just gone."""
        for volume in self._wants:
            if self.find_path(volume) == path:
                self.wake(volume, Cause.WAY)

    def list_volumes(self) -> tuple[VolumeId, ...]:
        """Return the volumes followed now, and those to be."""
        followed = (volume for volume, track in self._tracks.items() if track.is_followed)
        return tuple(sorted({*self._wants, *followed}))

    def list_wanted(self) -> tuple[VolumeId, ...]:
        """Return the volumes that something is wanted of, released or not."""
        return tuple(sorted(volume for volume, want in self._wants.items() if want is not None))

    async def wait_settled(self, volumes: Iterable[VolumeId], timeout_s: float) -> bool:
        """Return True when all were looked at since they were woken last, False after ``timeout_s``.

        A device that does not answer must hold up nobody.
        """
        with anyio.move_on_after(timeout_s):
            for volume in volumes:
                track = self._tracks.get(volume)
                if track is not None and track.is_followed:
                    await track.settled.wait()
            return True
        return False

    async def find_restless(self, volumes: Iterable[VolumeId]) -> tuple[VolumeId, ...]:
        """Return those that a pass is to look at; the others are at rest, and as that left them."""
        began, volumes = self._clock(), tuple(volumes)
        resting = [volume for volume in volumes if self._is_at_rest(volume)]
        if not resting:
            return volumes
        goals = {volume: choose_goal(self._wants.get(volume)) for volume in resting}
        changed = await self._context.node.find_changed(goals)
        still = goals.keys() - changed
        for _ in still:
            self._context.counters.count_reconcile(DONE, (self._clock() - began) / len(goals))
        return tuple(volume for volume in volumes if volume not in still)

    def _is_at_rest(self, volume: VolumeId) -> bool:
        track = self._tracks.get(volume)
        return track is not None and track.is_at_rest and track.is_followed and track.settled.is_set()

    async def look(self, volume: VolumeId) -> VolumeStatus:
        """Look at one volume now and return how it is and what would be done, doing none of it.

        Where a pass over it is under way and takes long, as a check of hours does, return what it does.
        """
        with self._lease(volume) as track:
            with anyio.move_on_after(LOOK_TIMEOUT_S):
                if await _acquire(track.pass_lock, LOCK_PATIENCE_S):
                    try:
                        return await look(self._context, track.memory, volume, self._wants.get(volume))
                    finally:
                        track.pass_lock.release()
            return describe_busy(self._board, track.memory, volume, self._wants.get(volume))

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
    async def hold(self, volume: VolumeId, patience_s: float | None = None) -> AsyncIterator[Session]:
        """Give a session over one volume for what is asked for by hand; no pass over it begins meanwhile.

        Raises OccupiedError where what is under way, a check of hours perhaps, outlasts ``patience_s``.
        """
        with self._lease(volume) as track:
            if not await _acquire(track.pass_lock, patience_s):
                raise _explain_occupied(volume, track.memory.under_way)
            try:
                async with self._context.node.open(volume) as session:
                    yield session
            finally:
                track.pass_lock.release()

    @contextmanager
    def _lease(self, volume: VolumeId) -> Iterator[_Track]:
        """Give what all share who look at the volume, followed or not; it stays as long as anybody has it."""
        track = self._tracks.setdefault(volume, _Track())
        track.users += 1
        try:
            yield track
        finally:
            track.users -= 1
            self._drop_unused(volume, track)

    def _drop_unused(self, volume: VolumeId, track: _Track) -> None:
        if not track.users and not track.is_followed and self._tracks.get(volume) is track:
            del self._tracks[volume]

    async def _follow(self, volume: VolumeId, track: _Track) -> None:
        track.wake.set()
        while True:
            await track.wake.wait()
            track.wake, track.news = anyio.Event(), anyio.Event()
            causes, track.causes = track.causes, set()
            if causes & BEGINS_ANEW:
                track.memory.failures = 0
            async with track.pass_lock:
                a_pass = Pass(self._context, track.memory, volume, lambda: self._wants.get(volume))
                pass_outcome = await a_pass.run()
            track.is_at_rest = pass_outcome.is_at_rest
            if not (track.news if pass_outcome.needs_retry else track.wake).is_set():
                track.settled.set()
            if pass_outcome.needs_retry:
                track.memory.failures += not pass_outcome.is_overtaken
                await _pause(track)
            else:
                track.memory.failures = 0
                if volume not in self._wants and not pass_outcome.is_here and not track.wake.is_set():
                    break
        track.is_followed = False
        track.settled.set()
        self._drop_unused(volume, track)
        self._board.remove(volume)


async def _pause(track: _Track) -> None:
    """Let time pass after one failed pass, two, and so on, until there is news; then it is its turn."""
    track.is_pausing = True
    with anyio.move_on_after(RETRY_S[max(0, min(track.memory.failures, len(RETRY_S)) - 1)]):
        await track.news.wait()
    track.is_pausing = False
    track.wake.set()


async def _acquire(lock: anyio.Lock, patience_s: float | None) -> bool:
    """Take a lock; False where that takes longer than ``patience_s``, which None does without."""
    with anyio.move_on_after(patience_s):
        await lock.acquire()
        return True
    return False


def _explain_occupied(volume: VolumeId, under_way: str) -> OccupiedError:
    what = f"a pass over it is under way, to {under_way}" if under_way else "something else is done with it"
    return OccupiedError(
        f"{volume} has to be waited for: {what}.",
        hint=f"`ebs-agent status {volume}` tells when that has ended.",
        reason=Reason.TOO_SLOW,
        exit_code=ExitCode.NOT_READY,
    )


def _differs(volume: VolumeId, old: Mapping[VolumeId, Want], new: Mapping[VolumeId, Want]) -> bool:
    return (volume in old) != (volume in new) or _key(old.get(volume)) != _key(new.get(volume))


def _key(want: Want) -> object:
    """Return what two wants have in common that are the same: errors are raised anew each time."""
    return (want.message, want.hint, want.reason) if isinstance(want, AgentError) else want
