from __future__ import annotations

import pytest
from grpclib.const import Status

from agent.cloud.errors.explain import Failure, explain_failure
from agent.controller.calls import DiffersError, NoSuchThingError, SizeError
from agent.controller.service.codes import UNCERTAIN, Call, find_code
from agent.core.errors import AgentError, BugError, InvalidValueError, OvertakenError, RefusedError
from agent.core.reasons import Reason
from agent.csi.service.codes import INFEASIBLE, StillWorkingError

FINAL_FOR_PROVISIONER = set(Status) - UNCERTAIN
"""``checkError`` of external-provisioner's controller: all else ends the claim's attempt."""


def refuse(code: str, operation: str, message: str = "no") -> AgentError:
    service = "sagemaker" if "Cluster" in operation else "ec2"
    return explain_failure(Failure(service, operation, code, message), "vol-1")


@pytest.mark.parametrize(
    ("code", "operation", "call", "answered"),
    [
        ("VolumeLimitExceeded", "CreateVolume", Call.CREATE, Status.RESOURCE_EXHAUSTED),
        ("MaxIOPSLimitExceeded", "CreateVolume", Call.CREATE, Status.RESOURCE_EXHAUSTED),
        ("InsufficientVolumeCapacity", "CreateVolume", Call.CREATE, Status.RESOURCE_EXHAUSTED),
        ("InsufficientVolumeCapacity", "CopyVolumes", Call.CREATE, Status.RESOURCE_EXHAUSTED),
        ("VolumeTypeNotAvailableInZone", "CreateVolume", Call.CREATE, Status.RESOURCE_EXHAUSTED),
        ("UnauthorizedOperation", "CreateVolume", Call.CREATE, Status.PERMISSION_DENIED),
        ("InvalidParameterValue", "CreateVolume", Call.CREATE, Status.INVALID_ARGUMENT),
        ("InvalidSnapshot.NotFound", "CreateVolume", Call.CREATE, Status.NOT_FOUND),
        ("InvalidSnapshot.NotFound", "DescribeSnapshots", Call.CREATE, Status.NOT_FOUND),
        ("IdempotentParameterMismatch", "CreateVolume", Call.CREATE, Status.ALREADY_EXISTS),
        ("RequestLimitExceeded", "CreateVolume", Call.CREATE, Status.UNAVAILABLE),
        ("InternalError", "CreateVolume", Call.CREATE, Status.UNAVAILABLE),
        ("WorkerDied", "CreateVolume", Call.CREATE, Status.UNAVAILABLE),
        # The volume may have been made before this was said.
        ("UnauthorizedOperation", "DescribeVolumes", Call.CREATE, Status.UNAVAILABLE),
        ("InvalidVolume.NotFound", "DescribeVolumes", Call.CREATE, Status.UNAVAILABLE),
        ("UnauthorizedOperation", "CreateTags", Call.CREATE, Status.UNAVAILABLE),
        ("UnauthorizedOperation", "LockSnapshot", Call.TAKE, Status.UNAVAILABLE),
        ("UnauthorizedOperation", "CreateSnapshot", Call.TAKE, Status.PERMISSION_DENIED),
        ("VolumeInUse", "DeleteVolume", Call.DELETE, Status.FAILED_PRECONDITION),
        ("AttachmentLimitExceeded", "AttachVolume", Call.ATTACH, Status.RESOURCE_EXHAUSTED),
        ("UnauthorizedOperation", "AttachVolume", Call.ATTACH, Status.PERMISSION_DENIED),
        ("VolumeInUse", "AttachVolume", Call.ATTACH, Status.FAILED_PRECONDITION),
        ("InvalidVolume.NotFound", "AttachVolume", Call.ATTACH, Status.NOT_FOUND),
        ("InvalidVolume.ZoneMismatch", "AttachVolume", Call.ATTACH, Status.FAILED_PRECONDITION),
        ("IncorrectState", "DetachVolume", Call.DETACH, Status.UNAVAILABLE),
        ("VolumeModificationRateExceeded", "ModifyVolume", Call.EXPAND, Status.UNAVAILABLE),
        ("IncorrectModificationState", "ModifyVolume", Call.MODIFY, Status.UNAVAILABLE),
        ("VolumeModificationSizeLimitExceeded", "ModifyVolume", Call.EXPAND, Status.UNAVAILABLE),
        ("InvalidParameterValue", "ModifyVolume", Call.MODIFY, Status.INVALID_ARGUMENT),
        ("InvalidVolume.NotFound", "ModifyVolume", Call.EXPAND, Status.NOT_FOUND),
        ("SnapshotLocked", "DeleteSnapshot", Call.DELETE_SNAPSHOT, Status.FAILED_PRECONDITION),
        ("InvalidSnapshot.InUse", "DeleteSnapshot", Call.DELETE_SNAPSHOT, Status.FAILED_PRECONDITION),
    ],
)
def test_what_aws_says_becomes_what_sidecars_act_upon(
    code: str, operation: str, call: Call, answered: Status
) -> None:
    """Each code of AWS has the sidecar do what helps: elsewhere, again, or not again."""
    assert find_code(refuse(code, operation), call) is answered


