"""Finds what a new volume is made from, before AWS is asked for the volume."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.controller.calls import CreateCall, NoSuchThingError
from agent.controller.making.known_volumes import KnownVolumes
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.core.reasons import Reason


class Source(Struct, frozen=True):
    """What of a source decides how the volume is made."""

    size_gib: int | None = None
    """None: there is no source, or AWS does not describe it, as a snapshot of another account."""
    zone: str | None = None
    """The only zone where it can be made; None: any."""


_NOT_FOUND = frozenset({codes.NO_SNAPSHOT, codes.NO_VOLUME})


async def find_source(known: KnownVolumes, call: CreateCall, zones: Sequence[str]) -> Source:
    """Return what the volume is made from; raises AgentError where that is not there, or not yet so far."""
    if call.source is None:
        return Source()
    if call.source.volume_id is not None:
        return await _find_volume(known, call.source.volume_id, zones)
    return await _find_snapshot(known, call.source.snapshot_id or "")


def is_source_missing(error: AgentError, call: CreateCall) -> bool:
    """Return whether a volume was not made since what it is made from is not there, or not known yet."""
    is_missing = isinstance(error, NoSuchThingError) or (
        isinstance(error, CloudError) and error.code in _NOT_FOUND
    )
    return call.source is not None and is_missing


async def _find_volume(known: KnownVolumes, volume_id: VolumeId, zones: Sequence[str]) -> Source:
    volume = await known.find(volume_id)
    if volume is None or volume.is_gone:
        raise NoSuchThingError(
            f"AWS knows no volume {volume_id} to make a copy of, in this account and region.",
            hint="Is the claim that is the data source bound, and its volume not deleted?",
        )
    if volume.zone not in zones:
        raise AgentError(
            f"{volume_id} is in {volume.zone}, and its copy is asked for in {', '.join(zones)}.",
            hint="A copy is in the zone of what it is made from: let the pod run there, or use a snapshot.",
            reason=Reason.WRONG_ZONE,
        )
    return Source(volume.size_gib, volume.zone)


async def _find_snapshot(known: KnownVolumes, snapshot_id: str) -> Source:
    snapshot = await known.find_snapshot_surely(snapshot_id)
    if snapshot is None:
        return Source()  # of another account: AWS knows better
    if snapshot.state == "error":
        raise AgentError(
            f"AWS failed to take {snapshot_id}, so no volume can be made from it.",
            hint="Use another snapshot.",
            reason=Reason.CLOUD_ERROR,
            retryable=False,
        )
    if snapshot.state != "completed":
        raise AgentError(
            f"{snapshot_id} is {snapshot.state}, {snapshot.progress_percent} % done; a volume can be made "
            "from it when it is completed.",
            reason=Reason.WAITING_FOR_CLOUD,
        )
    return Source(snapshot.size_gib or None)
