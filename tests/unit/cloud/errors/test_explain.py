from __future__ import annotations

from datetime import datetime, timezone

import pytest

from agent.cloud.errors.explain import CloudError, Failure, explain_failure, find_code, is_throttled
from agent.cloud.errors.retry_after import find_told_wait_s
from agent.core.model import Reason

ROLE = "arn:aws:sts::111122223333:assumed-role/exec/i-0123456789abcdef0"

ENCODED_DENIAL = (
    f"User: {ROLE} is not authorized to perform: ec2:AttachVolume on resource: x because no identity-based "
    "policy allows the ec2:AttachVolume action. Encoded authorization failure message: Zm9v"
)


def explain(
    code: str, message: str = "Something.", operation: str = "AttachVolume", status: int = 400
) -> CloudError:
    return explain_failure(Failure("ec2", operation, code, message, status, "req-1"), "vol-1")


@pytest.mark.parametrize(
    ("code", "reason", "is_retryable"),
    [
        ("RequestLimitExceeded", Reason.WAITING_FOR_CLOUD, True),
        ("ThrottlingException", Reason.WAITING_FOR_CLOUD, True),
        ("UnauthorizedOperation", Reason.PERMISSION_DENIED, True),
        ("AccessDeniedException", Reason.PERMISSION_DENIED, True),
        ("NoCredentialsError", Reason.PERMISSION_DENIED, True),
        ("ExpiredToken", Reason.PERMISSION_DENIED, True),
        ("NoRegionError", Reason.WAITING_FOR_CLOUD, True),
        ("SnapshotCreationPerVolumeRateExceeded", Reason.WAITING_FOR_CLOUD, True),
        ("ConcurrentSnapshotLimitExceeded", Reason.WAITING_FOR_CLOUD, True),
        ("InsufficientVolumeCapacity", Reason.CLOUD_ERROR, True),
        ("EndpointConnectionError", Reason.CLOUD_ERROR, True),
        ("InternalError", Reason.CLOUD_ERROR, True),
        ("AttachmentLimitExceeded", Reason.ATTACHMENT_LIMIT, True),
        ("VolumeLimitExceeded", Reason.CLOUD_ERROR, True),
        ("VolumeModificationRateExceeded", Reason.WAITING_FOR_CLOUD, True),
        ("InvalidVolume.NotFound", Reason.NOT_ATTACHED, True),
        ("InvalidVolume.ZoneMismatch", Reason.WRONG_ZONE, False),
        ("VolumeInUse", Reason.ATTACHED_ELSEWHERE, True),
        ("IncorrectState", Reason.WAITING_FOR_CLOUD, True),
        ("KMSKeyNotAccessibleFault", Reason.PERMISSION_DENIED, True),
        ("InvalidParameterValue", Reason.CLOUD_ERROR, False),
        ("SomethingNew", Reason.CLOUD_ERROR, True),
    ],
)
def test_code_becomes_reason(code: str, reason: Reason, *, is_retryable: bool) -> None:
    """Each code of AWS has its reason, says whether trying again may help, and names the volume."""
    error = explain(code)
    assert (error.reason, error.retryable) == (reason, is_retryable)
    assert error.message.startswith("vol-1: ")
    assert error.retry_after_s > 0
    assert "{" not in str(error)


@pytest.mark.parametrize(
    "code",
    ["AttachmentLimitExceeded", "InvalidVolume.NotFound", "IncorrectState", "InvalidAttachment.NotFound"],
)
@pytest.mark.parametrize(
    "text", ["HyperPod - Ec2ErrCode: {} - words", "…(Ec2ErrCode: {}, Request…)", "Ec2ErrCode:{}."]
)
def test_code_inside_a_validation_exception(code: str, text: str) -> None:
    """HyperPod's ValidationException hides EC2's code in its text; it is the one that counts."""
    assert (
        find_code(Failure("sagemaker", "AttachClusterNodeVolume", "ValidationException", text.format(code)))
        == code
    )


