"""Which code of gRPC an error is answered with: one table by reason, one by kind, and what a call changes.

kubelet and the sidecars read codes and nothing else (Kubernetes, pkg/volume/csi). Five are *uncertain*: the
call may still bring it about, so it is repeated, and undone before the volume is given up. After all others
kubelet takes it that nothing is there, and asks for no undoing: so they are for what was refused before
anything was touched. Whoever raises such an error for a stage must not want the volume any longer.
"""

from __future__ import annotations

from enum import Enum

from grpclib.const import Status

from agent.core.errors import (
    AgentError,
    BugError,
    InvalidValueError,
    NotAnsweringError,
    NotMountedError,
    OvertakenError,
    RefusedError,
    ShortageError,
    VanishedError,
)
from agent.core.reasons import Reason

UNCERTAIN = frozenset(
    {
        Status.ABORTED,
        Status.CANCELLED,
        Status.DEADLINE_EXCEEDED,
        Status.RESOURCE_EXHAUSTED,
        Status.UNAVAILABLE,
    }
)
"""``isFinalError`` of Kubernetes' csi_client.go has these as not final."""

INFEASIBLE = frozenset({Status.INVALID_ARGUMENT, Status.OUT_OF_RANGE, Status.NOT_FOUND})
"""After these an expansion is not asked for again (``isInfeasibleError`` of its expander.go)."""


class NoSuchPathError(AgentError):
    """Nothing of the volume is at the path that was asked about, nor can be."""


class StillWorkingError(AgentError):
    """What was asked for goes on, and will be done by the time it is asked for again."""


class Call(str, Enum):
    """The calls that do or measure something, by their names in the interface."""

    STAGE = "NodeStageVolume"
    UNSTAGE = "NodeUnstageVolume"
    PUBLISH = "NodePublishVolume"
    UNPUBLISH = "NodeUnpublishVolume"
    EXPAND = "NodeExpandVolume"
    MEASURE = "NodeGetVolumeStats"
    DESCRIBE = "NodeGetInfo"


def _each(code: Status, *reasons: Reason) -> dict[Reason, Status]:
    return dict.fromkeys(reasons, code)


BY_REASON: dict[Reason, Status] = {
    # A safety rule said no, and nothing was touched; a person has to act.
    **_each(
        Status.FAILED_PRECONDITION,
        *(Reason.NOT_BLANK, Reason.FORMAT_NOT_ALLOWED, Reason.ALREADY_FORMATTED, Reason.FILESYSTEM_MISMATCH),
        *(Reason.DEVICE_BUSY, Reason.DUPLICATE_DEVICE, Reason.ROOT_DEVICE, Reason.INSTANCE_STORE),
        *(Reason.NOT_EBS, Reason.MANAGED_BY_CSI, Reason.FROM_SNAPSHOT, Reason.MULTI_ATTACH),
        *(Reason.PARTITIONED, Reason.PATH_NOT_ALLOWED, Reason.PATH_IN_USE, Reason.SEVERAL_ENTRIES),
        *(Reason.SEVERAL_VOLUMES, Reason.READ_ONLY_DEVICE, Reason.UNSUPPORTED, Reason.UNKNOWN_OWNER),
        *(Reason.RELEASED, Reason.NOT_IN_POLICY, Reason.ATTACHED_ELSEWHERE, Reason.ATTACH_UNSUPPORTED),
        *(Reason.WRONG_ZONE, Reason.NOT_STAGED),
    ),
    Reason.NOT_ATTACHED: Status.NOT_FOUND,
    Reason.PERMISSION_DENIED: Status.PERMISSION_DENIED,
    # The volume or its filesystem is not well. It may be mounted, so it is to be undone before it goes.
    **_each(
        Status.UNAVAILABLE,
        *(Reason.FILESYSTEM_ERRORS, Reason.READ_ONLY, Reason.OPTIONS_NOT_IN_FORCE, Reason.PANIC_ON_ERROR),
        *(Reason.STALLED, Reason.FROZEN, Reason.SHUT_DOWN, Reason.IO_ERRORS, Reason.NOT_GROWN),
        *(Reason.DRIFTED, Reason.FASTER_THAN_INSTANCE, Reason.NEARLY_FULL, Reason.FILES_FULL),
        *(Reason.THROTTLED_BY_VOLUME, Reason.THROTTLED_BY_INSTANCE, Reason.WRONG_TIMEOUT),
        *(Reason.IMPAIRED, Reason.STALE_MOUNT, Reason.DEVICE_GONE, Reason.STEP_FAILED),
        Reason.ORPHANED_STAGING,
    ),
    # It could not be told, or not yet.
    **_each(
        Status.UNAVAILABLE,
        *(Reason.PROBE_FAILED, Reason.UNREACHABLE, Reason.TOO_SLOW, Reason.CLOUD_ERROR),
    ),
    Reason.WAITING_FOR_CLOUD: Status.ABORTED,
    Reason.ATTACHMENT_LIMIT: Status.RESOURCE_EXHAUSTED,
    Reason.NODE_EXHAUSTED: Status.RESOURCE_EXHAUSTED,
    Reason.INTERNAL_ERROR: Status.INTERNAL,
}
"""Every reason there is."""

BY_KIND: tuple[tuple[type[AgentError], Status], ...] = (
    (StillWorkingError, Status.ABORTED),
    (OvertakenError, Status.ABORTED),
    (NoSuchPathError, Status.NOT_FOUND),
    (InvalidValueError, Status.INVALID_ARGUMENT),
    (ShortageError, Status.RESOURCE_EXHAUSTED),
    (BugError, Status.INTERNAL),
    (RefusedError, Status.FAILED_PRECONDITION),
    (NotAnsweringError, Status.UNAVAILABLE),
    (VanishedError, Status.UNAVAILABLE),
    (NotMountedError, Status.UNAVAILABLE),
    (AgentError, Status.UNAVAILABLE),
)
"""For errors without a reason; the first that fits."""

_BEGINS = frozenset({Call.STAGE, Call.PUBLISH})
"""What may leave something behind, to be undone: our own fault as well as what a device did."""
_REFUSALS = (RefusedError, InvalidValueError)
_NOT_FOUND = frozenset(
    {
        (Reason.NOT_STAGED, Call.EXPAND),
        (Reason.NOT_STAGED, Call.MEASURE),
        (Reason.NOT_IN_POLICY, Call.PUBLISH),
    }
)
"""What is asked of a volume at a path, where nothing of it is; and of an entry that there is not."""


def find_code(error: AgentError, call: Call | None = None) -> Status:
    """Return the code that ``error`` is answered with, to ``call``."""
    if isinstance(error, InvalidValueError):
        code = Status.INVALID_ARGUMENT
    elif (error.reason, call) in _NOT_FOUND:
        code = Status.NOT_FOUND
    elif error.reason is not None:
        code = BY_REASON[error.reason]
    else:
        code = next(code for kind, code in BY_KIND if isinstance(error, kind))
    if call in _BEGINS and code not in UNCERTAIN and not isinstance(error, _REFUSALS):
        return Status.UNAVAILABLE
    if call is Call.EXPAND and code is Status.FAILED_PRECONDITION:
        return Status.INTERNAL  # kubelet reads the other as: never while the volume is in use
    return code
