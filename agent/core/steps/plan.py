"""Steps in order, and what they say of how the volume is."""

from __future__ import annotations

from itertools import takewhile
from typing import TypeAlias

from msgspec import Struct

from agent.core.reasons import Condition
from agent.core.steps.actions import Action, Link, Unlink, Unmount
from agent.core.steps.endings import ENDINGS, Degrade, Ending

Step: TypeAlias = "Action | Ending"


class Plan(Struct, frozen=True):
    """Steps in order, and the condition the volume is in once the actions among them have succeeded."""

    steps: tuple[Step, ...] = ()
    settled: Condition = Condition.READY
    """The condition when nothing is left to do: Ready, or Unmanaged for a volume the policy does not name."""

    @property
    def actions(self) -> tuple[Action, ...]:
        return tuple(step for step in self.steps if not isinstance(step, ENDINGS))

    @property
    def next_actions(self) -> tuple[Action, ...]:
        """What to do before looking again: links, which are not on the device, and the first that is."""
        links = tuple(takewhile(lambda action: isinstance(action, (Link, Unlink)), self.actions))
        return self.actions[: len(links) + 1]

    @property
    def ending(self) -> Ending | None:
        """The step that ends the plan short of its goal, if one does."""
        return next((step for step in self.steps if isinstance(step, ENDINGS)), None)

    @property
    def standing(self) -> Ending | None:
        """The ending, where it holds now; None while what the plan does before it may put an end to it.

        Links decide nothing. What is said of a volume in use, or lost, holds whatever else is done to it, but
        for a stale mount that goes: that one may be what is in its way.
        """
        ending = self.ending
        if ending is None or ending.condition is Condition.LOST:
            return ending
        before = takewhile(lambda step: not isinstance(step, ENDINGS), self.steps)
        if isinstance(ending, Degrade):
            is_open = any(isinstance(step, Unmount) for step in before)
        else:
            is_open = not all(isinstance(step, (Link, Unlink)) for step in before)
        return None if is_open else ending

    @property
    def condition(self) -> Condition:
        """How the volume is now: what the ending that holds says, Preparing while actions are left."""
        if self.standing is not None:
            return self.standing.condition
        return Condition.PREPARING if self.actions else self.settled
