"""Tends the snapshots that are taken: locks them, has the newest fast to restore, deletes what may go.

What AWS refuses is told, and keeps nothing else from being done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from agent.base.log import get_logger
from agent.cloud.aws.call import Change, Make
from agent.cloud.aws.calls import (
    CreateTags,
    DeleteSnapshot,
    EnableFastSnapshotRestores,
    LockSnapshot,
)
from agent.cloud.aws.models import CloudSnapshot
from agent.cloud.aws.snapshot_models import ZoneRefusal
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError, Failure, explain_failure
from agent.cloud.plan.snapshot_schedule import SwitchFastRestores, is_locked, mark_locked
from agent.cloud.view import pending_calls
from agent.core.model import Reason
from agent.core.steps import Wait

T = TypeVar("T")

REFUSED_PAUSE_S = 3600.0
"""Until what AWS would not have deleted is tried again: a lock or an image of somebody's may last long."""

log = get_logger(__name__)


class SnapshotUpkeep:
    """Makes the changes of one volume's snapshots, and remembers what AWS does not show yet."""

    def __init__(self, make: Make, now: Callable[[], datetime]) -> None:
        self._make = make
        self._now = now
        self._kept: dict[str, tuple[datetime, Wait]] = {}
        """By ID, snapshots AWS would not have deleted: until when they are let be, and why."""
        self._made: dict[Change[Any], datetime] = {}
        """What was done a moment ago, so that it is not done again while descriptions lag behind."""

    async def protect(
        self, locks: Sequence[LockSnapshot], switches: Sequence[tuple[SwitchFastRestores, CreateTags]]
    ) -> Wait | None:
        """Lock what is to be locked, and have the newest fast to restore; returns what AWS refused first.

        A snapshot that exists without its lock is better than none, so what is refused is told, and no more.
        """
        notices = [await self._lock(lock) for lock in locks]
        notices += [await self._switch(switch, note) for switch, note in switches]
        return next(filter(None, notices), None)

    async def _lock(self, call: LockSnapshot) -> Wait | None:
        if self._is_made(call):
            return None
        try:
            end = await self._change(call)
            await self._make(mark_locked(call, end, self._now()))
            self._made[call] = self._now()
        except CloudError as error:
            return _tell(error)
        return None

    async def _switch(self, call: SwitchFastRestores, note: CreateTags) -> Wait | None:
        if self._is_made(call):
            return None
        try:
            refusals = await self._change(call)
            # What is to end, and AWS says is not on, has ended.
            if refusals and isinstance(call, EnableFastSnapshotRestores):
                return _tell(_explain_refusal(call, refusals))
            await self._make(note)
            self._made[call] = self._now()
        except CloudError as error:
            return _tell(error)
        return None

    async def delete(
        self, calls: Sequence[DeleteSnapshot], snapshots: Sequence[CloudSnapshot]
    ) -> tuple[set[str], Wait | None]:
        """Delete snapshots, each whatever comes of the others; returns those gone, and why one of them stays.

        One that the agent itself has locked is waited for and not told of.
        """
        now = self._now()
        locked = {one.snapshot_id for one in snapshots if is_locked(one, now)}
        gone: set[str] = set()
        notices: list[Wait] = []
        for call in calls:
            until, why = self._kept.get(call.snapshot_id, (now, None))
            if call.snapshot_id in locked:
                continue
            if why is not None and now < until:
                notices.append(why)
                continue
            why = await self._try_to_delete(call)
            if why is None:
                gone.add(call.snapshot_id)
                self._kept.pop(call.snapshot_id, None)
                continue
            notices.append(why)
            self._kept[call.snapshot_id] = (now + timedelta(seconds=REFUSED_PAUSE_S), why)
            if why.reason is Reason.PERMISSION_DENIED:
                break  # as would be every other
        return gone, next(iter(notices), None)

    async def _try_to_delete(self, call: DeleteSnapshot) -> Wait | None:
        try:
            await self._change(call)
        except CloudError as error:
            return None if error.code == codes.NO_SNAPSHOT else _tell(error)
        return None

    def _is_made(self, call: Change[Any]) -> bool:
        limit = timedelta(seconds=pending_calls.LIMIT_S)
        self._made = {one: at for one, at in self._made.items() if self._now() - at <= limit}
        return call in self._made

    async def _change(self, call: Change[T]) -> T:
        answer = await self._make(call)
        log.info("cloud.called", operation=call.operation, what=call.describe())
        return answer


def _tell(error: CloudError) -> Wait:
    return Wait(error.reason or Reason.CLOUD_ERROR, error.message, error.hint)


def _explain_refusal(call: EnableFastSnapshotRestores, refusals: Sequence[ZoneRefusal]) -> CloudError:
    """Return what AWS refused in an answer that is a success by itself."""
    zones = ", ".join(refusal.zone for refusal in refusals)
    first = refusals[0]
    failure = Failure(call.service, call.operation, first.code, first.message)
    return explain_failure(failure, f"{call.snapshot_id} in {zones}")
