"""Finds out which instances that hold this node's claims are gone, no more often than that may change."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from agent.cloud.aws.call import Make
from agent.cloud.plan.instance_gone import find_gone
from agent.cloud.view.cloud_state import CloudState, find_leavers, find_suspects
from agent.cloud.view.retry_pauses import BackOffs, RareQuestion
from agent.core.errors import AgentError
from agent.core.replace import replace

ENOUGH = 2
"""Instances to be proven gone before something is taken over: each proof is a call."""
HOLDERS = "(holders)"
"""What asking whether other instances are gone rests under, where it failed; no entry can be named so."""


class Suspicion:
    """Asks about each suspect again ever more rarely while it lives."""

    def __init__(self, make: Make, rests: BackOffs, clock: Callable[[], float], rng: random.Random) -> None:
        self._make = make
        self._rests = rests
        self._question = RareQuestion(clock, rng)

    async def find_gone(self, look: CloudState) -> None:
        """Tell the look which instances are gone; where that cannot be asked, why. Failing, none is."""
        await self._ask(look, sorted(find_suspects(look)), None)

    async def find_leaver(self, look: CloudState) -> None:
        """Tell the look of instances that are gone and have left what this node needs, if there are any."""
        known = None
        while look.node.gone != known and look.unproven is None:
            known = look.node.gone
            await self._ask(look, find_leavers(look), ENOUGH)

    async def _ask(self, look: CloudState, suspects: Sequence[str], enough: int | None) -> None:
        due = [one for one in suspects if one not in look.node.gone and self._question.is_due(one)]
        if not due:
            return
        resting = self._rests.find(HOLDERS)
        if resting is not None:
            look.unproven = AgentError(resting.message, resting.hint, resting.reason)
            return
        try:
            gone = await find_gone(self._make, look.node, due, enough)
        except AgentError as error:
            look.unproven = error
            self._rests.note_failure(HOLDERS, error)
        else:
            look.node = replace(look.node, gone=look.node.gone | gone)
            for suspect in due:
                if suspect in gone or not (gone and enough):  # of others nothing was found out
                    self._question.note_asked(suspect, is_answered=suspect in gone)
