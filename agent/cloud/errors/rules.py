"""What AWS's error codes mean for volumes: the reason, a sentence, a remedy, and when to ask again.

EC2 has hundreds of codes; these are those that volumes meet. Data and no more.
"""

from __future__ import annotations

from agent.cloud.errors import codes, credential_rules, hyperpod_rules, kms_rules
from agent.cloud.errors.rule_type import Rule
from agent.core.model import Reason

THROTTLED = Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS limits how often {operation} may be asked, and the limit is reached.",
    "Nothing to do: the agent asks again, ever more rarely. Many nodes booting at once share one limit.",
    retry_after_s=15.0,
)
DENIED = Rule(
    Reason.PERMISSION_DENIED,
    "AWS denies {operation}{user}: {action} is missing{because}.",
    "{mend}; `ebs-agent reload` then has it tried at once. "
    "`ebs-agent iam-policy` prints all that this policy file needs.",
    retry_after_s=300.0,
)
UNREACHABLE = Rule(
    Reason.CLOUD_ERROR,
    "AWS did not answer {operation}: {message}",
    "Is there a route from this subnet to the service (NAT, or a VPC endpoint for {service})?",
    retry_after_s=30.0,
)
SERVER = Rule(
    Reason.CLOUD_ERROR,
    "AWS failed to serve {operation} ({code}): {message}",
    "This is on AWS's side; the agent asks again. https://health.aws.amazon.com shows known trouble.",
    retry_after_s=15.0,
)
LIMIT = Rule(
    Reason.ATTACHMENT_LIMIT,
    "This instance has no room for another volume: {message}",
    "Detach a volume (ebs-agent detach VOLUME), or use an instance type with more attachments. Network "
    "interfaces may share the limit.",
    retry_after_s=120.0,
)
QUOTA = Rule(
    Reason.CLOUD_ERROR,
    "A quota of this AWS account is used up: {message}",
    "Ask for more under Service Quotas → Amazon EBS, or delete volumes and snapshots nobody needs.",
    retry_after_s=900.0,
)
MODIFICATION_QUOTA = Rule(
    Reason.WAITING_FOR_CLOUD,
    "This AWS account modifies as much storage in this region as its quota lets it at once: {message}",
    "It passes when modifications under way are completed. Ask for more under Service Quotas → Amazon EBS if "
    "it does not.",
    retry_after_s=900.0,
)
TAGS = Rule(
    Reason.CLOUD_ERROR,
    "AWS takes no more tags for it: {message}",
    "A volume or snapshot has 50 tags at most; give it fewer in its class or under snapshots.",
    is_retryable=False,
    retry_after_s=900.0,
)
CAPACITY = Rule(
    Reason.CLOUD_ERROR,
    "AWS has no room for such a volume in this zone now: {message}",
    "It is tried again. If it stays so, a class of another type may have room.",
    retry_after_s=300.0,
)
SNAPSHOT_SO_SOON = Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS takes another snapshot of this volume only some seconds after the last: {message}",
    "Nothing to do: the agent asks again.",
    retry_after_s=15.0,
)
SNAPSHOTS_PENDING = Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS still writes as many snapshots as it does at once: {message}",
    "Nothing to do: the agent asks again when some may be completed.",
    retry_after_s=60.0,
)
COOL_DOWN = Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS lets this volume rest from modifications, of which it takes four in 24 hours: {message}",
    "Nothing to do: the agent modifies it when AWS allows it again.",
    retry_after_s=6 * 3600.0,
)
MODIFYING = Rule(
    Reason.WAITING_FOR_CLOUD,
    "AWS is still at this volume's last modification: {message}",
    "Nothing to do: the agent modifies it when the last one is completed.",
    retry_after_s=300.0,
)
NO_VOLUME = Rule(
    Reason.NOT_ATTACHED,
    "AWS knows no such volume in this account and region: {message}",
    "Is the ID right, and the volume in this region? A volume just made may take seconds to be known.",
    retry_after_s=10.0,
)
WRONG_ZONE = Rule(
    Reason.WRONG_ZONE,
    "The volume lies in another availability zone than this node: {message}",
    "Volumes cannot move; make one here from a snapshot: `ebs-agent create --from snap-…`.",
    is_retryable=False,
)
ELSEWHERE = Rule(
    Reason.ATTACHED_ELSEWHERE,
    "The volume is attached to another instance: {message}",
    "It is attached here as soon as it is detached there.",
    retry_after_s=30.0,
)
STATE = Rule(
    Reason.WAITING_FOR_CLOUD,
    "The volume is not in a state for {operation} now: {message}",
    "The agent looks again. If it stays so, the EC2 console shows the volume's state.",
    retry_after_s=10.0,
)
INVALID = Rule(
    Reason.CLOUD_ERROR,
    "AWS refuses the parameters of {operation}: {message}",
    "Mend the volume's class, size or ID, in the policy or in the order; asking again would not help.",
    is_retryable=False,
    retry_after_s=900.0,
)
NAME_TAKEN = Rule(
    Reason.WAITING_FOR_CLOUD,
    "The block device name chosen for the volume is taken: {message}",
    "Nothing to do: the agent tries the next name.",
    retry_after_s=1.0,
)
SNAPSHOT = Rule(
    Reason.CLOUD_ERROR,
    "The snapshot cannot be used: {message}",
    "Is the ID right, the snapshot completed, in this region, and shared with this account?",
    retry_after_s=60.0,
)
OTHER = Rule(Reason.CLOUD_ERROR, "AWS refuses {operation} ({code}): {message}", "", retry_after_s=60.0)

