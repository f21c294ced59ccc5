"""Reads out of a denial which policy stands in the way, and so where it is to be mended.

The words are AWS's, the same for all services. Source: IAM user guide, "Troubleshoot access denied error
messages".
"""

from __future__ import annotations

import re

from agent.cloud.aws.iam_statements import WHERE_IT_GOES, WHERE_KMS_GOES

_WHY = re.compile(
    r"\b(because no (?:[A-Za-z -]+ policy|permissions boundary) allows"
    r"|with an explicit deny in an? [A-Za-z -]+)"
)
_ENCODED = re.compile(r"Encoded authorization failure message:?\s*([A-Za-z0-9_=-]+)")

_PLACES = (
    ("VPC endpoint policy", "the policy of the VPC endpoint through which this node asks"),
    ("permissions boundary", "the permissions boundary of the role"),
    ("service control policy", "the service control policies (SCPs) of the organization"),
    ("resource control policy", "the resource control policies (RCPs) of the organization"),
    ("session policy", "the session policy that the role was assumed with"),
)


def find_why(message: str) -> str | None:
    """Return AWS's words for what denies, as ``because no VPC endpoint policy allows``; None without any."""
    found = _WHY.search(message)
    return None if found is None else " ".join(found[1].split())


def find_encoded(message: str) -> str | None:
    """Return what ``aws sts decode-authorization-message`` makes readable; None where AWS sent none."""
    found = _ENCODED.search(message)
    return None if found is None else found[1]


def name_remedy(action: str, message: str) -> str:
    """Return where ``action`` is to be allowed, or no longer to be denied."""
    why = find_why(message) or ""
    own = WHERE_KMS_GOES if action.startswith("kms:") else WHERE_IT_GOES
    place = next((where for words, where in _PLACES if words in why), None)
    if "explicit deny" not in message:
        return f"Add {action} to {place or own}"
    if place is None and "identity-based" in why:
        place = WHERE_IT_GOES
    if place is not None:
        return f"Take the explicit deny of {action} out of {place}"
    also = "an explicit deny stands in the way, look at permission boundaries and SCPs too"
    return f"Add {action} to {own}; {also}"
