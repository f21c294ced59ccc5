"""Follows what a person asked for until it is so: look, do the next thing, tell what changed, look again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import anyio
from msgspec import Struct

from agent.cloud.aws.call import Make
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.cloud.plan.decisions import Decision, Do, Release, Settled
from agent.cloud.plan.device_names import list_given_names
from agent.cloud.view.change_events import Record, log_event, record_changes
from agent.cloud.view.cloud_report import Hands
from agent.cloud.view.pending_calls import RecentCalls
from agent.core.errors import AgentError, ExitCode, NotAnsweringError, RefusedError
from agent.core.model import Reason, VolumeId
from agent.core.steps import Refuse, Wait


class Report(Protocol):
    """Tells the person who gave an order how it goes on."""

    async def __call__(self, text: str | None, percent: float | None = None, /) -> None:
        """Tell a sentence, or with ``percent`` how far all of it is; without ``text`` that number alone."""


PATIENCE_S = 600.0
"""For what AWS brings about within a minute when all is well."""
SNAPSHOT_PATIENCE_S = 24 * 3600.0
PAUSE_S = 2.0

FINAL = frozenset(
    {Reason.WRONG_ZONE, Reason.MANAGED_BY_CSI, Reason.ATTACHED_ELSEWHERE, Reason.ATTACH_UNSUPPORTED}
)
"""Reasons to wait that no patience outlasts."""


class Sighting(Struct, frozen=True):
    """What one look found, in a sentence, and whether nothing is left to wait for."""

    text: str
    is_done: bool = False
    percent: float | None = None
    """How far it is, where AWS says so."""


@dataclass
class Follower:
    """What orders are carried out with. ``report`` takes sentences for the person who gave the order."""

    make: Make
    hands: Hands
    report: Report
    note_by_hand: Callable[[VolumeId], Awaitable[None]] | None = None
    """Writes down, before a volume is let go, that a person took it away."""
    record: Record | None = None
    """Keeps the events of what was asked of AWS; without it they are in the log only."""
    pause_s: float = PAUSE_S

    def __post_init__(self) -> None:
        self._ask = self.make
        self.make = self.make_about(None)
        self._recent = RecentCalls(monotonic)
        self.taken_names: set[str] = set()
        """Block device names that EC2 said are in use."""
        self._said = ""

    def make_about(self, volume_id: VolumeId | None) -> Make:
        """Return what makes calls, for changes of snapshots that are of ``volume_id``."""
        return record_changes(self._ask, self.record or log_event, volume_id=volume_id, by="order")

    async def say(self, text: str, percent: float | None = None) -> None:
        """Report a sentence, unless it was the last one told."""
        if text != self._said:
            self._said = text
            await self.report(text, percent)

    async def follow(
        self, subject: str, look: Callable[[], Awaitable[Sighting]], patience_s: float = PATIENCE_S
    ) -> None:
        """Look until it is done, telling what is new; NotAnsweringError where that takes too long."""
        deadline = monotonic() + patience_s
        while True:
            sighting = await look()
            await self.say(sighting.text, sighting.percent)
            if sighting.is_done:
                return
            if monotonic() > deadline:
                raise NotAnsweringError(
                    f"{subject}: AWS did not get there in time.",
                    hint="What was asked may still happen; ask again to see how far it is.",
                    exit_code=ExitCode.NOT_READY,
                )
            await anyio.sleep(self.pause_s)

    async def carry_out(
        self, subject: VolumeId, decision: Decision | None, done: str, *, is_forced: bool = False
    ) -> Sighting:
        """Do what a planner decided; ``done`` is the sentence for there being nothing left to do."""
        if decision is None or isinstance(decision, Settled):
            return Sighting(done, is_done=True)
        if isinstance(decision, Release):
            return await self._release(subject, is_forced=is_forced)
        if isinstance(decision, Do):
            waiting = self._recent.find_wait(subject, decision.call)
            if waiting is not None:
                return Sighting(waiting.message)
            asking = f"Asking AWS to {decision.describe()}."
            await self.say(asking)
            try:
                await self.make(decision.call)
            except CloudError as error:
                if error.reason not in {Reason.WAITING_FOR_CLOUD, Reason.ATTACHED_ELSEWHERE}:
                    raise
                if error.code == codes.NAME_TAKEN:
                    self.taken_names |= list_given_names([decision.call])
                return Sighting(error.message)  # somebody else was first, the loop perhaps: look again
            self._recent.note(subject, decision.call)
            return Sighting(asking)
        return _wait(decision)

    async def _release(self, volume_id: VolumeId, *, is_forced: bool) -> Sighting:
        """Let a volume go. One that was let go before is looked at once more: who uses it since is named."""
        was_released = volume_id in self.hands.released and not is_forced
        if not was_released:
            await self.say(f"Unmounting and flushing {volume_id}.")
        if self.note_by_hand is not None:
            await self.note_by_hand(volume_id)
        await release(self.hands, volume_id, is_forced=is_forced)
        done = f"Nobody uses {volume_id}." if was_released else f"{volume_id} is unmounted and flushed."
        return Sighting(done)


async def release(hands: Hands, volume_id: VolumeId, *, is_forced: bool = False) -> None:
    """Unmount and flush a volume for a person; RefusedError where somebody uses it, with the way out."""
    try:
        await hands.release(volume_id, is_forced=is_forced)
    except AgentError as error:
        # Force is the way out where somebody uses it. Of a flush that failed nobody is in the way.
        if isinstance(error, RefusedError) or error.reason is not Reason.DEVICE_BUSY:
            raise
        raise RefusedError(
            error.message,
            hint="End them and try again. --force detaches it under them: what they have not written "
            "is lost.",
            reason=error.reason,
            exit_code=ExitCode.REFUSED,
        ) from error


def _wait(decision: Wait | Refuse) -> Sighting:
    """Return what is waited for, or raise where waiting would not help."""
    if isinstance(decision, Refuse) or decision.reason in FINAL:
        raise RefusedError(
            decision.message, decision.hint, decision.reason, retryable=False, exit_code=ExitCode.REFUSED
        )
    return Sighting(decision.message)
