"""AWS errors as the agent's own: one sentence naming the object, a reason, a remedy, and when to try again.

What a code means is in ``agent.cloud.errors.rules``; one that is not there keeps AWS's own words. HyperPod's
attach hides EC2's code in the text of a ValidationException; it is taken out first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from msgspec import Struct

from agent.cloud.aws.answer_fields import Unread, split
from agent.cloud.aws.iam_statements import STATEMENTS
from agent.cloud.errors import codes
from agent.cloud.errors.credential_rules import find_clock_code
from agent.cloud.errors.denials import find_encoded, find_why, name_remedy
from agent.cloud.errors.hyperpod_rules import find_hyperpod_code
from agent.cloud.errors.kms_rules import find_kms_code
from agent.cloud.errors.retry_after import find_told_wait_s
from agent.cloud.errors.rule_type import Rule
from agent.cloud.errors.rules import (
    BY_CODE,
    COOL_DOWN,
    DENIED,
    OTHER,
    SERVER,
    THROTTLED,
    UNREACHABLE,
)
from agent.core.errors import AgentError
from agent.core.model import Reason

T = TypeVar("T")

_EC2_CODE = re.compile(r"Ec2ErrCode:?\s*([A-Za-z][A-Za-z0-9.]*[A-Za-z0-9])")
_NOT_AUTHORIZED_TO = re.compile(r"[Nn]ot authorized to perform:?\s*([a-z0-9-]+:[A-Za-z*]+)")
_USER = re.compile(r"(?:User:\s*)?(arn:aws[a-z-]*:(?:sts|iam)::[0-9]{12}:\S+)")
_SAYS_IN_WORDS = frozenset({"InvalidParameterValue", "InvalidParameter"})
_NAME_TAKEN = re.compile(r"[Aa]ttachment point \S+ is already in use")
"""EC2's words for a block device name that another volume has. Source: nanovms/ops#1189."""

_UNREAD_REST_S = 60.0

WOULD_SUCCEED = "DryRunOperation"
"""The code of a dry run, which always fails, where the call itself would have succeeded."""


class Failure(Struct, frozen=True):
    """One call that failed, as the worker saw it."""

    service: str
    operation: str
    code: str
    """AWS's error code, or the name of botocore's exception where no answer came."""
    message: str
    http_status: int = 0
    request_id: str = ""


@dataclass(eq=False)
class CloudError(AgentError):
    """AWS said no, or did not answer. Before ``retry_after_s`` it makes no sense to ask again."""

    code: str = ""
    operation: str = ""
    retry_after_s: float = 0.0
    is_transient: bool = False
    """AWS failed, or could not be reached: it may do what is asked in a moment."""
    denied_action: str | None = None
    """The IAM action that is missing, where AWS knows who asks, and says that it will not tell or do it."""
    encoded: str | None = None
    """What AWS says of a denial to whoever may decode it: ``aws sts decode-authorization-message``."""

    __str__ = AgentError.__str__


def is_throttled(code: str) -> bool:
    """Return whether AWS did nothing because it is asked too often."""
    return BY_CODE.get(code) is THROTTLED


def is_let_through(code: str) -> bool:
    """Return whether AWS had time for the call, and refused it for what it says."""
    rule = BY_CODE.get(code)
    return rule is not None and rule not in {THROTTLED, UNREACHABLE, SERVER}


def find_code(failure: Failure) -> str:
    """Return the code that says most: EC2's from inside a ValidationException, what its words mean, AWS's."""
    inside = _EC2_CODE.search(failure.message)
    code = find_kms_code(failure.code if inside is None else inside[1], failure.message)
    if code == failure.code:
        code = find_clock_code(find_hyperpod_code(failure.operation, code, failure.message), failure.message)
    return codes.NAME_TAKEN if code in _SAYS_IN_WORDS and _NAME_TAKEN.search(failure.message) else code


def explain_failure(failure: Failure, subject: str = "", *, worker: str = "who asks AWS") -> CloudError:
    """Return the failure as an error of the agent. ``subject`` names the volume, where there is one.

    ``worker`` names the user who asks AWS, and who reads what credentials are in.
    """
    code = find_code(failure)
    rule = _choose_rule(failure, code)
    action = _find_action(failure)
    why = find_why(failure.message)
    user = _USER.search(failure.message)
    words = {
        "service": failure.service,
        "operation": failure.operation,
        "code": code,
        "message": _shorten(failure.message),
        "worker": worker,
        "action": action,
        "user": f" to {user[1]}" if user else "",
        "mend": name_remedy(action, failure.message),
        "because": "" if why is None else f" ({why} it)" if why.endswith("allows") else f" ({why})",
    }
    sentence = rule.sentence.format(**words)
    request = f" (request {failure.request_id})" if rule is OTHER and failure.request_id else ""
    return CloudError(
        message=f"{subject}: {sentence}{request}" if subject else f"{sentence}{request}",
        hint=rule.hint.format(**words) or None,
        reason=rule.reason,
        retryable=rule.is_retryable,
        code=code,
        operation=failure.operation,
        retry_after_s=_find_wait(rule, failure.message),
        # What became of the worker its client knows, and has it asked again where that may be.
        is_transient=rule in {SERVER, UNREACHABLE} and not code.startswith("Worker"),
        denied_action=action if rule is DENIED else None,
        encoded=find_encoded(failure.message),
    )


def _choose_rule(failure: Failure, code: str) -> Rule:
    found = BY_CODE.get(code)
    if found is not None:
        return found
    if failure.http_status >= 500:  # noqa: PLR2004 - HTTP's own division
        return SERVER
    return DENIED if "not authorized to perform" in failure.message else OTHER


def _find_action(failure: Failure) -> str:
    """Return the IAM action that is missing: the one the message names, else those the call needs."""
    named = _NOT_AUTHORIZED_TO.search(failure.message)
    if named:
        return named[1]
    known = [statement.action for statement in STATEMENTS.get(failure.operation, ())]
    return " or ".join(dict.fromkeys(known)) or f"{failure.service}:{failure.operation}"


def _find_wait(rule: Rule, message: str) -> float:
    """Return how long AWS says to wait, where it does."""
    told_s = find_told_wait_s(message) if rule is COOL_DOWN else None
    return rule.retry_after_s if told_s is None else told_s


def _shorten(message: str) -> str:
    """Keep the sentence, drop the encoded authorization message that follows it."""
    return " ".join(message.partition("Encoded authorization failure message")[0].split())[:400]


def explain_unread(entry: Unread) -> CloudError:
    """Return an entry that cannot be read as the error of whatever needs to know what it says."""
    message, hint = entry.describe()
    return CloudError(
        message,
        hint=hint,
        reason=Reason.CLOUD_ERROR,
        code="NotUnderstood",
        retry_after_s=_UNREAD_REST_S,
    )


def require_read(found: Iterable[T | Unread]) -> tuple[T, ...]:
    """Return what was found, or raise CloudError where some of it could not be read."""
    read, unread = split(found)
    for entry in unread:
        raise explain_unread(entry)
    return read
