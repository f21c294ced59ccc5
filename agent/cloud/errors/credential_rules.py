"""What AWS's and botocore's errors about credentials, clocks and accounts mean, as data."""

from __future__ import annotations

import re

from agent.cloud.errors.rule_type import Rule
from agent.core.model import Reason

NO_CREDENTIALS = Rule(
    Reason.PERMISSION_DENIED,
    "There are no AWS credentials on this node for {operation}.",
    "Give the instance group an execution role, or set cloud.enabled: false to work without AWS.",
    retry_after_s=300.0,
)
UNAVAILABLE = Rule(
    Reason.PERMISSION_DENIED,
    "This node's AWS credentials cannot be had for {operation} ({code}): {message}",
    "What AWS_PROFILE, AWS_CONFIG_FILE or the like name in the unit's environment has to be there, and to be "
    "read by {worker}; `ebs-agent doctor` shows that environment. Without it the role is used.",
    retry_after_s=300.0,
)
ACCOUNT = Rule(
    Reason.PERMISSION_DENIED,
    "AWS lets this account do nothing for now ({code}): {message}",
    "The account is blocked, or still being verified: its owner has to ask AWS Support.",
    retry_after_s=900.0,
)
NOT_ACCEPTED = Rule(
    Reason.PERMISSION_DENIED,
    "AWS does not accept this node's credentials for {operation} ({code}): {message}",
    "Is the node's clock right (timedatectl)? Are the credentials of this partition, their role or key not "
    "deleted, and the region enabled for the account? The unit's environment may set others than the role's.",
    retry_after_s=300.0,
)
EXPIRED = Rule(
    Reason.PERMISSION_DENIED,
    "This node's AWS credentials have expired for {operation} ({code}): {message}",
    "Those of a role are renewed by themselves: is the node's clock right (timedatectl)? Those that the "
    "unit's environment or a file gives have to be given anew.",
    retry_after_s=60.0,
)
CLOCK = Rule(
    Reason.PERMISSION_DENIED,
    "AWS takes {operation} for sent at another time ({code}): {message}",
    "Is the node's clock right? timedatectl tells; chronyd or systemd-timesyncd has to run and reach its "
    "server (169.254.169.123 on EC2).",
    retry_after_s=60.0,
)
NO_REGION = Rule(
    Reason.WAITING_FOR_CLOUD,
    "It is not known in which region {operation} is to be asked.",
    "It passes once resource_config.json or the instance metadata tells; `ebs-agent doctor` shows what they "
    "say. AWS_REGION in the unit's environment tells it as well.",
    retry_after_s=15.0,
)

BY_CODE: dict[str, Rule] = {
    "NoCredentialsError": NO_CREDENTIALS,
    **dict.fromkeys(
        (
            "PartialCredentialsError",
            "CredentialRetrievalError",
            "MetadataRetrievalError",
            "ProfileNotFound",
            "ConfigNotFound",
            "ConfigParseError",
            "InvalidConfigError",
            "InfiniteLoopConfigError",
            "RefreshWithMFAUnsupportedError",
            "SSOTokenLoadError",
            "TokenRetrievalError",
            "UnauthorizedSSOTokenError",
        ),
        UNAVAILABLE,
    ),
    **dict.fromkeys(("Blocked", "PendingVerification"), ACCOUNT),
    **dict.fromkeys(
        (
            "AuthFailure",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "OptInRequired",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "InvalidSignatureException",
            "InvalidIdentityToken",
            "InvalidIdentityTokenException",
            "IDPRejectedClaim",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
        ),
        NOT_ACCEPTED,
    ),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), EXPIRED),
    **dict.fromkeys(("RequestExpired", "RequestTimeTooSkewed", "RequestInTheFuture"), CLOCK),
    "NoRegionError": NO_REGION,
}

OF_CREDENTIALS = frozenset(
    code for code, rule in BY_CODE.items() if rule in (NO_CREDENTIALS, UNAVAILABLE, NOT_ACCEPTED, EXPIRED)
)
"""Codes of credentials that are not there, or not good: whoever keeps any is to look for others."""

_SIGNATURES = frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure"})
_TIME = re.compile(r"[Ss]ignature (?:expired|not yet current)|[Rr]equest (?:has expired|timestamp)")


def find_clock_code(code: str, message: str) -> str:
    """Return the code of a clock that is wrong where AWS says so of a signature, else ``code``."""
    return "RequestExpired" if code in _SIGNATURES and _TIME.search(message) else code
