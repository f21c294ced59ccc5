"""The engine as kubelet's calls use it: a want is put and awaited, a view is planned and made by steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Protocol

from msgspec import Struct

from agent.core.errors import AgentError, RefusedError
from agent.core.model import Condition, Observed, Reason, VolumeId, Wanted
from agent.core.steps import Action, Plan, Refuse
from agent.loop.passes import Session
from agent.loop.wake_causes import Cause
from agent.report.board.board import Board
from agent.report.board.transitions import record_step
from agent.report.board.volume_status import VolumeStatus

MAX_STEPS = 8
"""Of one order; a plan for one has three at most."""

NOT_SERVED = frozenset({Reason.READ_ONLY, Reason.SHUT_DOWN, Reason.FILESYSTEM_MISMATCH, Reason.STALE_MOUNT})
"""A volume that is Degraded for one of these is mounted, and of no use to a pod that begins now."""


class Passes(Protocol):
    """What is needed of the reconciler."""

    def hold(self, volume: VolumeId) -> AbstractAsyncContextManager[Session]:
        """Give a session over one volume; no pass over it begins meanwhile."""

    def wake(self, volume: VolumeId, cause: Cause) -> None:
        """Have the volume looked at soon."""

    async def wait_settled(self, volumes: Iterable[VolumeId], timeout_s: float) -> bool:
        """Return True when they were looked at since they were woken last, False after ``timeout_s``."""


class Engine(Struct, frozen=True):
    """What serves the policy, and kubelet too. ``refresh`` works out anew what is wanted of each volume."""

    passes: Passes
    board: Board
    refresh: Callable[[], None]
    clock: Callable[[], float] = monotonic


async def carry_out(
    engine: Engine,
    volume: VolumeId,
    wanted: Wanted,
    make_plan: Callable[[Observed], Plan],
) -> Observed:
    """Do what ``make_plan`` says of each look until nothing is left to do; return the last look.

    Raises AgentError where a step fails, or where the plan ends short of its goal.
    """
    async with engine.passes.hold(volume) as session:
        previous = None
        for _ in range(MAX_STEPS):
            observed = await session.observe(wanted)
            plan = make_plan(observed)
            actions = plan.next_actions
            if not actions:
                raise_ending(plan)
                return observed
            if previous == (observed, actions):
                break
            for action in actions:
                await _execute(engine, session, action, observed)
            previous = (observed, actions)
    raise AgentError(
        f"{volume} did not become as kubelet asked.",
        hint="Something keeps changing it, or a step changed nothing; the agent's log says more.",
        reason=Reason.STEP_FAILED,
    )


async def do_step(engine: Engine, volume: VolumeId, wanted: Wanted | None, action: Action) -> None:
    """Look at the volume and do one step that finds for itself what is left of it to be done."""
    async with engine.passes.hold(volume) as session:
        observed = await session.observe(wanted)
        await _execute(engine, session, action, observed)


async def _execute(engine: Engine, session: Session, action: Action, observed: Observed) -> None:
    """Do one step, and record that it was done."""
    began = engine.clock()
    await session.execute(action, observed)
    record_step(engine.board, observed, action, None, engine.clock() - began)


def raise_ending(plan: Plan) -> None:
    """Raise what ends a plan short of its goal, as an error."""
    ending = plan.ending
    if isinstance(ending, Refuse):
        raise RefusedError(ending.message, ending.hint, ending.reason, retryable=False)
    if ending is not None:
        raise AgentError(ending.message, ending.hint, ending.reason)


def find_fault(
    status: VolumeStatus | None,
    volume: VolumeId,
    path: str | None,
    not_served: AbstractSet[Reason] = NOT_SERVED,
) -> AgentError | None:
    """Return why a volume that was just looked at is not to be used at ``path`` (None: as a device)."""
    if status is None:
        return AgentError(f"{volume} is not known here.", reason=Reason.NOT_ATTACHED)
    is_there = status.path is not None and path in {None, status.path}
    if status.condition.is_usable and is_there and status.reason not in not_served:
        return None
    error = RefusedError if status.condition is Condition.REFUSED else AgentError
    message = status.message or f"{volume} is {status.condition}, and not at {path or 'its device node'}."
    return error(message, status.hint, status.reason or Reason.STEP_FAILED)
