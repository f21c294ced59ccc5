"""Takes out of what a bug report holds what is nobody else's: beside what the agent shows to nobody, secrets.

A net for what others have written, not a proof: whoever hands an archive on is told to look through it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from agent.report.endpoints.redaction import WITHHELD, redact

_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b")
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html"""
_NAMED = re.compile(
    r"""(?i)\b([\w-]{0,40}(?:secret|token|password|passwd|passphrase|api[_-]?key)(?:[_-]?(?:access[_-]?key|value))?)"""
    r"""(\\?["']?\s{0,8}[=:]\s{0,8}\\?["']?)([^\s"',;&\\]+)"""
)
"""What stands after such a name: in the environment, YAML, JSON, a query or an option."""
_BEARER = re.compile(r"(?i)\b(bearer|basic) [\w.~+/=-]{8,}")
_USER_OF_URL = re.compile(r"(?<=://)[^\s/@:]{1,200}:[^\s/@]{1,200}(?=@)")
_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z ]{0,40}PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)


def withhold(found: Any) -> str:
    """Return bytes as text, or anything else as JSON, without what is private."""
    if isinstance(found, bytes):
        text = redact(found.decode("utf-8", "replace"))
    else:
        text = json.dumps(redact(found), indent=1)
    text = _PRIVATE_KEY.sub(WITHHELD, text)
    text = _NAMED.sub(rf"\1\2{WITHHELD}", text)
    text = _BEARER.sub(rf"\1 {WITHHELD}", text)
    return _ACCESS_KEY.sub(WITHHELD, _USER_OF_URL.sub(WITHHELD, text))
