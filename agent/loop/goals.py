"""What may be said to be wanted of a volume, and what a pass goes by, plans and shows for each. Pure."""

from __future__ import annotations

from typing import TypeAlias

from agent.core.errors import AgentError
from agent.core.model import Observed, Released, Wanted
from agent.core.plan import make_plan, plan_released
from agent.core.steps import Plan

Want: TypeAlias = "Wanted | Released | AgentError | None"
"""What is wanted of a volume; an error where the policy cannot say; None where it does not name it."""


def choose_goal(want: Want) -> Wanted | None:
    """Return what a pass brings the volume to, or raise the error; None: to nothing."""
    if isinstance(want, AgentError):
        raise want
    return want if isinstance(want, Wanted) else None


def plan_for(observed: Observed, want: Want) -> Plan:
    """Return what to do about the volume now."""
    if isinstance(want, Released):
        return plan_released(observed, want.why)
    return make_plan(observed, choose_goal(want))


def find_meant(want: Want) -> Wanted | None:
    """Return what names the volume, for showing, whether or not anything is done for it."""
    if isinstance(want, Released):
        return want.wanted
    return want if isinstance(want, Wanted) else None
