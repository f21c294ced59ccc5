"""Types of the values of ``agent.csi``: names, places and numbers of Kubernetes."""

from __future__ import annotations

import re
from typing import Annotated, Any

from agent.core.errors import InvalidValueError
from agent.core.quoting import quote
from agent.policy.values.annotations import Between, Read, Shown
from agent.policy.values.mount_path import parse_directory

DRIVER_PATTERN = r"^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$"
"""A DNS name: of it kubelet makes directories, and the cluster objects."""

POLICY_DRIVER = "policy.ebs.csi.hyperpod-agent"
"""Name of the driver that publishes the policy's own volumes to pods."""

MAX_DRIVER = 63
"""Characters, by CSI's own bound."""

ZONE_PATTERN = r"^[a-z]{2}(?:-[a-z0-9]+)+-[0-9][a-z]$"
"""An availability zone's name, local zones among them."""

MAX_ATTACHMENTS = 1000
"""More than any instance takes."""


def _parse_driver(value: Any) -> str:
    is_name = isinstance(value, str) and re.fullmatch(DRIVER_PATTERN.removesuffix("$"), value, re.ASCII)
    if not is_name or len(value) > MAX_DRIVER or ".." in value:
        raise InvalidValueError(
            f"{quote(value)} is not a driver's name.",
            "It is a DNS name of 63 characters at most, as in ebs.csi.hyperpod-agent",
        )
    if value == POLICY_DRIVER:
        raise InvalidValueError(
            f"{value} is the name under which the policy's own volumes are published.",
            "Choose another, as in ebs.csi.hyperpod-agent",
        )
    return str(value)


def _parse_root(value: Any) -> str | None:
    if value == "auto":
        return None
    if not isinstance(value, str):
        raise InvalidValueError(
            f"{quote(value)} is not a path.", "Write auto, or a path as in /var/lib/kubelet"
        )
    return parse_directory(value)


def _parse_limit(value: Any) -> int | None:
    if value == "auto":
        return None
    if type(value) is not int or not 1 <= value <= MAX_ATTACHMENTS:
        raise InvalidValueError(
            f"{quote(value, 40)} is not auto, nor a number of volumes.",
            f"Write auto, or a number from 1 to {MAX_ATTACHMENTS}.",
        )
    return value


def _parse_zone(value: Any) -> str | None:
    if value == "auto":
        return None
    if not isinstance(value, str) or not re.fullmatch(ZONE_PATTERN.removesuffix("$"), value, re.ASCII):
        raise InvalidValueError(
            f"{quote(value, 80)} is not a zone.", "Write auto, or a zone's name as in us-west-2a"
        )
    return value


DriverName = Annotated[
    str,
    Read(_parse_driver),
    Shown(
        {
            "type": "string",
            "pattern": DRIVER_PATTERN,
            "maxLength": MAX_DRIVER,
            "not": {"const": POLICY_DRIVER},
        }
    ),
]
KubeletRoot = Annotated[
    str | None,
    Read(_parse_root),
    Shown({"type": "string", "pattern": "^(?:auto$|/)"}),
]
"""None: where kubelet keeps it unless it is told otherwise."""
AttachLimit = Annotated[
    int | None,
    Read(_parse_limit),
    Shown({"oneOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_ATTACHMENTS}]}),
]
"""None: what the instance has room for."""
ZoneName = Annotated[
    str | None,
    Read(_parse_zone),
    Shown({"oneOf": [{"const": "auto"}, {"type": "string", "pattern": ZONE_PATTERN}]}),
]
"""None: as AWS tells it."""
Reserved = Annotated[int, Between(0, MAX_ATTACHMENTS)]
