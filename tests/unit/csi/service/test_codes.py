from __future__ import annotations

import pytest
from grpclib.const import Status

from agent.core import errors
from agent.core.errors import AgentError, InvalidValueError, RefusedError
from agent.core.reasons import Reason
from agent.csi.service.codes import (
    BY_KIND,
    BY_REASON,
    INFEASIBLE,
    UNCERTAIN,
    Call,
    NoSuchPathError,
    StillWorkingError,
    find_code,
)


def test_every_reason_has_a_code() -> None:
    """A reason that is added is given the code that kubelet is to read."""
    assert BY_REASON.keys() == set(Reason)


def test_every_kind_of_error_has_a_code() -> None:
    """The first kind that fits is the closest one."""
    kinds = [kind for kind, _ in BY_KIND]
    assert kinds[-1] is AgentError
    for index, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[index + 1 :])
    listed = {name for name in vars(errors) if name.endswith("Error")}
    assert {kind.__name__ for kind in kinds} - {"StillWorkingError", "NoSuchPathError"} <= listed


@pytest.mark.parametrize("call", [Call.STAGE, Call.PUBLISH])
@pytest.mark.parametrize("reason", Reason)
def test_only_a_refusal_is_final(call: Call, reason: Reason) -> None:
    """Where something may have been begun, kubelet is to undo it: only what was refused is left alone."""
    assert find_code(AgentError("No.", reason=reason), call) in UNCERTAIN
    assert find_code(errors.NotAnsweringError("No.", reason=reason), call) in UNCERTAIN


@pytest.mark.parametrize("kind", [kind for kind, _ in BY_KIND], ids=lambda kind: kind.__name__)
def test_only_a_refusal_is_final_by_kind(kind: type[AgentError]) -> None:
    """Likewise of errors that name no reason."""
    code = find_code(kind("No."), Call.STAGE)
    assert (code in UNCERTAIN) == (not issubclass(kind, (RefusedError, InvalidValueError)))


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.NOT_ATTACHED, Reason.NOT_STAGED}))
def test_growth_is_asked_for_again(reason: Reason) -> None:
    """No volume is left ungrown for good, nor until it is out of use, by what may pass."""
    code = find_code(AgentError("No.", reason=reason), Call.EXPAND)
    assert code not in INFEASIBLE
    assert code is not Status.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("error", "call", "code"),
    [
        (RefusedError("No.", reason=Reason.NOT_BLANK), Call.STAGE, Status.FAILED_PRECONDITION),
        (RefusedError("No."), Call.PUBLISH, Status.FAILED_PRECONDITION),
        (AgentError("No.", reason=Reason.NOT_ATTACHED), Call.STAGE, Status.UNAVAILABLE),
        (AgentError("No.", reason=Reason.NOT_ATTACHED), Call.MEASURE, Status.NOT_FOUND),
        (AgentError("No.", reason=Reason.NOT_STAGED), Call.MEASURE, Status.NOT_FOUND),
        (AgentError("No.", reason=Reason.NOT_STAGED), Call.EXPAND, Status.NOT_FOUND),
        (RefusedError("No.", reason=Reason.NOT_STAGED), Call.PUBLISH, Status.FAILED_PRECONDITION),
        (AgentError("No.", reason=Reason.NOT_GROWN), Call.EXPAND, Status.UNAVAILABLE),
        (AgentError("No.", reason=Reason.STALLED), Call.MEASURE, Status.UNAVAILABLE),
        (AgentError("No.", reason=Reason.NODE_EXHAUSTED), Call.STAGE, Status.RESOURCE_EXHAUSTED),
        (errors.ShortageError("No."), Call.STAGE, Status.RESOURCE_EXHAUSTED),
        (errors.OvertakenError("No."), Call.STAGE, Status.ABORTED),
        (StillWorkingError("Not yet."), Call.STAGE, Status.ABORTED),
        (NoSuchPathError("No."), Call.EXPAND, Status.NOT_FOUND),
        (InvalidValueError("No."), Call.STAGE, Status.INVALID_ARGUMENT),
        (InvalidValueError("No.", reason=Reason.PATH_NOT_ALLOWED), Call.STAGE, Status.INVALID_ARGUMENT),
        (errors.BugError("No.", reason=Reason.INTERNAL_ERROR), Call.UNSTAGE, Status.INTERNAL),
        (errors.BugError("No.", reason=Reason.INTERNAL_ERROR), Call.STAGE, Status.UNAVAILABLE),
    ],
)
def test_code_says_what_kubelet_is_to_do(error: AgentError, call: Call, code: Status) -> None:
    """The reason decides, then the kind, and what kubelet would read otherwise is said otherwise."""
    assert find_code(error, call) is code