@pytest.mark.parametrize(
    ("message", "action", "where"),
    [
        (
            ENCODED_DENIAL,
            "ec2:AttachVolume",
            "execution role",
        ),
        ("You are not authorized to perform this operation.", "ec2:AttachVolume", "execution role"),
        (
            f"User: {ROLE} is not authorized to perform: kms:CreateGrant on resource: k",
            "kms:CreateGrant",
            "key policy",
        ),
        (
            f"User: {ROLE} is not authorized to perform: ec2:AttachVolume with an explicit deny in an SCP",
            "ec2:AttachVolume",
            "SCPs",
        ),
    ],
)
def test_denial_names_statement_and_place(message: str, action: str, where: str) -> None:
    """A denial says which action is missing, for which role, and where it has to be added."""
    error = explain("UnauthorizedOperation", message, status=403)
    assert f"{action} is missing" in error.message
    assert where in str(error.hint)
    assert (ROLE in error.message) is (ROLE in message)
    assert "Zm9v" not in str(error)


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        ("because no identity-based policy allows the ec2:AttachVolume action", "to the IAM policy"),
        (
            "because no VPC endpoint policy allows the ec2:AttachVolume action",
            "to the policy of the VPC endpoint",
        ),
        ("because no permissions boundary allows the ec2:AttachVolume action", "the permissions boundary"),
        ("because no service control policy allows the ec2:AttachVolume action", "(SCPs)"),
        ("because no session policy allows the ec2:AttachVolume action", "the session policy"),
        (
            "with an explicit deny in a resource control policy",
            "explicit deny of ec2:AttachVolume out of the resource",
        ),
        ("with an explicit deny in an identity-based policy", "out of the IAM policy"),
        ("with an explicit deny in a VPC endpoint policy", "out of the policy of the VPC endpoint"),
        ("with an explicit deny", "an explicit deny stands in the way"),
    ],
)
def test_denial_names_the_policy_that_stands_in_the_way(why: str, remedy: str) -> None:
    """AWS's words for why are kept, and the remedy is for that policy: an IAM policy mends no endpoint's."""
    said = f"User: {ROLE} is not authorized to perform: ec2:AttachVolume on resource: x {why}."
    error = explain("UnauthorizedOperation", said, status=403)
    assert remedy in str(error.hint)
    assert why.partition(" the ec2:")[0] in error.message or why == "with an explicit deny"


def test_what_aws_encoded_is_kept_for_whoever_may_decode_it() -> None:
    """It is in the log, for `aws sts decode-authorization-message`; people are spared it."""
    assert explain("UnauthorizedOperation", ENCODED_DENIAL, status=403).encoded == "Zm9v"
    assert explain("UnauthorizedOperation", "No.", status=403).encoded is None


KEY = "arn:aws:kms:us-west-2:111122223333:key/1234abcd"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("KMSKeyNotAccessibleFault", "It is not."),
        ("InvalidKmsKey.InvalidState", "It is not."),
        ("Client.InvalidKMSKey.InvalidState", "The KMS key provided is in an incorrect state"),
        ("InvalidKmsKeyId.Malformed", "It is not."),
        ("KMSInvalidStateException", f"{KEY} is pending deletion."),
        ("KMSAccessDeniedException", "It is not."),
        ("DisabledException", f"{KEY} is disabled."),
        ("InvalidParameterValue", f"The KMS key {KEY} does not exist"),
        ("ValidationException", f"The volume's state: {KEY} is disabled"),
        ("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist"),
        ("IncorrectState", "Volume is encrypted with an inaccessible AWS KMS key."),
        ("ValidationException", "HyperPod - Ec2ErrCode: Client.InvalidKMSKey.InvalidState - words"),
    ],
)
def test_key_that_cannot_be_used_is_told_as_that(code: str, message: str) -> None:
    """Under whatever code AWS says it: its words are kept, and enabling and saving the key are named."""
    error = explain_failure(Failure("sagemaker", "AttachClusterNodeVolume", code, message, 400), "vol-1")
    assert "The KMS key of the volume cannot be used" in error.message
    assert message in error.message
    assert (error.reason, error.retryable) == (Reason.PERMISSION_DENIED, True)
    assert "cancel-key-deletion" in str(error.hint)


