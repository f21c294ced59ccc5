"""Reads the parameters of classes: StorageClass, VolumeAttributesClass and VolumeSnapshotClass.

Keys are those of AWS's driver, in any case. One that is not known is refused, and the known ones are named:
whoever writes ``iop`` for ``iops`` is to hear of it. Everything wrong raises InvalidValueError.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import get_args

from msgspec import Struct

from agent.controller.calls import Performance, SnapshotLock
from agent.controller.service.parse_tags import is_tag_parameter
from agent.core.errors import InvalidValueError
from agent.core.quoting import quote
from agent.core.suggestions import hint_at_known
from agent.policy.entries import VolumeType

PERFORMANCE_KEYS = (
    "type",
    "iops",
    "iopsPerGB",
    "allowAutoIOPSPerGBIncrease",
    "allowAutoIOPSIncreaseOnModify",
    "throughput",
)
BLOCK_ATTACH_KEY = "blockAttachUntilInitialized"
CONTEXT_KEYS = (
    "blockSize",
    "inodeSize",
    "bytesPerInode",
    "numberOfInodes",
    "ext4BigAlloc",
    "ext4ClusterSize",
    "ext4EncryptionSupport",
    BLOCK_ATTACH_KEY,
    "ebs-agent/format",
    "ebs-agent/legacy-xfs",
)
"""What the node is told, and whoever attaches the volume, by volume_context."""
STORAGE_KEYS = (*PERFORMANCE_KEYS, "encrypted", "kmsKeyId", "volumeInitializationRate", *CONTEXT_KEYS)
IGNORED_KEYS = ("blockExpress", "fsType")
"""AWS's driver takes them and does nothing with them."""
ATTRIBUTES_KEYS = (*PERFORMANCE_KEYS, "volumeType")
SNAPSHOT_KEYS = (
    "fastSnapshotRestoreAvailabilityZones",
    "lockMode",
    "lockDuration",
    "lockExpirationDate",
    "lockCoolOffPeriod",
)

_TYPES = get_args(VolumeType)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_KMS_KEY = re.compile(r"[A-Za-z0-9:/_-]{1,2048}", re.ASCII)
_ZONE = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_MOST_DAYS = 36_500
_MOST_COOL_OFF_HOURS = 72
_LEAST_RATE_MIB, _MOST_RATE_MIB = 100, 300


class StorageWords(Struct, frozen=True):
    """What a StorageClass says of a volume, but for its tags."""

    performance: Performance
    is_encrypted: bool | None = None
    kms_key_id: str | None = None
    initialization_rate_mib: int | None = None
    context: Mapping[str, str] | None = None


def parse_storage_class(parameters: Mapping[str, str], metadata: Collection[str]) -> StorageWords:
    """Return what a StorageClass asks for. ``metadata``: the keys that the provisioner adds of itself."""
    said = _read(parameters, (*STORAGE_KEYS, *IGNORED_KEYS), metadata, "a StorageClass")
    key_id = said.get("kmskeyid") or None
    if key_id is not None and not _KMS_KEY.fullmatch(key_id):
        raise _refuse("kmsKeyId", key_id, "It is a key's ARN, ID or alias.")
    rate = _parse_number(said, "volumeInitializationRate", _LEAST_RATE_MIB, _MOST_RATE_MIB)
    _parse_switch(said, BLOCK_ATTACH_KEY)
    context = {key.lower(): said[key.lower()] for key in CONTEXT_KEYS if said.get(key.lower())}
    return StorageWords(
        performance=_parse_performance(said),
        # EC2 encrypts with a key that it is given, or by what the account has set.
        is_encrypted=True if _parse_switch(said, "encrypted") or key_id is not None else None,
        kms_key_id=key_id,
        initialization_rate_mib=rate,
        context=context,
    )


def is_initialized_first(context: Mapping[str, str]) -> bool:
    """Return whether a volume of this volume_context is attached only when all of its content is there."""
    return context.get(BLOCK_ATTACH_KEY.lower()) == "true"


def parse_attributes_class(parameters: Mapping[str, str], metadata: Collection[str]) -> Performance:
    """Return what a VolumeAttributesClass asks for."""
    said = _read(parameters, ATTRIBUTES_KEYS, metadata, "a VolumeAttributesClass")
    old = said.pop("volumetype", None)
    if old is not None and said.setdefault("type", old) != old:
        raise InvalidValueError(
            f"The parameters type and volumeType are {quote(said['type'])} and {quote(old)}.",
            hint="They mean the same: keep type.",
        )
    return _parse_performance(said)


def prefer(first: Performance, second: Performance) -> Performance:
    """Return what ``first`` says, and where it is silent what ``second`` does."""
    has_own_iops = first.iops is not None or first.iops_per_gib is not None
    return Performance(
        type=first.type or second.type,
        iops=first.iops if has_own_iops else second.iops,
        iops_per_gib=first.iops_per_gib if has_own_iops else second.iops_per_gib,
        may_raise_iops=first.may_raise_iops or second.may_raise_iops,
        throughput_mib=second.throughput_mib if first.throughput_mib is None else first.throughput_mib,
        follows_size=second.follows_size if first.follows_size is None else first.follows_size,
    )


