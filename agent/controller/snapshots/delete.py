"""Deletes snapshots that were taken for Kubernetes, and no others."""

from __future__ import annotations

from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DeleteSnapshot, DisableFastSnapshotRestores
from agent.cloud.aws.models import CloudSnapshot
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.controller.snapshots.known import KnownSnapshots
from agent.controller.snapshots.marks import list_fast_zones, require_marks
from agent.core.errors import RefusedError

_IN_USE = "InvalidSnapshot.InUse"
_HINTS = {
    "SnapshotLocked": "It can be deleted when the lock ends; `aws ec2 describe-locked-snapshots` says when.",
    _IN_USE: "Deregister the image that uses it, or end its fast restores, first.",
}
"""What is to be done where AWS keeps a snapshot, by its code."""

log = get_logger(__name__)


async def delete_snapshot(
    make: Make, known: KnownSnapshots, snapshot_id: str, cluster_id: str | None
) -> None:
    """Return when the snapshot is deleted, or was before; raises RefusedError where it is to stay."""
    snapshot = await known.find_surely(snapshot_id)
    if snapshot is None:
        return
    require_marks(snapshot, cluster_id)
    try:
        await _delete(make, snapshot)
    except CloudError as error:
        if error.code in _HINTS:
            raise RefusedError(f"{snapshot_id}: {error.message}", hint=_HINTS[error.code]) from error
        if error.code != codes.NO_SNAPSHOT:
            raise
    known.note_gone(snapshot_id)
    log.info("controller.snapshot_deleted", snapshot_id=snapshot_id)


async def _delete(make: Make, snapshot: CloudSnapshot) -> None:
    """Delete it; fast restores are ended only where they keep it from being deleted."""
    zones = list_fast_zones(snapshot)
    try:
        await make(DeleteSnapshot(snapshot.snapshot_id))
    except CloudError as error:
        if error.code != _IN_USE or not zones:
            raise
        await make(DisableFastSnapshotRestores(snapshot.snapshot_id, zones))
        await make(DeleteSnapshot(snapshot.snapshot_id))