@pytest.mark.parametrize(
    "action", ["CreateGrant", "Decrypt", "GenerateDataKeyWithoutPlaintext", "DescribeKey"]
)
def test_denied_use_of_a_key_names_the_action_and_the_key_policy(action: str) -> None:
    """A denial of the key service's is one: its action belongs into the key policy."""
    said = (
        f"User: {ROLE} is not authorized to perform: kms:{action} on resource: {KEY} because it is disabled"
    )
    error = explain("AccessDenied", said, status=403)
    assert f"kms:{action} is missing" in error.message
    assert f"Add kms:{action} to the key policy" in str(error.hint)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("VolumeLimitExceeded", "Service Quotas"),
        ("MaxIOPSLimitExceeded", "Service Quotas"),
        ("SnapshotLimitExceeded", "Service Quotas"),
        ("ServiceQuotaExceededException", "Service Quotas"),
        ("VolumeModificationSizeLimitExceeded", "modifications under way"),
        ("PendingSnapshotLimitExceeded", "some may be completed"),
        ("ConcurrentSnapshotLimitExceeded", "some may be completed"),
        ("AttachmentLimitExceeded", "Detach a volume"),
        ("VolumeModificationRateExceeded", "when AWS allows it again"),
        ("TagLimitExceeded", "50 tags"),
        ("InsufficientCapacity", "another type"),
        ("ProfileNotFound", "AWS_PROFILE"),
        ("PartialCredentialsError", "doctor"),
        ("CredentialRetrievalError", "doctor"),
        ("Blocked", "AWS Support"),
        ("PendingVerification", "AWS Support"),
        ("MissingAuthenticationToken", "credentials"),
        ("InternalError", "AWS's side"),
    ],
)
def test_words_of_aws_are_kept_beside_a_remedy(code: str, remedy: str) -> None:
    """Whatever is used up or not to be had: AWS says of what, and the hint says what to do."""
    error = explain(code, "Maximum of 20 whatnots reached.")
    assert "Maximum of 20 whatnots reached." in error.message
    assert remedy in str(error.hint)


@pytest.mark.parametrize("code", ["InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"])
@pytest.mark.parametrize(
    "message", ["Signature expired: 20261128T000000Z is now earlier than …", "Signature not yet current: x"]
)
def test_signature_of_another_time_is_the_clock(code: str, message: str) -> None:
    """That a signature is too old or too new is the clock's fault, not the key's."""
    error = explain(code, message)
    assert "sent at another time" in error.message
    assert "timedatectl" in str(error.hint)
    assert "sent at another time" not in explain(code, "The signature does not match.").message


def test_denied_attach_on_hyperpod_names_all_it_needs() -> None:
    """Where AWS does not say which action is missing, all that the call needs are named."""
    failure = Failure("sagemaker", "AttachClusterNodeVolume", "AccessDeniedException", "denied")
    message = explain_failure(failure).message
    for action in ("sagemaker:AttachClusterNodeVolume", "ec2:AttachVolume", "eks:DescribeCluster"):
        assert action in message


def test_cool_down_waits_as_long_as_aws_says() -> None:
    """The hours AWS names are the wait; without any it is six, and never more than a day."""
    said = "Wait at least 4 hours between modifications per EBS volume."
    assert explain("VolumeModificationRateExceeded", said).retry_after_s == 4 * 3600
    assert explain("VolumeModificationRateExceeded", "Later.").retry_after_s == 6 * 3600
    assert explain("VolumeModificationRateExceeded", "Wait 9000 hours").retry_after_s == 24 * 3600


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("You can modify it again in 3 hours and 20 minutes.", 3 * 3600 + 20 * 60),
        ("Try again after 45 minutes.", 45 * 60),
        ("Please retry after 2026-11-28T10:30:00Z.", 1800),
        ("Please retry after 2026-11-28 10:30:00 UTC.", 1800),
        ("Please retry after 2026-11-28T12:30:00.123+02:00.", 1800),
        ("Please retry after 2026-11-28T09:00:00Z.", 0),
        ("Please retry after 2027-11-28T09:00:00Z.", 24 * 3600),
        ("Wait at least 6 hours between modifications per EBS volume.", 6 * 3600),
        ("A volume takes 4 modifications in 24 hours.", None),
        ("A volume takes 4 modifications in 24 hours. Wait at least 90 minutes.", 90 * 60),
        ("Again in 0000-99-99T99:99.", None),
        ("Later.", None),
    ],
)
def test_wait_is_read_out_of_the_words(said: str, wait_s: float | None) -> None:
    """A time or a while that AWS names is when to try again; the length of its window is none."""
    now = datetime(2026, 11, 28, 10, 0, tzinfo=timezone.utc)
    assert find_told_wait_s(said, now) == wait_s


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("AuthFailure", "timedatectl"),
        ("InvalidClientTokenId", "region enabled"),
        ("OptInRequired", "region enabled"),
        ("SignatureDoesNotMatch", "timedatectl"),
        ("RequestExpired", "clock"),
        ("RequestTimeTooSkewed", "clock"),
        ("ExpiredToken", "renewed"),
        ("ExpiredTokenException", "renewed"),
    ],
)
def test_credentials_that_are_not_taken_are_not_missing(code: str, remedy: str) -> None:
    """That AWS does not take credentials is told in its words, with what mends it; they are not missing."""
    error = explain(code, "AWS was not able to validate the provided access credentials")
    assert "was not able to validate" in error.message
    assert code in error.message
    assert "no AWS credentials" not in error.message
    assert remedy in str(error.hint)


