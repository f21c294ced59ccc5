"""Hears from the instance metadata service that AWS takes a Spot instance back; two minutes are left then.

Source: EC2 user guide, "Spot Instance interruption notices": ``/latest/meta-data/spot/instance-action`` is
not there until then, and holds ``{"action": "terminate", "time": "2026-11-28T09:22:00Z"}`` from then on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus

import anyio
from msgspec import Struct

from agent.base.log import get_logger
from agent.cloud.identity.identity_sources import IdentitySources
from agent.core.units import parse_time, utc_now

PATH = "/latest/meta-data/spot/instance-action"
POLL_S = 5.0
"""As often as the user guide advises."""
MARGIN_S = 5.0
"""Before the instance goes: what is not let go by then is left to those who write to it."""
_ENDING = frozenset({"terminate", "stop"})
"""Hibernated, an instance comes back with its mounts and processes: nothing is let go for that."""

log = get_logger(__name__)


class Interruption(Struct, frozen=True):
    """What AWS is about to do with the instance, and when."""

    action: str
    at: datetime

    @property
    def is_end(self) -> bool:
        """The instance stops running, and its volumes are to be free for others."""
        return self.action in _ENDING


def parse_interruption(content: bytes) -> Interruption:
    """Return what a notice says; ValueError where it is none."""
    try:
        told = json.loads(content)
    except RecursionError:
        raise ValueError("no notice") from None
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) for name in ("action", "time")):
        raise ValueError("no action and time")
    return Interruption(told["action"], parse_time(told["time"]))


async def ask_interruption(surroundings: IdentitySources) -> Interruption | None:
    """Return the notice that the instance has, if any. Raises OSError or ValueError."""
    endpoint, timeout_s = surroundings.metadata_endpoint, surroundings.metadata_timeout_s
    if endpoint is None:
        return None
    (answer,) = await surroundings.fetch(endpoint, (PATH,), timeout_s)
    return None if answer.status == HTTPStatus.NOT_FOUND else parse_interruption(answer.take())


def log_interruption(notice: Interruption) -> None:
    """Tell of a notice nowhere but in the log."""
    log.warning("instance.interrupted", action=notice.action, time=notice.at.isoformat())


class InterruptionWatch:
    """Asks again and again while the policy wants to know; ``leave`` is called once for each notice."""

    def __init__(
        self,
        surroundings: Callable[[], IdentitySources],
        leave: Callable[[str, float], Awaitable[None]],
        now: Callable[[], datetime] = utc_now,
        tell: Callable[[Interruption], None] = log_interruption,
    ) -> None:
        self._surroundings = surroundings
        self._leave = leave
        """Takes a clause that says why, and how many seconds are left."""
        self._now = now
        self._tell = tell
        self._is_wanted = False
        self._changed = anyio.Event()
        self._heard: set[Interruption] = set()
        self._failure: str | None = None

    def apply(self, *, is_wanted: bool) -> None:
        """Ask from now on, or not."""
        self._is_wanted = is_wanted
        self._changed.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            self._changed = anyio.Event()
            if self._is_wanted:
                await self.look()
            with anyio.move_on_after(POLL_S if self._is_wanted else math.inf):
                await self._changed.wait()

    async def look(self) -> None:
        """Ask once, and have everything let go where a notice is new."""
        try:
            notice = await ask_interruption(self._surroundings())
        except (OSError, ValueError) as error:
            if self._failure != str(error):
                log.warning("interruption.unknown", error=str(error) or type(error).__name__)
            self._failure = str(error)
            return
        self._failure = None
        if notice is None or notice in self._heard:
            return
        left_s = (notice.at - self._now()).total_seconds() - MARGIN_S
        self._tell(notice)
        if notice.is_end:
            await self._leave(f"was let go, since AWS is about to {notice.action} this instance", left_s)
        self._heard.add(notice)