def parse_snapshot_class(
    parameters: Mapping[str, str], metadata: Collection[str]
) -> tuple[tuple[str, ...], SnapshotLock | None]:
    """Return the zones of fast restores, and the lock, that a VolumeSnapshotClass asks for."""
    said = _read(parameters, SNAPSHOT_KEYS, metadata, "a VolumeSnapshotClass")
    listed = said.get("fastsnapshotrestoreavailabilityzones", "")
    zones = tuple(dict.fromkeys(zone.strip() for zone in listed.split(",") if zone.strip()))
    for zone in zones:
        if not _ZONE.fullmatch(zone):
            raise _refuse("fastSnapshotRestoreAvailabilityZones", zone, "List zones: us-east-1a, us-east-1b.")
    return zones, _parse_lock(said)


def _parse_lock(said: Mapping[str, str]) -> SnapshotLock | None:
    mode = said.get("lockmode", "").lower()
    if not mode:
        others = [key for key in SNAPSHOT_KEYS[2:] if said.get(key.lower())]
        if others:
            raise InvalidValueError(
                f"The parameter {others[0]} is set, and lockMode is not.",
                hint="Add lockMode: governance, or compliance.",
            )
        return None
    if mode not in {"governance", "compliance"}:
        raise _refuse("lockMode", mode, "Write governance or compliance.")
    lock = SnapshotLock(
        mode,
        _parse_number(said, "lockDuration", 1, _MOST_DAYS),
        said.get("lockexpirationdate") or None,
        _parse_number(said, "lockCoolOffPeriod", 1, _MOST_COOL_OFF_HOURS),
    )
    if lock.expires_at is not None and not _DATE.fullmatch(lock.expires_at):
        raise _refuse("lockExpirationDate", lock.expires_at, "Write it so: 2027-01-31T12:00:00Z.")
    if (lock.duration_days is None) == (lock.expires_at is None):
        raise InvalidValueError(
            "A lock has one end: either lockDuration or lockExpirationDate.", hint="Set one of them."
        )
    if lock.cool_off_hours is not None and mode != "compliance":
        raise InvalidValueError(
            "The parameter lockCoolOffPeriod is for lockMode compliance.", hint="Remove one of them."
        )
    return lock


def _read(
    parameters: Mapping[str, str], keys: Collection[str], metadata: Collection[str], place: str
) -> dict[str, str]:
    """Return the parameters by their keys in lower case, less tags and metadata."""
    known = {key.lower(): key for key in keys}
    said: dict[str, str] = {}
    for key, value in parameters.items():
        lower = key.lower()
        if is_tag_parameter(key) or key in metadata:
            continue
        if lower not in known:
            raise InvalidValueError(
                f"The parameter {quote(key)} is not known in {place}.",
                hint=hint_at_known(key, [*keys, "tagSpecification_N"], "Known are"),
            )
        if said.setdefault(lower, value) != value:
            raise InvalidValueError(
                f"The parameter {known[lower]} is given twice, with different values.",
                hint="Keep one of them.",
            )
    return said


def _parse_performance(said: Mapping[str, str]) -> Performance:
    kind = said.get("type") or None
    if kind is not None and kind not in _TYPES:
        raise _refuse("type", kind, f"Types are {', '.join(_TYPES)}.")
    iops = _parse_number(said, "iops", 1)
    per_gib = _parse_number(said, "iopsPerGB", 1)
    if iops is not None and per_gib is not None:
        raise InvalidValueError("The parameters iops and iopsPerGB are both set.", hint="Keep one of them.")
    follows_size = _parse_switch(said, "allowAutoIOPSIncreaseOnModify")
    return Performance(
        type=kind,
        iops=iops,
        iops_per_gib=per_gib,
        may_raise_iops=_parse_switch(said, "allowAutoIOPSPerGBIncrease"),
        throughput_mib=_parse_number(said, "throughput", 1),
        follows_size=follows_size if said.get("allowautoiopsincreaseonmodify") else None,
    )


def _parse_number(said: Mapping[str, str], key: str, least: int, most: int = 10**9) -> int | None:
    text = said.get(key.lower(), "")
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        upper = f" to {most}" if most < 10**9 else ""
        raise _refuse(key, text, f"It is a whole number from {least}{upper}.")
    return int(text)


def _parse_switch(said: Mapping[str, str], key: str) -> bool:
    text = said.get(key.lower(), "")
    if text not in {"", "true", "false"}:
        # AWS's driver takes all but "true" for no: an "encrypted: True" would quietly be a plain volume.
        raise _refuse(key, text, 'Write "true" or "false", in lower case.')
    return text == "true"


def _refuse(key: str, value: str, hint: str) -> InvalidValueError:
    return InvalidValueError(f"The parameter {key} cannot be {quote(value)}.", hint=hint)
