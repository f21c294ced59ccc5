"""Snapshots of an account in memory, with answers that get lost and descriptions that lag behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import (
    CreateSnapshot,
    DeleteSnapshot,
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    LockSnapshot,
)
from agent.cloud.aws.models import CloudSnapshot
from agent.cloud.aws.snapshot_models import DescribeLockedSnapshots, HeldLock, ZoneRefusal
from agent.cloud.errors.explain import Failure, explain_failure
from agent.controller.patience import Patience
from agent.core.replace import replace
from tests.unit.controller.stand_in import KilledError

T = TypeVar("T")


@dataclass
class SnapshotStandIn:
    """What EC2 has, and what goes wrong."""

    time_s: float = 1000.0
    lag_s: float = 0.0
    kept: dict[str, CloudSnapshot] = field(default_factory=dict)
    taken_s: dict[str, float] = field(default_factory=dict)
    gone: dict[str, tuple[CloudSnapshot, float]] = field(default_factory=dict)
    fast: set[tuple[str, str]] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    locks: dict[str, tuple[LockSnapshot, float]] = field(default_factory=dict)
    """The call that locked each last, and when."""
    in_images: set[str] = field(default_factory=set)
    refused_zones: set[str] = field(default_factory=set)
    refusals: dict[str, list[str]] = field(default_factory=dict)
    """Codes with which the next calls of an operation fail."""
    lost: set[int] = field(default_factory=set)
    kill: tuple[int, bool] | None = None
    made: list[Call[Any]] = field(default_factory=list)
    on_call: Callable[[Call[Any]], None] = lambda _call: None
    unread: int = 0

    def patience(self) -> Patience:
        return Patience(lambda: self.time_s, self._sleep)

    async def _sleep(self, pause_s: float) -> None:
        self.time_s += pause_s
        await asyncio.sleep(0)

    def add(self, **facts: Any) -> CloudSnapshot:
        """Take a snapshot; its ID tells the order."""
        number = len(self.taken_s)
        one = CloudSnapshot(
            f"snap-{number:017x}",
            **{
                "volume_id": "vol-1",
                "state": "pending",
                "started_at": f"2026-01-01T00:00:{number:02}",
                **facts,
            },
        )
        self.kept[one.snapshot_id] = one
        self.taken_s[one.snapshot_id] = self.time_s
        return one

    def describe(self) -> list[CloudSnapshot]:
        at_s = self.time_s - self.lag_s
        gone = [one for one, gone_s in self.gone.values() if gone_s > at_s]
        return [one for one in [*self.kept.values(), *gone] if self.taken_s[one.snapshot_id] <= at_s]

    async def find_snapshot(self, snapshot_id: str, /) -> CloudSnapshot | None:
        await asyncio.sleep(0)
        return next((one for one in self.describe() if one.snapshot_id == snapshot_id), None)

    async def find_snapshots_named(self, name: str, /) -> list[CloudSnapshot]:
        await asyncio.sleep(0)
        return [one for one in self.describe() if one.tag("CSIVolumeSnapshotName") == name]

    async def list_snapshots(self) -> list[CloudSnapshot | Unread]:
        await asyncio.sleep(0)
        return [*self.describe(), *(Unread(None, "State is missing") for _ in range(self.unread))]

    async def make(self, call: Call[T], /, *, within: Within = nullcontext) -> T:
        async with within():
            await asyncio.sleep(0)
            number = len(self.made)
            self.made.append(call)
            if self.kill == (number, False):
                raise KilledError
            try:
                answer = self._serve(call)
            finally:
                if self.kill == (number, True):
                    raise KilledError
            self.on_call(call)
            if number in self.lost:
                raise self._fail(call, "ReadTimeoutError")
            return cast("T", answer)

    def _serve(self, call: Call[Any]) -> Any:
        codes = self.refusals.get(call.operation)
        if codes:
            raise self._fail(call, codes.pop(0))
        if isinstance(call, CreateSnapshot):
            return replace(self.add(volume_id=call.volume_id, tags=call.tags), tags=())
        if isinstance(call, EnableFastSnapshotRestores):
            self.fast |= {(call.snapshot_id, zone) for zone in call.zones if zone not in self.refused_zones}
            refused = [zone for zone in call.zones if zone in self.refused_zones]
            return tuple(ZoneRefusal(zone, "FastSnapshotRestoreLimitExceeded", "words") for zone in refused)
        if isinstance(call, DisableFastSnapshotRestores):
            self.fast -= {(call.snapshot_id, zone) for zone in call.zones}
            return ()
        if isinstance(call, LockSnapshot):
            return self._lock(call)
        if isinstance(call, DescribeLockedSnapshots):
            return tuple(self._describe_lock(one) for one in call.snapshot_ids if one in self.locked)
        assert isinstance(call, DeleteSnapshot)
        return self._delete(call)

    def _lock(self, call: LockSnapshot) -> None:
        """Lock; what is locked by compliance once and for all takes no cooling-off period any more."""
        is_locked = call.snapshot_id in self.locked
        if is_locked and call.cool_off_hours and self._describe_lock(call.snapshot_id).state == "compliance":
            raise self._fail(call, "InvalidParameterCombination")
        self.locked.add(call.snapshot_id)
        self.locks[call.snapshot_id] = call, self.time_s

    def _describe_lock(self, snapshot_id: str) -> HeldLock:
        lock, locked_s = self.locks[snapshot_id]
        is_cooling_off = locked_s + 3600 * (lock.cool_off_hours or 0) > self.time_s
        state = f"{lock.mode}-cooloff" if is_cooling_off else lock.mode
        return HeldLock(snapshot_id, state, lock.duration_days, lock.expires_at)

    def _delete(self, call: DeleteSnapshot) -> None:
        snapshot_id = call.snapshot_id
        if snapshot_id not in self.kept:
            raise self._fail(call, "InvalidSnapshot.NotFound")
        if snapshot_id in self.locked:
            raise self._fail(call, "SnapshotLocked")
        if snapshot_id in self.in_images or any(one == snapshot_id for one, _ in self.fast):
            raise self._fail(call, "InvalidSnapshot.InUse")
        self.gone[snapshot_id] = self.kept.pop(snapshot_id), self.time_s

    @staticmethod
    def _fail(call: Call[Any], code: str) -> Exception:
        return explain_failure(Failure(call.service, call.operation, code, "words"))
