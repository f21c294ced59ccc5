"""Has a snapshot be as its class says, fast to restore and locked, and undoes it where that cannot be."""

from __future__ import annotations

import re
from datetime import datetime

from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import (
    DeleteSnapshot,
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    LockSnapshot,
)
from agent.cloud.aws.snapshot_models import DescribeLockedSnapshots, HeldLock, ZoneRefusal
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError, Failure, explain_failure, is_throttled
from agent.controller.calls import SnapshotCall, SnapshotLock
from agent.core.units import find_time

log = get_logger(__name__)

_COMPLIANCE = frozenset({"compliance-cooloff", "compliance", "expired"})
_AS_STRICT = {"compliance": _COMPLIANCE, "governance": _COMPLIANCE | {"governance"}}
"""States of locks that are no less than one of this mode; of one that ended AWS does not say which it was."""
_FRACTION = re.compile(r"\.[0-9]+", re.ASCII)


def is_refused(error: CloudError) -> bool:
    """Return whether AWS understood what it was asked, and does not do it."""
    is_unknown = error.is_transient or error.code.startswith("Worker") or error.code == "NotUnderstood"
    return not is_unknown and not is_throttled(error.code)


async def protect(make: Make, snapshot_id: str, call: SnapshotCall, *, may_be_locked: bool) -> None:
    """Switch fast restores on, then lock; raises CloudError for what AWS does not do.

    ``may_be_locked``: a call or a process before may have locked it. Then AWS is asked first: it refuses to
    lock anew with a cooling-off period once that has passed.
    """
    if call.fast_restore_zones:
        switch = EnableFastSnapshotRestores(snapshot_id, call.fast_restore_zones)
        refusals = await make(switch)
        if refusals:
            raise _explain_refusals(switch, refusals)
    if call.lock is not None and not (may_be_locked and await _is_locked(make, snapshot_id, call.lock)):
        await make(_make_lock(snapshot_id, call.lock))


async def undo(make: Make, snapshot_id: str, call: SnapshotCall) -> bool:
    """Delete a snapshot that nobody was told of; returns whether it is gone."""
    try:
        if call.fast_restore_zones:  # AWS answers with success where they are not on
            await make(DisableFastSnapshotRestores(snapshot_id, call.fast_restore_zones))
        await make(DeleteSnapshot(snapshot_id))
    except CloudError as error:
        log.warning("controller.snapshot_not_undone", snapshot_id=snapshot_id, why=error.message)
        return error.code == codes.NO_SNAPSHOT
    return True


async def _is_locked(make: Make, snapshot_id: str, lock: SnapshotLock) -> bool:
    """Return whether it is locked as wanted, or was; False where AWS does not say, as to a role of before."""
    try:
        held = await make(DescribeLockedSnapshots((snapshot_id,)))
    except CloudError as error:
        if not is_refused(error):
            raise
        log.warning("controller.snapshot_lock_unknown", snapshot_id=snapshot_id, why=error.message)
        return False
    return any(one.snapshot_id == snapshot_id and is_enough(one, lock) for one in held)


def is_enough(held: HeldLock, wanted: SnapshotLock) -> bool:
    """Return whether a lock protects as strictly and for as long as is wanted; one that ended did."""
    if held.state not in _AS_STRICT[wanted.mode]:
        return False
    if wanted.expires_at is None:
        return (held.duration_days or 0) >= (wanted.duration_days or 0)
    wanted_end, end = _find_second(wanted.expires_at), _find_second(held.expires_at or "")
    return wanted_end is not None and end is not None and end >= wanted_end


def _find_second(text: str) -> datetime | None:
    """Return a time without the fraction of its second, of which AWS may leave out what it likes."""
    return find_time(_FRACTION.sub("", text))


def _make_lock(snapshot_id: str, lock: SnapshotLock) -> LockSnapshot:
    return LockSnapshot(snapshot_id, lock.mode, lock.duration_days, lock.expires_at, lock.cool_off_hours)


def _explain_refusals(call: EnableFastSnapshotRestores, refusals: tuple[ZoneRefusal, ...]) -> CloudError:
    zones = ", ".join(refusal.zone for refusal in refusals)
    failure = Failure(call.service, call.operation, refusals[0].code, refusals[0].message)
    return explain_failure(failure, f"{call.snapshot_id} in {zones}")
