"""Judges whether a volume of some name is the one that is asked for, and whether it can be used yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.cloud.aws.models import CloudVolume
from agent.cloud.plan.class_drift import is_same_key
from agent.controller.calls import GIB, CreateCall, DiffersError
from agent.core.errors import AgentError
from agent.core.quoting import quote
from agent.core.reasons import Reason


def check_same(volume: CloudVolume, call: CreateCall, zones: Sequence[str] | None) -> None:
    """Raise DiffersError where the volume is not what is asked for; ``zones``: where it may be, None: any.

    Its IOPS and throughput may have been changed since, and are no difference.
    """
    differences = list(_find_differences(volume, call, zones))
    if differences:
        raise DiffersError(
            f"A volume named {quote(call.name)} is there, {volume.volume_id}, and {'; '.join(differences)}.",
            hint="Ask for it under another name, or as it is.",
        )


def _find_differences(volume: CloudVolume, call: CreateCall, zones: Sequence[str] | None) -> Iterator[str]:
    size_bytes, size = volume.size_gib * GIB, call.size
    if size_bytes < (size.required_bytes or 0) or size_bytes > (size.limit_bytes or size_bytes):
        yield f"has {volume.size_gib} GiB"
    if call.performance.type not in {None, volume.type}:
        yield f"is of type {volume.type}"
    snapshot_id = None if call.source is None else call.source.snapshot_id
    source_id = None if call.source is None else call.source.volume_id
    if source_id is None and (volume.snapshot_id or None) != snapshot_id:
        yield f"was made from {volume.snapshot_id or 'nothing'}"
    elif source_id is not None and volume.source_volume_id not in {None, source_id}:
        yield f"is a copy of {volume.source_volume_id}"
    if call.is_encrypted and not volume.is_encrypted:
        yield "is not encrypted"
    elif volume.kms_key_id is not None and not is_same_key(volume.kms_key_id, call.kms_key_id):
        yield f"is encrypted with {volume.kms_key_id}"
    if call.is_multi_attach != volume.is_multi_attach:
        yield "can be attached to several nodes" if volume.is_multi_attach else "is for one node only"
    if zones is not None and volume.zone not in zones:
        yield f"is in {volume.zone}"


def is_ready(volume: CloudVolume, call: CreateCall) -> bool:
    """Return whether the volume can be attached; raises AgentError where it never can."""
    if volume.state == "error":
        raise AgentError(
            f"{volume.volume_id}, made for {quote(call.name)}, is in state error.",
            hint=f"{blame_key(call)} Delete the volume once that is mended; another is made then.",
            reason=Reason.CLOUD_ERROR,
        )
    return volume.state in {"available", "in-use"}


def explain_vanished(volume: CloudVolume, call: CreateCall) -> AgentError:
    """Return the error of a volume that AWS answered for, and that is not there."""
    return AgentError(
        f"AWS made {volume.volume_id} for {quote(call.name)}, and took it back.",
        hint=blame_key(call),
        reason=Reason.CLOUD_ERROR,
    )


def blame_key(call: CreateCall) -> str:
    """Return the sentence that says why AWS takes volumes back that it has made."""
    key = "the account's default key for EBS" if call.kms_key_id is None else f"the KMS key {call.kms_key_id}"
    return f"That is so where {key} is disabled, deleted, or not to be used by the controller's role."