@pytest.mark.parametrize("code", ["SnapshotCreationPerVolumeRateExceeded", "PendingSnapshotLimitExceeded"])
def test_what_passes_by_itself_is_no_quota(code: str) -> None:
    """A rate, and what is under way, need nothing of the account's owner, and no quarter of an hour."""
    error = explain(code)
    assert "quota" not in f"{error} {error.hint}".lower()
    assert error.retry_after_s <= 60


def explain_hyperpod(message: str, code: str = "ValidationException") -> CloudError:
    return explain_failure(Failure("sagemaker", "AttachClusterNodeVolume", code, message, 400), "vol-1")


@pytest.mark.parametrize(
    ("message", "reason", "is_retryable", "remedy"),
    [
        ("Cluster x must be InService, is Creating.", Reason.WAITING_FOR_CLOUD, True, "lifecycle scripts"),
        ("The cluster is not in service.", Reason.WAITING_FOR_CLOUD, True, "lifecycle scripts"),
        ("The cluster's status is Updating", Reason.WAITING_FOR_CLOUD, True, "lifecycle scripts"),
        (
            "Your cluster must use Amazon EKS as the orchestrator and be in the InService state.",
            Reason.WAITING_FOR_CLOUD,
            True,
            "lifecycle scripts",
        ),
        (
            "Only EKS orchestrated clusters are supported.",
            Reason.ATTACH_UNSUPPORTED,
            False,
            "attach_api: none",
        ),
        ("Operation is not supported for Slurm", Reason.ATTACH_UNSUPPORTED, False, "attach_api: none"),
        ("Node is part of a Restricted Instance Group", Reason.ATTACH_UNSUPPORTED, False, "not restricted"),
        ("RIG nodes are not supported", Reason.ATTACH_UNSUPPORTED, False, "not restricted"),
        ("Node i-1 is not in Running state", Reason.WAITING_FOR_CLOUD, True, "describe-cluster-node"),
        ("Volume must be in available state", Reason.WAITING_FOR_CLOUD, True, "looks again"),
        ("Volume and node lie in different Availability Zones", Reason.WRONG_ZONE, False, "snapshot"),
        ("Something else is wrong", Reason.CLOUD_ERROR, False, "class, size or ID"),
        (
            "1 validation error detected: Value 'x' at 'nodeId' failed to satisfy constraint: cluster state",
            Reason.CLOUD_ERROR,
            False,
            "class, size or ID",
        ),
        (
            "HyperPod - Ec2ErrCode: AttachmentLimitExceeded - the node's state in the cluster",
            Reason.ATTACHMENT_LIMIT,
            True,
            "Detach",
        ),
    ],
)
def test_refusals_of_hyperpod_have_reasons_of_their_own(
    message: str, reason: Reason, remedy: str, *, is_retryable: bool
) -> None:
    """What HyperPod refuses is told by its words: what passes by itself is waited for, the rest is final."""
    error = explain_hyperpod(message)
    assert (error.reason, error.retryable) == (reason, is_retryable)
    assert message.partition("ErrCode: ")[2] or message in error.message
    assert remedy in str(error.hint)
    assert error.retry_after_s <= 15 or reason is not Reason.WAITING_FOR_CLOUD


def test_words_of_other_calls_are_not_hyperpods() -> None:
    """What is said of a cluster's state by another call keeps its meaning."""
    failure = Failure(
        "sagemaker", "ListClusterNodes", "ValidationException", "The cluster must be InService."
    )
    assert explain_failure(failure).reason is Reason.CLOUD_ERROR


def test_unknown_failure_keeps_aws_words() -> None:
    """A code nobody foresaw is told in AWS's own words, with the request to quote to support."""
    error = explain("BrandNewProblem", "The moon is too low.")
    assert "BrandNewProblem" in error.message
    assert "The moon is too low." in error.message
    assert "req-1" in error.message


def test_server_failures_are_told_apart_from_refusals() -> None:
    """A status of 500 and more is AWS's trouble, whatever its code."""
    assert "AWS failed to serve" in explain("Strange", status=502).message


def test_braces_of_aws_are_harmless() -> None:
    """Words of AWS are never taken for a template."""
    assert "{0}{user.__class__}" in explain("BrandNew", "{0}{user.__class__}").message


def test_throttling_is_known() -> None:
    """Only where AWS did nothing may a change be asked for again at once."""
    assert is_throttled("RequestLimitExceeded")
    assert not is_throttled("InternalError")
