"""Has a snapshot be as its class says, fast to restore and locked, and undoes it where that cannot be."""

from __future__ import annotations

from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import (
    DeleteSnapshot,
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    LockSnapshot,
)
from agent.cloud.aws.snapshot_models import ZoneRefusal
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError, Failure, explain_failure, is_throttled
from agent.controller.calls import SnapshotCall, SnapshotLock

log = get_logger(__name__)


def is_refused(error: CloudError) -> bool:
    """Return whether AWS understood what it was asked, and does not do it."""
    is_unknown = error.is_transient or error.code.startswith("Worker") or error.code == "NotUnderstood"
    return not is_unknown and not is_throttled(error.code)


async def protect(make: Make, snapshot_id: str, call: SnapshotCall) -> None:
    """Switch fast restores on, then lock; raises CloudError for what AWS does not do."""
    if call.fast_restore_zones:
        switch = EnableFastSnapshotRestores(snapshot_id, call.fast_restore_zones)
        refusals = await make(switch)
        if refusals:
            raise _explain_refusals(switch, refusals)
    if call.lock is not None:
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


def _make_lock(snapshot_id: str, lock: SnapshotLock) -> LockSnapshot:
    return LockSnapshot(snapshot_id, lock.mode, lock.duration_days, lock.expires_at, lock.cool_off_hours)


def _explain_refusals(call: EnableFastSnapshotRestores, refusals: tuple[ZoneRefusal, ...]) -> CloudError:
    zones = ", ".join(refusal.zone for refusal in refusals)
    failure = Failure(call.service, call.operation, refusals[0].code, refusals[0].message)
    return explain_failure(failure, f"{call.snapshot_id} in {zones}")
