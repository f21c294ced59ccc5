"""AWS errors as the agent's own: one sentence naming the object, a reason, a remedy, and when to try again.

EC2 has hundreds of codes; the table holds those that volumes meet. One that is not in it keeps AWS's own
words. HyperPod's attach hides EC2's code in the text of a ValidationException; it is taken out first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.cloud.statements import STATEMENTS, WHERE_IT_GOES, WHERE_KMS_GOES
from agent.errors import AgentError
from agent.model import Reason

_EC2_CODE = re.compile(r"Ec2ErrCode:?\s*([A-Za-z][A-Za-z0-9.]*[A-Za-z0-9])")
_NOT_AUTHORIZED_TO = re.compile(r"not authorized to perform:\s*([a-z0-9-]+:[A-Za-z*]+)")
_USER = re.compile(r"(?:User:\s*)?(arn:aws[a-z-]*:(?:sts|iam)::[0-9]{12}:\S+)")
_HOURS = re.compile(r"([0-9]+)\s*hours?")

MAX_WAIT_S = 24 * 3600.0


@dataclass(frozen=True)
class Failure:
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

    __str__ = AgentError.__str__


@dataclass(frozen=True)
class _Rule:
    reason: Reason
    sentence: str
    hint: str
    is_retryable: bool = True
    retry_after_s: float = 60.0


_THROTTLED = _Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS limits how often {operation} may be asked, and the limit is reached.",
    "Nothing to do: the agent asks again, ever more rarely. Many nodes booting at once share one limit.",
    retry_after_s=15.0,
)
_DENIED = _Rule(
    Reason.PERMISSION_DENIED,
    "AWS denies {operation}{user}: {action} is missing.",
    "Add {action} to {where}. `ebs-agent iam-policy` prints all that this policy file needs.",
    retry_after_s=300.0,
)
_NO_CREDENTIALS = _Rule(
    Reason.PERMISSION_DENIED,
    "There are no AWS credentials on this node for {operation}.",
    "Give the instance group an execution role, or set cloud.enabled: false to work without AWS.",
    retry_after_s=300.0,
)
_UNREACHABLE = _Rule(
    Reason.CLOUD_ERROR,
    "AWS did not answer {operation}: {message}",
    "Is there a route from this subnet to the service (NAT, or a VPC endpoint for {service})?",
    retry_after_s=30.0,
)
_SERVER = _Rule(
    Reason.CLOUD_ERROR,
    "AWS failed to serve {operation} ({code}).",
    "This is on AWS's side; the agent asks again. https://health.aws.amazon.com shows known trouble.",
    retry_after_s=15.0,
)
_LIMIT = _Rule(
    Reason.ATTACHMENT_LIMIT,
    "This instance has no room for another volume: {message}",
    "Detach a volume, or use an instance type with more attachments. Network interfaces may share the limit.",
    retry_after_s=120.0,
)
_QUOTA = _Rule(
    Reason.CLOUD_ERROR,
    "A quota of this AWS account is used up: {message}",
    "Ask for more under Service Quotas → Amazon EBS, or delete volumes and snapshots nobody needs.",
    retry_after_s=900.0,
)
_COOL_DOWN = _Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS lets this volume rest between modifications: {message}",
    "Nothing to do: the agent modifies it when AWS allows it again.",
    retry_after_s=6 * 3600.0,
)
_MODIFYING = _Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS is still at this volume's last modification: {message}",
    "Nothing to do: the agent modifies it when the last one is completed.",
    retry_after_s=300.0,
)
_NO_VOLUME = _Rule(
    Reason.NOT_ATTACHED,
    "AWS knows no such volume in this account and region: {message}",
    "Is the ID right, and the volume in this region? A volume just made may take seconds to be known.",
    retry_after_s=10.0,
)
_WRONG_ZONE = _Rule(
    Reason.WRONG_ZONE,
    "The volume lies in another availability zone than this node: {message}",
    "Volumes cannot move; make one here from a snapshot: `ebs-agent create --from snap-…`.",
    is_retryable=False,
)
_ELSEWHERE = _Rule(
    Reason.ATTACHED_ELSEWHERE,
    "The volume is attached to another instance: {message}",
    "It is attached here as soon as it is detached there.",
    retry_after_s=30.0,
)
_STATE = _Rule(
    Reason.WAITING_FOR_CLOUD,
    "The volume is not in a state for {operation} now: {message}",
    "The agent looks again. If it stays so, the EC2 console shows the volume's state.",
    retry_after_s=10.0,
)
_KMS = _Rule(
    Reason.PERMISSION_DENIED,
    "The KMS key of the volume cannot be used: {message}",
    f"kms:CreateGrant and kms:DescribeKey have to be allowed in {WHERE_KMS_GOES}, and the key enabled. "
    "`ebs-agent iam-policy --kms` prints the statement.",
    retry_after_s=300.0,
)
_INVALID = _Rule(
    Reason.CLOUD_ERROR,
    "AWS refuses the parameters of {operation}: {message}",
    "Mend the volume's class, size or ID in the policy file; asking again would not help.",
    is_retryable=False,
    retry_after_s=900.0,
)
_SNAPSHOT = _Rule(
    Reason.CLOUD_ERROR,
    "The snapshot cannot be used: {message}",
    "Is the ID right, the snapshot completed, in this region, and shared with this account?",
    retry_after_s=60.0,
)
_OTHER = _Rule(Reason.CLOUD_ERROR, "AWS refuses {operation} ({code}): {message}", "", retry_after_s=60.0)

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "TooManyRequestsException",
            "RequestThrottled",
            "RequestThrottledException",
            "EC2ThrottledException",
            "SlowDown",
        ),
        _THROTTLED,
    ),
    **dict.fromkeys(
        ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation"),
        _DENIED,
    ),
    **dict.fromkeys(
        (
            "NoCredentialsError",
            "PartialCredentialsError",
            "CredentialRetrievalError",
            "AuthFailure",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
        ),
        _NO_CREDENTIALS,
    ),
    **dict.fromkeys(
        (
            "EndpointConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "ConnectionClosedError",
            "SSLError",
            "ProxyConnectionError",
            "HTTPClientError",
            "WorkerDied",
            "WorkerTimeout",
        ),
        _UNREACHABLE,
    ),
    **dict.fromkeys(("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"), _SERVER),
    **dict.fromkeys(("AttachmentLimitExceeded", "VolumeAttachmentLimitExceeded"), _LIMIT),
    **dict.fromkeys(
        (
            "VolumeLimitExceeded",
            "MaxIOPSLimitExceeded",
            "SnapshotLimitExceeded",
            "VolumeIOPSLimit",
            "ConcurrentSnapshotLimitExceeded",
            "SnapshotCreationPerVolumeRateExceeded",
            "PendingSnapshotLimitExceeded",
            "ResourceLimitExceeded",
            "InsufficientVolumeCapacity",
            "FastSnapshotRestoreLimitExceeded",
        ),
        _QUOTA,
    ),
    "VolumeModificationRateExceeded": _COOL_DOWN,
    "IncorrectModificationState": _MODIFYING,
    "InvalidVolume.NotFound": _NO_VOLUME,
    "InvalidAttachment.NotFound": _STATE,
    "IncorrectState": _STATE,
    "IncorrectInstanceState": _STATE,
    "InvalidVolume.ZoneMismatch": _WRONG_ZONE,
    "VolumeInUse": _ELSEWHERE,
    "InvalidSnapshot.NotFound": _SNAPSHOT,
    "InvalidSnapshot.InUse": _SNAPSHOT,
    "SnapshotLocked": _SNAPSHOT,
    **dict.fromkeys(
        (
            "KMSKeyNotAccessibleFault",
            "InvalidKmsKey.InvalidState",
            "KmsKeyNotFound",
            "Client.InvalidKMSKey.InvalidState",
            "InvalidKmsKeyId.Malformed",
        ),
        _KMS,
    ),
    **dict.fromkeys(
        (
            "InvalidParameterValue",
            "InvalidParameter",
            "InvalidParameterCombination",
            "InvalidParameterDependency",
            "MissingParameter",
            "ValidationError",
            "ValidationException",
            "ParamValidationError",
            "InvalidVolumeID.Malformed",
            "InvalidSnapshotID.Malformed",
            "InvalidZone.NotFound",
            "VolumeTypeNotAvailableInZone",
            "UnsupportedOperation",
            "OperationNotPermitted",
        ),
        _INVALID,
    ),
}


def is_throttled(code: str) -> bool:
    """Return whether AWS did nothing because it is asked too often."""
    return _RULES.get(code) is _THROTTLED


def find_code(failure: Failure) -> str:
    """Return the code that says most: EC2's from inside a ValidationException, else AWS's own."""
    inside = _EC2_CODE.search(failure.message)
    return inside[1] if inside else failure.code


def explain_failure(failure: Failure, subject: str = "") -> CloudError:
    """Return the failure as an error of the agent. ``subject`` names the volume, where there is one."""
    code = find_code(failure)
    rule = _choose_rule(failure, code)
    action = _find_action(failure)
    is_kms = action.startswith("kms:")
    user = _USER.search(failure.message)
    words = {
        "service": failure.service,
        "operation": failure.operation,
        "code": code,
        "message": _shorten(failure.message),
        "action": action,
        "user": f" to {user[1]}" if user else "",
        "where": WHERE_KMS_GOES if is_kms else WHERE_IT_GOES,
    }
    sentence = rule.sentence.format(**words)
    if "explicit deny" in failure.message:
        words["where"] += "; an explicit deny stands in the way, look at permission boundaries and SCPs too"
    request = f" (request {failure.request_id})" if rule is _OTHER and failure.request_id else ""
    return CloudError(
        message=f"{subject}: {sentence}{request}" if subject else f"{sentence}{request}",
        hint=rule.hint.format(**words) or None,
        reason=rule.reason,
        retryable=rule.is_retryable,
        code=code,
        operation=failure.operation,
        retry_after_s=_find_wait(rule, failure.message),
    )


def _choose_rule(failure: Failure, code: str) -> _Rule:
    found = _RULES.get(code)
    if found is not None:
        return found
    if failure.http_status >= 500:  # noqa: PLR2004 - HTTP's own division
        return _SERVER
    return _DENIED if "not authorized to perform" in failure.message else _OTHER


def _find_action(failure: Failure) -> str:
    """Return the IAM action that is missing: the one the message names, else those the call needs."""
    named = _NOT_AUTHORIZED_TO.search(failure.message)
    if named:
        return named[1]
    known = [statement.action for statement in STATEMENTS.get(failure.operation, ())]
    return " or ".join(dict.fromkeys(known)) or f"{failure.service}:{failure.operation}"


def _find_wait(rule: _Rule, message: str) -> float:
    """Return how long AWS says to wait, where it does: "wait at least 6 hours between modifications"."""
    hours = _HOURS.search(message) if rule is _COOL_DOWN else None
    return min(float(hours[1]) * 3600, MAX_WAIT_S) if hours else rule.retry_after_s


def _shorten(message: str) -> str:
    """Keep the sentence, drop the encoded authorization message that follows it."""
    return " ".join(message.partition("Encoded authorization failure message")[0].split())[:400]
