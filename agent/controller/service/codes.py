"""Which code of gRPC an error of the controller is answered with, as the sidecars read it.

To external-provisioner, attacher, resizer and snapshotter four codes say that the call may still bring it
about (``UNCERTAIN`` of the node's table, less RESOURCE_EXHAUSTED for the provisioner); all others are final.
After a final one the provisioner lets go of the claim, and would leave behind what was made: so a final code
is for what was refused before anything was made. RESOURCE_EXHAUSTED has it try another node and zone. After
INVALID_ARGUMENT, OUT_OF_RANGE and NOT_FOUND the resizer gives up, or goes back to the size that was.
Source: ``checkError`` and ``isFinalError`` of the sidecars' controllers.
"""

from __future__ import annotations

from enum import Enum

from grpclib.const import Status

from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.cloud.errors.rule_type import Rule
from agent.cloud.errors.rules import (
    BY_CODE,
    CAPACITY,
    COOL_DOWN,
    DENIED,
    ELSEWHERE,
    INVALID,
    LIMIT,
    MODIFICATION_QUOTA,
    MODIFYING,
    NO_VOLUME,
    QUOTA,
    TAGS,
    THROTTLED,
    WRONG_ZONE,
)
from agent.controller.calls import DiffersError, NoSuchThingError, SizeError
from agent.core.errors import AgentError
from agent.core.reasons import Reason
from agent.csi.service.codes import find_code as find_node_code


class Call(str, Enum):
    """The calls that do something, by their names in the interface."""

    CREATE = "CreateVolume"
    DELETE = "DeleteVolume"
    ATTACH = "ControllerPublishVolume"
    DETACH = "ControllerUnpublishVolume"
    EXPAND = "ControllerExpandVolume"
    MODIFY = "ControllerModifyVolume"
    TAKE = "CreateSnapshot"
    DELETE_SNAPSHOT = "DeleteSnapshot"


UNCERTAIN = frozenset({Status.ABORTED, Status.CANCELLED, Status.DEADLINE_EXCEEDED, Status.UNAVAILABLE})
"""After these every sidecar asks again, and takes nothing for granted."""

BY_RULE: tuple[tuple[Rule, Status], ...] = (
    (QUOTA, Status.RESOURCE_EXHAUSTED),
    (CAPACITY, Status.RESOURCE_EXHAUSTED),
    (LIMIT, Status.RESOURCE_EXHAUSTED),
    (DENIED, Status.PERMISSION_DENIED),
    (INVALID, Status.INVALID_ARGUMENT),
    (TAGS, Status.INVALID_ARGUMENT),
    (NO_VOLUME, Status.NOT_FOUND),
    (ELSEWHERE, Status.FAILED_PRECONDITION),
    (WRONG_ZONE, Status.FAILED_PRECONDITION),
    # It passes; the message says when, where AWS does.
    (COOL_DOWN, Status.UNAVAILABLE),
    (MODIFYING, Status.UNAVAILABLE),
    (MODIFICATION_QUOTA, Status.UNAVAILABLE),
    (THROTTLED, Status.UNAVAILABLE),
)
"""What AWS says no to, by what its code means; all other errors go by their reason."""

BY_CODE_OF_AWS = {
    codes.NO_SNAPSHOT: Status.NOT_FOUND,
    "InvalidSnapshot.InUse": Status.FAILED_PRECONDITION,
    "SnapshotLocked": Status.FAILED_PRECONDITION,
    "VolumeTypeNotAvailableInZone": Status.RESOURCE_EXHAUSTED,  # in another zone it may be
    "IdempotentParameterMismatch": Status.ALREADY_EXISTS,
}
"""Codes that mean more here than to a node."""

_MAKES = {
    Call.CREATE: frozenset({"CreateVolume", "CopyVolumes"}),
    Call.TAKE: frozenset({"CreateSnapshot"}),
}
"""AWS's calls that make what is asked for: what others say does not prove that nothing was made."""

_PROVES_ABSENCE = frozenset({codes.NO_SNAPSHOT})
"""The source is missing, so nothing can have been made of it."""


def find_code(error: AgentError, call: Call | None = None) -> Status:
    """Return the code that ``error`` is answered with, to ``call``."""
    code = _find_by_kind(error) or _find_by_cloud(error) or _find_by_reason(error)
    if isinstance(error, CloudError) and code not in UNCERTAIN and not _is_final(error, call):
        return Status.UNAVAILABLE
    if call in {Call.EXPAND, Call.MODIFY} and code is Status.FAILED_PRECONDITION:
        return Status.INTERNAL  # the resizer reads the other as: not before nobody uses the volume
    if call is Call.CREATE and error.reason is Reason.WRONG_ZONE:
        return Status.RESOURCE_EXHAUSTED
    return code


def _find_by_kind(error: AgentError) -> Status | None:
    if isinstance(error, DiffersError):
        return Status.ALREADY_EXISTS
    if isinstance(error, NoSuchThingError):
        return Status.NOT_FOUND
    return Status.OUT_OF_RANGE if isinstance(error, SizeError) else None


def _find_by_cloud(error: AgentError) -> Status | None:
    if not isinstance(error, CloudError):
        return None
    if error.code in BY_CODE_OF_AWS:
        return BY_CODE_OF_AWS[error.code]
    rule = BY_CODE.get(error.code)
    return next((code for known, code in BY_RULE if known is rule), None)


def _find_by_reason(error: AgentError) -> Status:
    if error.reason is Reason.WAITING_FOR_CLOUD:
        return Status.UNAVAILABLE
    return find_node_code(error)


def _is_final(error: CloudError, call: Call | None) -> bool:
    """Return whether AWS's refusal says that nothing was made, wherever something is to be made."""
    making = None if call is None else _MAKES.get(call)
    return making is None or error.operation in making or error.code in _PROVES_ABSENCE
