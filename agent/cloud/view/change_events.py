"""Makes an event of each change at AWS, once AWS has answered: what it was, and who asked for it.

A change that AWS refused is none. Where the agent ends between AWS's answer and the event, that event is
missing; none is recorded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

from agent.base.log import get_logger
from agent.cloud.aws.call import Call, Change, Make, Within
from agent.cloud.aws.calls import (
    AttachClusterNodeVolume,
    AttachVolume,
    CreateSnapshot,
    CreateTags,
    DeleteSnapshot,
    DeleteTags,
    DeleteVolume,
    DetachClusterNodeVolume,
    DetachVolume,
    DisableFastSnapshotRestores,
    EnableFastSnapshotRestores,
    LockSnapshot,
    ModifyVolume,
)
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume
from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId

T = TypeVar("T")
Fields = dict[str, Any]

log = get_logger(__name__)


class Record(Protocol):
    """What keeps an event, by its name in the log."""

    def __call__(self, name: str, volume_id: VolumeId | None, /, **fields: Any) -> object:
        """Keep it. ``fields`` are JSON values."""


def log_event(name: str, volume_id: VolumeId | None, /, **fields: Any) -> None:
    """Keep an event nowhere but in the log."""
    log.info(name, volume_id=volume_id, **fields)


def log_failure(error: AgentError, **about: str) -> None:
    """Log that AWS refused something, or could not be asked."""
    event = "cloud.denied" if error.reason is Reason.PERMISSION_DENIED else "cloud.failed"
    encoded = getattr(error, "encoded", None)
    more = {} if encoded is None else {"encoded": encoded}
    log.warning(event, error=error.message, hint=error.hint, **more, **about)


def record_changes(make: Make, record: Record, *, volume_id: VolumeId | None = None, **about: Any) -> Make:
    """Return ``make``, with each change that AWS has answered recorded.

    ``volume_id``: whose snapshots changes of snapshots are about. ``about``: fields that all of them have.
    """

    async def make_and_record(call: Call[T], /, *, within: Within = nullcontext) -> T:
        answer = await make(call, within=within)
        record_change(record, call, answer, volume_id=volume_id, **about)
        return answer

    return make_and_record


def record_change(
    record: Record, call: Call[Any], answer: Any, *, volume_id: VolumeId | None = None, **about: Any
) -> None:
    """Record a call that AWS has answered, if it is a change that has an event."""
    if not isinstance(call, Change) or type(call) not in EVENTS:
        return
    name, tell = EVENTS[type(call)]
    fields = tell(call, answer)
    if fields is None:
        return
    subject = fields.pop("volume_id", None) or getattr(call, "volume_id", volume_id)
    told = {name: value for name, value in fields.items() if value is not None}
    record(name, subject, **about, text=call.describe(), **told)


# -- What each is called, and what is told of it -------------------------------------------------------------


def _tell_instance(call: Any, _answer: Any) -> Fields:
    return {"instance_id": call.instance_id}


def _tell_made(_call: CreateVolume | CopyVolumes, answer: Any) -> Fields:
    return {
        "volume_id": answer.volume_id,
        "size_gib": answer.size_gib,
        "type": answer.type,
        "zone": answer.zone,
        "snapshot_id": answer.snapshot_id,
        "source_volume_id": answer.source_volume_id,
    }


def _tell_modified(call: ModifyVolume, _answer: Any) -> Fields:
    return {
        "size_gib": call.size_gib,
        "type": call.type,
        "iops": call.iops,
        "throughput": call.throughput,
    }


def _tell_nothing_more(_call: Any, _answer: Any) -> Fields:
    return {}


def _tell_taken(_call: CreateSnapshot, answer: Any) -> Fields:
    return {"snapshot_id": answer.snapshot_id}


def _tell_snapshot(call: Any, _answer: Any) -> Fields:
    return {"snapshot_id": call.snapshot_id}


def _tell_locked(call: LockSnapshot, answer: str | None) -> Fields:
    return {"snapshot_id": call.snapshot_id, "mode": call.mode, "until": answer}


def _tell_zones(call: Any, answer: Any) -> Fields | None:
    """Tell the zones AWS switched; None where it refused all of them, in an answer that is a success."""
    refused = {refusal.zone for refusal in answer}
    zones = [zone for zone in call.zones if zone not in refused]
    return {"snapshot_id": call.snapshot_id, "zones": zones} if zones else None


EVENTS: Mapping[type[Change[Any]], tuple[str, Callable[[Any, Any], Fields | None]]] = {
    AttachClusterNodeVolume: ("volume.attached_by", _tell_instance),
    AttachVolume: ("volume.attached_by", _tell_instance),
    DetachClusterNodeVolume: ("volume.detached_by", _tell_instance),
    DetachVolume: ("volume.detached_by", _tell_instance),
    CreateVolume: ("volume.created", _tell_made),
    CopyVolumes: ("volume.created", _tell_made),
    ModifyVolume: ("volume.modified", _tell_modified),
    DeleteVolume: ("volume.deleted", _tell_nothing_more),
    CreateSnapshot: ("snapshot.taken", _tell_taken),
    DeleteSnapshot: ("snapshot.deleted", _tell_snapshot),
    LockSnapshot: ("snapshot.locked", _tell_locked),
    EnableFastSnapshotRestores: ("snapshot.fast_restore_enabled", _tell_zones),
    DisableFastSnapshotRestores: ("snapshot.fast_restore_disabled", _tell_zones),
}
"""The event of each kind of change."""

SILENT: frozenset[type[Change[Any]]] = frozenset({CreateTags, DeleteTags})
"""Changes that are none of their own: tags say what the agent does otherwise."""
