"""Finds out which instances that hold this node's claims are gone, no more often than that may change."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from agent.cloud.backoff import BackOffs, RareQuestion
from agent.cloud.call import Make
from agent.cloud.holders import find_gone
from agent.cloud.look import Look, find_suspects
from agent.errors import AgentError

HOLDERS = "(holders)"
"""What asking whether other instances are gone rests under, where it failed; no entry can be named so."""


class Suspicion:
    """Asks about suspects again ever more rarely while all of them live."""

    def __init__(self, make: Make, rests: BackOffs, clock: Callable[[], float], rng: random.Random) -> None:
        self._make = make
        self._rests = rests
        self._question = RareQuestion(clock, rng)

    async def find_gone(self, look: Look) -> None:
        """Tell the look which instances are gone; where that cannot be asked, why. Failing, none is."""
        suspects = find_suspects(look)
        if not suspects or not self._question.is_due(suspects):
            return
        resting = self._rests.find(HOLDERS)
        if resting is not None:
            look.unproven = AgentError(resting.message, resting.hint, resting.reason)
            return
        try:
            gone = await find_gone(self._make, look.node, suspects)
        except AgentError as error:
            look.unproven = error
            self._rests.note_failure(HOLDERS, error)
        else:
            look.node = replace(look.node, gone=gone)
            self._question.note_asked(suspects, is_answered=bool(gone))
