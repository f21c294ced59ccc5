"""When what failed may be tried again: not before AWS says, ever more rarely, never in step with others.

A look that brought nothing at all is tried sooner at first: where credentials and permissions come seconds
after the node does, its volumes are not to wait for minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec import Struct

from agent.cloud.errors.explain import CloudError
from agent.cloud.view.cloud_report import make_ending
from agent.core.errors import AgentError
from agent.core.steps import Refuse, Wait

LONGEST_S = 900.0
LONGEST_OF_LOOK_S = 60.0
"""A look rests no longer, unless the error asks for more."""
_LEAST_S = 5.0


class _Rest(Struct):
    failures: int
    not_before_s: float
    ending: Wait | Refuse


class BackOffs:
    """Rests of everything that failed, each by its name."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._rests: dict[str, _Rest] = {}

    def find(self, name: str) -> Wait | Refuse | None:
        """Return why ``name`` rests now; None where it may be tried."""
        rest = self._rests.get(name)
        return rest.ending if rest is not None and self._clock() < rest.not_before_s else None

    def count_left_s(self, name: str) -> float:
        """Return how long ``name`` rests from now on; 0 where it may be tried."""
        rest = self._rests.get(name)
        return 0.0 if rest is None else max(rest.not_before_s - self._clock(), 0.0)

    def note_failure(self, name: str, error: AgentError, *, is_look: bool = False) -> bool:
        """Let ``name`` rest; returns whether it failed in this way for the first time.

        ``is_look``: it is a whole look, whose rests begin short and grow to what the error asks for.
        """
        ending = make_ending(error)
        old = self._rests.get(name)
        failures = 1 if old is None else old.failures + 1
        not_before_s = self._clock() + self._choose_rest_s(error, failures, is_look=is_look)
        self._rests[name] = _Rest(failures, not_before_s, ending)
        return old is None or old.ending.message != ending.message

    def forget(self, name: str) -> None:
        """Forget that ``name`` ever failed."""
        self._rests.pop(name, None)

    def forget_all(self) -> None:
        """Let everything be tried at once: the policy has changed."""
        self._rests.clear()

    def _choose_rest_s(self, error: AgentError, failures: int, *, is_look: bool) -> float:
        told_s = error.retry_after_s if isinstance(error, CloudError) else _LEAST_S
        grown_s = min(2.0 ** min(failures, 12), LONGEST_S)
        rest_s = min(grown_s, max(told_s, LONGEST_OF_LOOK_S)) if is_look else max(told_s, grown_s)
        return rest_s * self._rng.uniform(1.0, 1.5)


class RareQuestion:
    """When a question whose answer stays the same is asked again: each time about twice as late."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._asked: dict[str, tuple[int, float]] = {}
        """By what is asked about: how often, and not before when it is again."""

    def is_due(self, about: str) -> bool:
        """Return whether to ask now."""
        return self._clock() >= self._asked.get(about, (0, 0.0))[1]

    def note_asked(self, about: str, *, is_answered: bool) -> None:
        """Take note of an answer; ``is_answered``: it is another than before, to be asked for at once."""
        now_s = self._clock()
        self._asked = {key: kept for key, kept in self._asked.items() if now_s < kept[1] + LONGEST_S}
        if is_answered:
            self._asked.pop(about, None)
            return
        times = self._asked.get(about, (0, 0.0))[0]
        rest_s = min(_LEAST_S * 2.0 ** min(times, 12), LONGEST_S)
        self._asked[about] = (times + 1, now_s + rest_s * self._rng.uniform(1.0, 1.5))