@pytest.mark.parametrize(
    ("error", "call", "answered"),
    [
        (DiffersError("a"), Call.CREATE, Status.ALREADY_EXISTS),
        (SizeError("a"), Call.EXPAND, Status.OUT_OF_RANGE),
        (InvalidValueError("a"), Call.MODIFY, Status.INVALID_ARGUMENT),
        (NoSuchThingError("a"), Call.CREATE, Status.NOT_FOUND),
        (AgentError("a", reason=Reason.NOT_ATTACHED), Call.EXPAND, Status.NOT_FOUND),
        (AgentError("a", reason=Reason.WAITING_FOR_CLOUD), Call.ATTACH, Status.UNAVAILABLE),
        (AgentError("a", reason=Reason.ATTACHMENT_LIMIT), Call.ATTACH, Status.RESOURCE_EXHAUSTED),
        (RefusedError("a", reason=Reason.ATTACHED_ELSEWHERE), Call.ATTACH, Status.FAILED_PRECONDITION),
        (RefusedError("a", reason=Reason.WRONG_ZONE), Call.CREATE, Status.RESOURCE_EXHAUSTED),
        (RefusedError("a", reason=Reason.WRONG_ZONE), Call.ATTACH, Status.FAILED_PRECONDITION),
        (RefusedError("a"), Call.DELETE, Status.FAILED_PRECONDITION),
        (RefusedError("a"), Call.EXPAND, Status.INTERNAL),
        (OvertakenError("a"), None, Status.ABORTED),
        (StillWorkingError("a"), Call.CREATE, Status.ABORTED),
        (BugError("a"), Call.DELETE, Status.INTERNAL),
        (AgentError("a"), Call.CREATE, Status.UNAVAILABLE),
    ],
)
def test_the_controllers_own_errors_have_codes(
    error: AgentError, call: Call | None, answered: Status
) -> None:
    """What is refused here has the code that the interface has for it."""
    assert find_code(error, call) is answered


@pytest.mark.parametrize("call", [Call.EXPAND, Call.MODIFY])
def test_what_passes_never_looks_infeasible_to_the_resizer(call: Call) -> None:
    """A rest that AWS demands ends by itself: the resizer must not go back to the size that was."""
    for code in ("VolumeModificationRateExceeded", "IncorrectModificationState", "RequestLimitExceeded"):
        assert find_code(refuse(code, "ModifyVolume"), call) not in INFEASIBLE


def test_every_code_of_aws_has_an_answer() -> None:
    """No error is left without a code, whatever AWS says; an unknown one may still bring it about."""
    assert find_code(refuse("BrandNewTrouble", "CreateVolume"), Call.CREATE) is Status.UNAVAILABLE
    assert Status.PERMISSION_DENIED in FINAL_FOR_PROVISIONER
