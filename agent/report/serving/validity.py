"""Until when a certificate of one's own is valid: read from its DER, since Python's library does not say.

Only of certificates that OpenSSL has taken: what is malformed is none of theirs, and has no date.
"""

from __future__ import annotations

import binascii
from datetime import datetime, timezone

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_LONG_FORM = 0x80
_UTC_TIME_DIGITS = 13
_PIVOT_YEAR = 50
"""Of RFC 5280: a UTCTime's year from 50 on is of the last century."""


def find_expiry(pem: bytes) -> float | None:
    """Return when the first certificate of a PEM file ends, in seconds since 1970; None: there is none."""
    _, begin, rest = pem.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin or not end:
        return None
    try:
        return _read_expiry(binascii.a2b_base64(body.decode("ascii")))
    except (ValueError, IndexError):
        return None


def _read_expiry(der: bytes) -> float:
    """Return ``notAfter``: Certificate → TBSCertificate → validity, as RFC 5280, 4.1, has them."""
    _, certificate, _ = _read_value(der, 0)
    _, signed, _ = _read_value(certificate, 0)
    kind, _, at = _read_value(signed, 0)
    # A version may stand before number, signature algorithm and issuer.
    for _ in range(3 if kind == _VERSION else 2):
        _, _, at = _read_value(signed, at)
    _, validity, _ = _read_value(signed, at)
    _, _, at = _read_value(validity, 0)
    kind, text, _ = _read_value(validity, at)
    return _read_time(kind, text.decode("ascii")).timestamp()


def _read_time(kind: int, text: str) -> datetime:
    if kind == _UTC_TIME and len(text) == _UTC_TIME_DIGITS:
        text = f"{'19' if int(text[:2]) >= _PIVOT_YEAR else '20'}{text}"
    elif kind != _GENERALIZED_TIME:
        raise ValueError(f"a time of kind {kind}")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _read_value(der: bytes, at: int) -> tuple[int, bytes, int]:
    """Return the tag and the content of the value at a place, and the place behind it."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length >= _LONG_FORM:
        size = length - _LONG_FORM
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    if start + length > len(der):
        raise ValueError("a value that is longer than what it is in")
    return tag, der[start : start + length], start + length
