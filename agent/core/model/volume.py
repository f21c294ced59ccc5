"""What a volume is called."""

from __future__ import annotations

import re
from typing import NewType

from agent.core.errors import InvalidValueError
from agent.core.quoting import quote

VolumeId = NewType("VolumeId", str)

_VOLUME_ID = re.compile(r"vol-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)


def parse_volume_id(text: str) -> VolumeId:
    """Return ``text`` as a volume ID, or raise: ``vol-`` and 8 or 17 lower-case hexadecimal digits."""
    if not _VOLUME_ID.fullmatch(text):
        raise InvalidValueError(
            f"{quote(text)} is not an EBS volume ID.",
            hint="An ID is vol- followed by 8 or 17 hexadecimal digits, as in vol-0123456789abcdef0.",
        )
    return VolumeId(text)
