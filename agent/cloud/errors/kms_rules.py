"""What refusals for a KMS key mean. EC2 has no list of their codes, and some are told in words alone.

Codes seen: ``Client.InvalidKMSKey.InvalidState`` of instances and volumes (AWS re:Post, public issues). Those
that begin with KMS are the key service's own, passed on, as is DisabledException (KMS API reference).
"""

from __future__ import annotations

import re

from agent.cloud.aws.iam_statements import WHERE_KMS_GOES
from agent.cloud.errors.rule_type import Rule
from agent.core.model import Reason

KMS = Rule(
    Reason.PERMISSION_DENIED,
    "The KMS key of the volume cannot be used: {message}",
    f"kms:CreateGrant and kms:DescribeKey have to be allowed in {WHERE_KMS_GOES}, and the key enabled. "
    "`ebs-agent iam-policy --kms` prints the statement. A key whose deletion is pending is saved by `aws kms "
    "cancel-key-deletion`; once it is deleted, what it encrypted is lost.",
    retry_after_s=300.0,
)

NOT_ACCESSIBLE_CODE = "KMSKeyNotAccessible"
"""Stands for every code, and all words, that say that the key cannot be used."""

BY_CODE: dict[str, Rule] = {NOT_ACCESSIBLE_CODE: KMS}

_CODE = re.compile(r"(?:Client\.)?(?:InvalidKms|KMS|DisabledException$)", re.IGNORECASE)
_KEY = r"(?:KMS key|customer master key|\bCMK\b|arn:aws[a-z-]*:kms:)"
_TROUBLE = (
    r"(?:disabled|pending (?:deletion|import)|inaccessible|not accessible|does not exist|not found|"
    r"(?:incorrect|invalid) state|unavailable)"
)
_WORDS = re.compile(f"{_KEY}.*{_TROUBLE}|{_TROUBLE}.*{_KEY}", re.IGNORECASE | re.DOTALL)


def find_kms_code(code: str, message: str) -> str:
    """Return the one code for a key that cannot be used where code or words say so, else ``code``.

    Not where an action is missing: a denial names it.
    """
    if "not authorized to perform" in message:
        return code
    return NOT_ACCESSIBLE_CODE if _CODE.match(code) or _WORDS.search(message) else code
