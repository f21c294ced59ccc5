"""The loop: look at a volume, plan, do what comes first, look again, until nothing is left to do.

One pass at a time for a volume, all volumes at once. Nothing here knows how a step is done or what a policy
file is; whoever wakes a volume only says "look at it". The loop never trusts what a step returned: success
is what the next look finds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from agent.errors import AgentError, InconclusiveError, NotAnsweringError, RefusedError
from agent.model import Observed, Reason, VolumeId, Wanted
from agent.plan import make_plan
from agent.report.board import Board, utc_now
from agent.report.counters import Counters
from agent.report.status import describe_failure, describe_status
from agent.report.transitions import record_step, record_transition
from agent.report.volume_status import StepOutcome, VolumeStatus
from agent.steps import Action

MAX_STEPS = 24
"""In one pass. A plan has at most about ten steps; more means that steps do not bring what they promise."""

RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
"""Pauses after one failed pass, two, and so on; being woken ends a pause early."""

Want: TypeAlias = "Wanted | AgentError | None"
"""What is wanted of a volume; an error where the policy cannot say; None where it does not name it."""


class Session(Protocol):
    """One pass over one volume: its device is pinned from the first look until the pass ends."""

    async def observe(self, wanted: Wanted | None) -> Observed:
        """Look at the volume again and return all that was found."""

    async def execute(self, action: Action, observed: Observed) -> None:
        """Do one step on the device that was observed, or raise; ``observed`` is what it was planned from."""


class Node(Protocol):
    """What the loop needs of this machine."""

    def open(self, volume: VolumeId) -> AbstractAsyncContextManager[Session]:
        """Begin a pass over one volume, attached or not."""


@dataclass
class _Track:
    """One volume being followed: its wake-up, and how its passes have gone."""

    wake: anyio.Event = field(default_factory=anyio.Event)
    pass_lock: anyio.Lock = field(default_factory=anyio.Lock)
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set when a pass has ended, however it did, and no other was asked for meanwhile."""
    failures: int = 0
    last_step: StepOutcome | None = None
    failed_step: StepOutcome | None = None
    """The failure recorded last; the same one again, at each retry, is not recorded."""
    observed: Observed | None = None
    """What was found last: shown on for a volume that does not answer any more."""
    attached_at: float | None = None
    """When its device was first looked at since it was last absent, by the clock; None once it was ready."""


@dataclass(frozen=True)
class _Context:
    """What every pass works with. Links to volumes lie below ``dev_ebs``."""

    node: Node
    board: Board
    counters: Counters
    dev_ebs: str
    clock: Callable[[], float]


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
        self._context = _Context(node, board, counters, dev_ebs, clock)
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
            self._tasks.start_soon(self._follow, volume, track, name=f"volume {volume}")
        elif track.settled.is_set():
            track.settled = anyio.Event()
        track.wake.set()

    def announce(self, volume: VolumeId) -> None:
        """Have ``volume`` looked at, and time how long it takes to be ready: its device has just appeared."""
        self.wake(volume)
        self._tracks[volume].attached_at = self._clock()

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
        want = self._wants.get(volume)
        track = self._tracks.get(volume) or _Track()
        try:
            wanted = _get_wanted(want)
            async with track.pass_lock, self._context.node.open(volume) as session:
                observed = await session.observe(wanted)
        except AgentError as error:
            wanted = want if isinstance(want, Wanted) else None
            status = describe_failure(volume, track.observed, wanted, error, self._context.dev_ebs)
        else:
            status = describe_status(observed, wanted, make_plan(observed, wanted), self._context.dev_ebs)
        return replace(status, last_step=track.last_step)

    async def look_at_all(self) -> tuple[VolumeStatus, ...]:
        """Look at every volume now, all at once, as ``look`` does."""
        found: dict[VolumeId, VolumeStatus] = {}

        async def look(volume: VolumeId) -> None:
            found[volume] = await self.look(volume)

        async with anyio.create_task_group() as tasks:
            for volume in self.list_volumes():
                tasks.start_soon(look, volume)
        return tuple(found[volume] for volume in sorted(found))

    @asynccontextmanager
    async def hold(self, volume: VolumeId) -> AsyncIterator[Session]:
        """Give a session over one volume for what is asked for by hand; no pass over it begins meanwhile."""
        track = self._tracks.get(volume) or _Track()
        async with track.pass_lock, self._context.node.open(volume) as session:
            yield session

    async def _follow(self, volume: VolumeId, track: _Track) -> None:
        while True:
            await track.wake.wait()
            track.wake = anyio.Event()
            async with track.pass_lock:
                pass_outcome = await _Pass(self._context, track, volume).run(self._wants.get(volume))
            if not track.wake.is_set():
                track.settled.set()
            if pass_outcome.needs_retry:
                track.failures += 1
                with anyio.move_on_after(RETRY_S[min(track.failures, len(RETRY_S)) - 1]):
                    await track.wake.wait()
                track.wake.set()
            else:
                track.failures = 0
                if volume not in self._wants and not pass_outcome.is_here and not track.wake.is_set():
                    break
        del self._tracks[volume]
        self._board.remove(volume)


