"""One pass over one volume: look, plan, do what comes first, look again, until nothing is left to do.

It never trusts what a step returned: success is what the next look finds. It acts on what is wanted now: that
is asked again before every plan and every step, and a pass that it has overtaken ends and is begun anew.
Whatever error ends a pass, it is that volume's alone. Nothing here knows how a step is done or what a policy
file is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct, field

from agent.base.error_barrier import Barrier, find_cause
from agent.core.errors import (
    AgentError,
    BugError,
    FrozenError,
    InconclusiveError,
    NotAnsweringError,
    OvertakenError,
    RefusedError,
    ShortageError,
)
from agent.core.exhaustion import is_shortage
from agent.core.model import Condition, Observed, Reason, VolumeId, Wanted
from agent.core.replace import replace
from agent.core.steps import Action
from agent.core.units import utc_now
from agent.loop.goals import Want, choose_goal, find_meant, plan_for
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.status import describe_failure, describe_status, show_progress
from agent.report.board.transitions import record_step, record_transition
from agent.report.board.volume_status import StepOutcome, VolumeStatus

MAX_STEPS = 24
"""In one pass. A plan has at most about ten steps; more means that steps do not bring what they promise."""


class Session(Protocol):
    """One pass over one volume: its device is pinned from the first look until the pass ends."""

    async def observe(self, wanted: Wanted | None, *, for_show: bool = False) -> Observed:
        """Look at the volume again and return all that was found.

        ``for_show``: nothing will be done on its strength, so nothing at all is changed for it.
        """

    async def execute(
        self, action: Action, observed: Observed, confirm: Callable[[], None] = lambda: None
    ) -> None:
        """Do one step on the device that was observed, or raise; ``observed`` is what it was planned from.

        ``confirm`` raises OvertakenError where the step is not wanted any more. A step that takes its time
        before it changes what cannot be changed back asks last of all, right before it does.
        """


class Node(Protocol):
    """What the loop needs of this machine."""

    def open(self, volume: VolumeId) -> AbstractAsyncContextManager[Session]:
        """Begin a pass over one volume, attached or not."""

    async def find_changed(self, wants: Mapping[VolumeId, Wanted | None]) -> frozenset[VolumeId]:
        """Return the volumes that a pass would find otherwise than the last one did, or may."""


class PassMemory(Struct):
    """What the passes over a volume leave to those that follow."""

    failures: int = 0
    last_step: StepOutcome | None = None
    failed_step: StepOutcome | None = None
    """The failure recorded last; the same one again, at each retry, is not recorded."""
    observed: Observed | None = None
    """What was found last: shown on for a volume that does not answer any more."""
    under_way: str = ""
    """What a pass does now, as a clause; empty between passes."""
    attached_at: float | None = None
    """When its device was first looked at since it was last absent, by the clock; None once it was ready."""


class Context(Struct, frozen=True):
    """What every pass works with. Links to volumes lie below ``dev_ebs``."""

    node: Node
    board: Board
    counters: Counters
    dev_ebs: str
    clock: Callable[[], float]
    barrier: Barrier = field(default_factory=Barrier)


class PassOutcome(Struct, frozen=True):
    """What follows from a pass for the next one."""

    needs_retry: bool
    is_here: bool
    is_overtaken: bool = False
    """It ended since something else is wanted by now, or known: whoever changed that has woken the volume."""
    is_at_rest: bool = False
    """There was nothing to do with its device: nor is there for another pass that finds the same."""


async def look(context: Context, memory: PassMemory, volume: VolumeId, want: Want) -> VolumeStatus:
    """Look at a volume and return how it is and what would be done, doing none of it."""
    try:
        goal = choose_goal(want)
        async with context.node.open(volume) as session:
            observed = await session.observe(goal, for_show=True)
        status = describe_status(observed, find_meant(want), plan_for(observed, want), context.dev_ebs)
    except Exception as raised:  # noqa: BLE001 -- as of a pass: it is this volume's alone
        error = _explain(context.barrier, volume, raised)
        status = describe_failure(volume, memory.observed, find_meant(want), error, context.dev_ebs)
    return replace(status, last_step=memory.last_step)


def describe_busy(board: Board, memory: PassMemory, volume: VolumeId, want: Want) -> VolumeStatus:
    """Return how a volume was last, and what a pass over it, which takes its time, does now."""
    wanted = find_meant(want)
    known = board.get(volume) or VolumeStatus(
        volume, None if wanted is None else wanted.name, Condition.PENDING, Reason.TOO_SLOW
    )
    note = "Not looked at for this: that took too long."
    if memory.under_way:
        note = f"Not looked at for this: a pass over it is under way, to {memory.under_way}."
    return replace(known, message=f"{note} {known.message}".strip(), last_step=memory.last_step)


class Pass:
    """One volume brought as far as it goes now. Errors of the volume end here, and nowhere else.

    ``get_want`` returns what is wanted of the volume now.
    """

    def __init__(
        self, context: Context, memory: PassMemory, volume: VolumeId, get_want: Callable[[], Want]
    ) -> None:
        self._node = context.node
        self._board = context.board
        self._counters = context.counters
        self._clock = context.clock
        self._dev_ebs = context.dev_ebs
        self._barrier = context.barrier
        self._memory = memory
        self._volume = volume
        self._get_want = get_want
        self._want = get_want()
        self._observed: Observed | None = None
        self._is_at_rest = self._is_in_step = False
        self._is_in_vain = False  # did what there was to do, and the volume is Failed all the same

    async def run(self) -> PassOutcome:
        began = self._clock()
        failure: AgentError | None = None
        try:
            goal = choose_goal(self._want)
            async with self._node.open(self._volume) as session:
                await self._advance(session, goal)
        except Exception as error:  # noqa: BLE001 -- the barrier: whatever it is, it is this volume's alone
            failure = _explain(self._barrier, self._volume, error)
        finally:
            self._memory.under_way = ""
        if failure is None:
            self._memory.failed_step = None
        elif not isinstance(failure, OvertakenError) and not self._is_excused(failure):
            self._publish_failure(failure)
        self._counters.count_reconcile(_name_outcome(failure), self._clock() - began)
        seen = self._observed
        is_here = seen is not None and (seen.device is not None or bool(seen.stale_mounts))
        needs_retry = self._is_in_vain if failure is None else failure.retryable
        is_overtaken = isinstance(failure, OvertakenError)
        return PassOutcome(needs_retry, is_here, is_overtaken, is_at_rest=self._is_at_rest)

    def _publish_failure(self, error: AgentError) -> None:
        known, meant = self._observed or self._memory.observed, find_meant(self._want)
        where, is_of_step = self._dev_ebs, self._is_in_step
        self._publish(describe_failure(self._volume, known, meant, error, where, is_of_step=is_of_step))

    async def _advance(self, session: Session, goal: Wanted | None) -> None:
        """Do what comes first, look again, and so on, until no action is left."""
        previous: tuple[Observed, tuple[Action, ...]] | None = None
        for _ in range(MAX_STEPS):
            self._memory.under_way, self._is_in_step = "look at it", False
            observed = self._observed = self._memory.observed = await session.observe(goal)
            self._confirm()
            plan = plan_for(observed, self._want)
            status = describe_status(observed, find_meant(self._want), plan, self._dev_ebs)
            self._publish(status)
            if not plan.actions:
                self._is_in_vain = previous is not None and status.condition is Condition.FAILED
                self._is_at_rest = observed.device is not None and not self._is_in_vain
                return
            actions = plan.next_actions
            if previous == (observed, actions):
                raise AgentError(
                    f"{self._volume}: the step to {actions[-1].describe()} changed nothing.",
                    hint="The log says what the step answered; the volume is looked at again by itself.",
                    reason=Reason.STEP_FAILED,
                )
            for action in actions:
                self._publish(show_progress(status, action))
                await self._execute(session, action, observed)
            previous = (observed, actions)
        raise AgentError(
            f"{self._volume} did not settle within {MAX_STEPS} steps.",
            hint="Something keeps changing it; ebs-agent events shows what was done.",
            reason=Reason.STEP_FAILED,
        )

    def _confirm(self) -> None:
        """Raise OvertakenError unless the same is wanted as when the pass began.

        A look may take minutes and a step hours. What was permitted then may not be by now.
        """
        if self._get_want() != self._want:
            raise OvertakenError(f"Something else is wanted of {self._volume} by now.")

    async def _execute(self, session: Session, action: Action, observed: Observed) -> None:
        self._confirm()
        began = self._clock()
        self._memory.under_way, self._is_in_step = action.describe(), True
        try:
            await session.execute(action, observed, self._confirm)
        except OvertakenError:
            self._note_step(action, "interrupted", "left, since something else is wanted by now")
            raise
        except Exception as raised:
            error = _explain(self._barrier, self._volume, raised)
            step = self._note_step(action, "failed", error.message)
            failed = self._memory.failed_step
            if failed is None or replace(failed, at=step.at) != step:
                record_step(self._board, observed, action, error, self._clock() - began)
            self._memory.failed_step = step
            raise error from raised
        except BaseException:
            # Cancelled, as at shutdown: how far it came is for the next look to find, whoever makes it.
            self._note_step(action, "interrupted", "interrupted")
            raise
        self._note_step(action, "done", "done")
        record_step(self._board, observed, action, None, self._clock() - began)

    def _note_step(self, action: Action, outcome: str, words: str) -> StepOutcome:
        self._counters.count_step(action.kind, outcome)
        step = self._memory.last_step = StepOutcome(action.kind, action.describe(), words, utc_now())
        return step

    def _is_excused(self, error: AgentError) -> bool:
        """Whether nothing is told of an error yet: one look in vain makes nothing known untrue."""
        is_first = self._memory.observed is not None and self._memory.failures == 0
        return is_first and isinstance(error, InconclusiveError)

    def _publish(self, status: VolumeStatus) -> None:
        old = self._board.get(self._volume)
        self._board.publish(replace(status, last_step=self._memory.last_step))
        record_transition(self._board, old, self._board.get(self._volume) or status)
        self._time_attach(status)

    def _time_attach(self, status: VolumeStatus) -> None:
        memory = self._memory
        if status.device is None:
            memory.attached_at = None
        elif status.condition.is_usable and memory.attached_at is not None:
            self._counters.count_attach(self._clock() - memory.attached_at)
            memory.attached_at = None


def _explain(barrier: Barrier, volume: VolumeId, error: Exception) -> AgentError:
    """Return an error of a pass as what it says of the volume."""
    cause = find_cause(error)
    if isinstance(cause, OSError) and not is_shortage(cause):
        return AgentError(
            f"{volume} could not be looked at, or a step on it not done: {cause.strerror or cause}.",
            hint="Its device, or the filesystem on it, answered with an error; see the kernel log.",
            reason=Reason.IO_ERRORS,
        )
    return barrier.explain(error, f"bring {volume} to what is wanted of it", volume_id=volume)


DONE = "done"
_OUTCOMES = (
    (OvertakenError, "overtaken"),
    (RefusedError, "refused"),
    (ShortageError, "exhausted"),
    (InconclusiveError, "inconclusive"),
    (FrozenError, "frozen"),
    (NotAnsweringError, "stalled"),
    (BugError, "bug"),
)


def _name_outcome(error: AgentError | None) -> str:
    if error is None:
        return DONE
    return next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "failed")
