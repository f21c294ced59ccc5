"""What each order at the control socket may say: its words, what each of them is in JSON, and what they mean.

Held to before anything else is made of them: what is nearly right is not guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from agent.cloud.aws.calls import ModifyVolume
from agent.cloud.orders.named_volumes import NewVolume
from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import VolumeId, parse_volume_id
from agent.core.quoting import quote
from agent.core.suggestions import hint_at_known
from agent.core.units import GIB, parse_size
from agent.policy.entries import VolumeClass, VolumeType
from agent.policy.entry_checks import check_class, find_size_fault
from agent.policy.values.build import build_section
from agent.policy.values.fields import MAX_COUNT
from agent.report.board.board import Board
from agent.report.board.readiness import name_unknown

_PARAMETERS: Mapping[str, type] = {"type": str, "iops": int, "throughput": int}
_NEW: Mapping[str, type] = {
    **_PARAMETERS,
    "size": str,
    "encrypted": bool,
    "kms_key_id": str,
    "name": str,
}
FIELDS: Mapping[str, Mapping[str, type]] = {
    "attach": {"volume": str},
    "detach": {"volume": str, "force": bool},
    "create": {**_NEW, "from": str},
    "restore": {**_NEW, "snapshot": str},
    "expand": {"volume": str, "size": str},
    "modify": {"volume": str, **_PARAMETERS},
    "snapshot": {"volume": str, "freeze": bool, "wait": bool},
    "snapshots": {"volume": str},
    "delete-snapshot": {"snapshot": str},
    "orphans": {},
    "delete-orphan": {"volume": str},
}
"""The words of each order, and what each is in JSON. None is one that was not said."""

_KINDS: Mapping[type, str] = {str: "a text", bool: "true or false", int: "a whole number"}
_MAX_TEXT = 1024


def check_request(order: str, words: Mapping[str, Any]) -> None:
    """Raise AgentError unless each word is one of the order's and what it is to be: ``"no"`` is not false."""
    for name, value in words.items():
        kind = FIELDS[order].get(name)
        if kind is None:
            known = hint_at_known(name, sorted(FIELDS[order]), "Its words are")
            raise InvalidValueError(f"{order} takes no word {name!r:.40}.", known)
        if value is not None and type(value) is not kind:
            raise InvalidValueError(f"{name} of {order} is {_KINDS[kind]}, and not {json.dumps(value):.40}.")
        if isinstance(value, str) and (len(value) > _MAX_TEXT or not value.isprintable()):
            raise InvalidValueError(
                f"{name} of {order} is no text that anything is called by: {value!a:.40}."
            )


# -- What they mean ------------------------------------------------------------------------------------------
# Of words that check_request let through.


def find_volume(board: Board, text: str) -> VolumeId:
    """Return the volume a person means: by the policy's name, by device, or by ID, known here or not."""
    status = board.find(text)
    if status is not None and status.volume_id is not None:
        return status.volume_id
    try:
        return parse_volume_id(text)
    except InvalidValueError as error:
        if status is not None:
            raise AgentError(f"{status.label} has no volume yet.", status.hint, status.reason) from None
        unknown = name_unknown(board, text)
        raise InvalidValueError(unknown.message, f"{unknown.hint} {error.hint}") from None


def read_volume(board: Board, request: Mapping[str, Any]) -> VolumeId:
    """Return the volume that an order is about."""
    return find_volume(board, str(request.get("volume", "")))


def parse_snapshot_id(text: object) -> str:
    """Return ``text`` as a snapshot ID, or raise: ``snap-`` and 8 or 17 hexadecimal digits."""
    if isinstance(text, str) and re.fullmatch(r"snap-(?:[0-9a-f]{8}|[0-9a-f]{17})", text, re.ASCII):
        return text
    raise InvalidValueError(
        f"{quote(str(text))} is not an EBS snapshot ID.",
        hint="An ID is snap- followed by 8 or 17 hexadecimal digits, as in snap-0123456789abcdef0.",
    )


def read_new_volume(words: Mapping[str, Any]) -> NewVolume:
    """Return the volume that was asked for; raises AgentError where its words contradict each other."""
    size = words.get("size")
    size_bytes = None if size is None else parse_size(str(size))
    if size_bytes is None and words.get("from") is None:
        raise InvalidValueError(
            "A new volume needs a size, or a snapshot to be made from.", "Add --size 500GiB or --from snap-…."
        )
    if size_bytes is not None and (size_bytes <= 0 or size_bytes % GIB):
        raise InvalidValueError("A volume's size is whole GiB.")
    volume_class = _read_class(words)
    fault = None if size_bytes is None else find_size_fault(size_bytes, volume_class.type)
    if fault is not None:
        raise InvalidValueError(fault)
    return NewVolume(
        size_gib=None if size_bytes is None else size_bytes // GIB,
        type=volume_class.type,
        iops=volume_class.iops,
        throughput=volume_class.throughput,
        is_encrypted=True if volume_class.kms_key_id else volume_class.encrypted,
        kms_key_id=volume_class.kms_key_id,
        snapshot_id=None if words.get("from") is None else parse_snapshot_id(words["from"]),
        name=words.get("name"),
    )


def read_modification(volume_id: VolumeId, words: Mapping[str, Any]) -> ModifyVolume:
    """Return the modification that was asked for; raises AgentError where its words say none."""
    kind = words.get("type")
    if kind is not None and kind not in get_args(VolumeType):
        known = hint_at_known(kind, get_args(VolumeType), "Choose from")
        raise InvalidValueError(f"{quote(kind, 20)} is no type of EBS volume.", known)
    iops, throughput = _read_count(words, "iops"), _read_count(words, "throughput")
    if kind is iops is throughput is None:
        raise InvalidValueError(
            "A modification needs something to change.", "Add --type, --iops or --throughput."
        )
    if kind is not None:
        _read_class({"type": kind, "iops": iops, "throughput": throughput})
    return ModifyVolume(volume_id, type=kind, iops=iops, throughput=throughput)


def _read_class(words: Mapping[str, Any]) -> VolumeClass:
    """Return the words as a class of the policy file, held to the same rules."""
    names = ("type", "iops", "throughput", "encrypted", "kms_key_id")
    said = {name: words[name] for name in names if words.get(name) is not None}
    volume_class = build_section(VolumeClass, said)
    for defect in check_class(volume_class):
        raise InvalidValueError(defect.message, defect.hint)
    return volume_class


def _read_count(words: Mapping[str, Any], name: str) -> int | None:
    value = words.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT):
        return value
    raise InvalidValueError(f"{name} is not a number of at least 1 and at most {MAX_COUNT}.")
