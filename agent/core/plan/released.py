"""What is planned for a volume that was taken away: nothing on it, and a word about how it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.model import Reason
from agent.core.plan.rules import make_plan
from agent.core.steps import Plan, Wait

if TYPE_CHECKING:
    from agent.core.model import Observed


def plan_released(observed: Observed, why: str) -> Plan:
    """Return what is left to do about a released volume, looked at with nothing wanted of it.

    What the agent left of it goes: links, stale mounts. It is not mounted again, nor is what is still mounted
    unmounted: that is for whoever releases it to order. ``why`` it was released is a clause.
    """
    cleared = make_plan(observed, None)
    if cleared.ending is not None:  # lost, which is worse
        return cleared
    return Plan((*cleared.steps, _say_released(observed, why)))


def _say_released(observed: Observed, why: str) -> Wait:
    volume = observed.volume_id
    hint = f"`ebs-agent attach {volume}` gives it back to the policy, as does `ebs-agent reload`."
    if observed.mounts:
        state = f"is still mounted at {observed.mounts[0].path}"
        hint = f"`ebs-agent detach {volume}` unmounts it and takes it away. {hint}"
    elif observed.device is not None:
        state = "is left alone: it is not used until it is given back"
    else:
        state = "is not attached"
    return Wait(Reason.RELEASED, f"{volume} {why}, and {state}.", hint)
