"""What AWS was asked a moment ago and may not describe yet, so that the same is not asked of it again.

Descriptions lag behind, usually by seconds. This is in memory only: a new process starts without it, and what
it may then ask again is harmless by itself (client tokens, states, retention), only of no use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.cloud.aws.call import Change
from agent.core.model import Reason
from agent.core.steps import Wait

LIMIT_S = 120.0
"""After this, what is not described has not happened, or was undone."""


class RecentCalls:
    """The last change made for each name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._made: dict[str, tuple[Change[Any], float]] = {}

    def note(self, name: str, call: Change[Any]) -> None:
        """Remember that AWS has taken the call."""
        self._made[name] = (call, self._clock())

    def list_calls(self) -> tuple[Change[Any], ...]:
        """Return the calls whose effect may not be described yet."""
        now_s = self._clock()
        return tuple(call for call, made_at_s in self._made.values() if now_s - made_at_s <= LIMIT_S)

    def find_wait(self, name: str, call: Change[Any] | None) -> Wait | None:
        """Return the wait for this very call to show its effect; None where it may be made.

        Whatever else is to be done for ``name`` shows that the effect is here, or not wanted any more.
        """
        made, made_at_s = self._made.get(name, (None, 0.0))
        is_same = made is not None and call is not None and made.purpose == call.purpose
        if made is None or not is_same or self._clock() - made_at_s > LIMIT_S:
            self._made.pop(name, None)
            return None
        return Wait(
            Reason.WAITING_FOR_CLOUD, f"AWS was asked to {made.describe()}, and does not show it yet."
        )