BY_CODE: dict[str, Rule] = {
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
        THROTTLED,
    ),
    **dict.fromkeys(
        ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation"),
        DENIED,
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
        UNREACHABLE,
    ),
    **dict.fromkeys(("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"), SERVER),
    **dict.fromkeys(("AttachmentLimitExceeded", "VolumeAttachmentLimitExceeded"), LIMIT),
    **dict.fromkeys(
        (
            "VolumeLimitExceeded",
            "MaxIOPSLimitExceeded",
            "SnapshotLimitExceeded",
            "VolumeIOPSLimit",
            "ResourceLimitExceeded",
            "FastSnapshotRestoreLimitExceeded",
            "ServiceQuotaExceededException",
        ),
        QUOTA,
    ),
    "VolumeModificationSizeLimitExceeded": MODIFICATION_QUOTA,
    "TagLimitExceeded": TAGS,
    **dict.fromkeys(("InsufficientVolumeCapacity", "InsufficientCapacity"), CAPACITY),
    "SnapshotCreationPerVolumeRateExceeded": SNAPSHOT_SO_SOON,
    **dict.fromkeys(("ConcurrentSnapshotLimitExceeded", "PendingSnapshotLimitExceeded"), SNAPSHOTS_PENDING),
    "VolumeModificationRateExceeded": COOL_DOWN,
    "IncorrectModificationState": MODIFYING,
    codes.NO_VOLUME: NO_VOLUME,
    codes.NO_ATTACHMENT: STATE,
    codes.INCORRECT_STATE: STATE,
    "IncorrectInstanceState": STATE,
    "ConcurrentTagAccess": STATE,
    **dict.fromkeys(("InvalidVolume.ZoneMismatch", "InvalidVolumeID.ZoneMismatch"), WRONG_ZONE),
    codes.VOLUME_IN_USE: ELSEWHERE,
    codes.NAME_TAKEN: NAME_TAKEN,
    codes.NO_SNAPSHOT: SNAPSHOT,
    "InvalidSnapshot.InUse": SNAPSHOT,
    "SnapshotLocked": SNAPSHOT,
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
            "UnknownVolumeType",
            "EncryptedVolumesNotSupported",
            "Unsupported",
            "UnsupportedOperation",
            "OperationNotPermitted",
        ),
        INVALID,
    ),
    **credential_rules.BY_CODE,
    **hyperpod_rules.BY_CODE,
    **kms_rules.BY_CODE,
}


def is_token_burnt(message: str) -> bool:
    """Return whether AWS says of a client token that the volume made with it is deleted.

    Its code is IdempotentParameterMismatch either way. Source: kubernetes-sigs/aws-ebs-csi-driver#1428.
    """
    return "already deleted" in message
