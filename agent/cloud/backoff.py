"""When what failed may be tried again: not before AWS says, ever more rarely, never in step with others."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from agent.cloud.errors import CloudError
from agent.cloud.findings import make_verdict
from agent.errors import AgentError
from agent.steps import Refuse, Wait

LONGEST_S = 900.0
_LEAST_S = 5.0


@dataclass
class _Rest:
    failures: int
    not_before_s: float
    verdict: Wait | Refuse


class BackOffs:
    """Rests of everything that failed, each by its name."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._rests: dict[str, _Rest] = {}

    def find(self, name: str) -> Wait | Refuse | None:
        """Return why ``name`` rests now; None where it may be tried."""
        rest = self._rests.get(name)
        return rest.verdict if rest is not None and self._clock() < rest.not_before_s else None

    def note_failure(self, name: str, error: AgentError) -> bool:
        """Let ``name`` rest; returns whether it failed in this way for the first time."""
        verdict = make_verdict(error)
        old = self._rests.get(name)
        failures = 1 if old is None else old.failures + 1
        not_before_s = self._clock() + self._choose_rest_s(error, failures)
        self._rests[name] = _Rest(failures, not_before_s, verdict)
        return old is None or old.verdict.message != verdict.message

    def note_success(self, name: str) -> None:
        """Forget that ``name`` ever failed."""
        self._rests.pop(name, None)

    def forget_all(self) -> None:
        """Let everything be tried at once: the policy has changed."""
        self._rests.clear()

    def _choose_rest_s(self, error: AgentError, failures: int) -> float:
        told_s = error.retry_after_s if isinstance(error, CloudError) else _LEAST_S
        grown_s = min(2.0 ** min(failures, 12), LONGEST_S)
        return max(told_s, grown_s) * self._rng.uniform(1.0, 1.5)