@dataclass(frozen=True)
class _PassOutcome:
    needs_retry: bool
    is_here: bool


class _Pass:
    """One volume brought as far as it goes now. Errors of the volume end here, and nowhere else."""

    def __init__(self, context: _Context, track: _Track, volume: VolumeId) -> None:
        self._node = context.node
        self._board = context.board
        self._counters = context.counters
        self._clock = context.clock
        self._dev_ebs = context.dev_ebs
        self._track = track
        self._volume = volume
        self._observed: Observed | None = None

    async def run(self, want: Want) -> _PassOutcome:
        began = self._clock()
        needs_retry = False
        try:
            wanted = _get_wanted(want)
            async with self._node.open(self._volume) as session:
                await self._advance(session, wanted)
        except AgentError as error:
            needs_retry = error.retryable
            wanted = want if isinstance(want, Wanted) else None
            known = self._observed or self._track.observed
            if not self._is_excused(error):
                self._publish(describe_failure(self._volume, known, wanted, error, self._dev_ebs))
            self._counters.count_reconcile(_name_outcome(error), self._clock() - began)
        else:
            self._track.failed_step = None
            self._counters.count_reconcile("done", self._clock() - began)
        is_here = self._observed is not None and (
            self._observed.device is not None or bool(self._observed.stale_mounts)
        )
        return _PassOutcome(needs_retry, is_here)

    async def _advance(self, session: Session, wanted: Wanted | None) -> None:
        """Do what comes first, look again, and so on, until no action is left."""
        previous: tuple[Observed, tuple[Action, ...]] | None = None
        for _ in range(MAX_STEPS):
            observed = self._observed = self._track.observed = await session.observe(wanted)
            plan = make_plan(observed, wanted)
            self._publish(describe_status(observed, wanted, plan, self._dev_ebs))
            if not plan.actions:
                return
            actions = plan.next_actions
            if previous == (observed, actions):
                raise AgentError(
                    f"{self._volume}: the step to {actions[-1].describe()} changed nothing.",
                    hint="The log says what the step answered; the volume is looked at again by itself.",
                    reason=Reason.STEP_FAILED,
                )
            for action in actions:
                await self._execute(session, action, observed)
            previous = (observed, actions)
        raise AgentError(
            f"{self._volume} did not settle within {MAX_STEPS} steps.",
            hint="Something keeps changing it; ebs-agent events shows what was done.",
            reason=Reason.STEP_FAILED,
        )

    async def _execute(self, session: Session, action: Action, observed: Observed) -> None:
        began = self._clock()
        error: AgentError | None = None
        try:
            await session.execute(action, observed)
        except AgentError as failure:
            error = failure
            raise
        finally:
            outcome = "done" if error is None else "failed"
            self._counters.count_step(action.kind, outcome)
            text = "done" if error is None else error.message
            step = self._track.last_step = StepOutcome(action.kind, action.describe(), text, utc_now())
            failed = self._track.failed_step
            if error is None or failed is None or replace(failed, at=step.at) != step:
                record_step(self._board, observed, action, error, self._clock() - began)
            if error is not None:
                self._track.failed_step = step

    def _is_excused(self, error: AgentError) -> bool:
        """Whether nothing is told of an error yet: one look in vain makes nothing known untrue."""
        is_first = self._track.observed is not None and self._track.failures == 0
        return is_first and isinstance(error, InconclusiveError)

    def _publish(self, status: VolumeStatus) -> None:
        old = self._board.get(self._volume)
        self._board.publish(replace(status, last_step=self._track.last_step))
        record_transition(self._board, old, self._board.get(self._volume) or status)
        self._time_attach(status)

    def _time_attach(self, status: VolumeStatus) -> None:
        track = self._track
        if status.device is None:
            track.attached_at = None
        elif status.condition.is_usable and track.attached_at is not None:
            self._counters.count_attach(self._clock() - track.attached_at)
            track.attached_at = None


def _differs(volume: VolumeId, old: Mapping[VolumeId, Want], new: Mapping[VolumeId, Want]) -> bool:
    return (volume in old) != (volume in new) or old.get(volume) != new.get(volume)


def _get_wanted(want: Want) -> Wanted | None:
    if isinstance(want, AgentError):
        raise want
    return want


def _name_outcome(error: AgentError) -> str:
    if isinstance(error, RefusedError):
        return "refused"
    if isinstance(error, InconclusiveError):
        return "inconclusive"
    return "stalled" if isinstance(error, NotAnsweringError) else "failed"
