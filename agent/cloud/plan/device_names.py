"""Chooses the block device name under which EC2 attaches a volume: one that is free, as far as is known.

The kernel ignores these names, EC2 does not: it refuses one that is in use. Source: the EC2 guide, "Device
names on Linux instances".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from agent.cloud.aws.call import Change
from agent.cloud.aws.calls import AttachVolume
from agent.cloud.aws.models import CloudVolume

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NAMES = (
    *(f"/dev/sd{letter}" for letter in "fghijklmnop"),
    *(f"/dev/xvd{first}{second}" for first in "bcd" for second in _LETTERS),
)
"""Names EC2 recommends for data volumes, then more."""
_POINT = re.compile(r"(?:/dev/)?(?:sd|xvd)([a-z]+)[0-9]*")


def choose_device_name(used: Collection[str]) -> str | None:
    """Return a name for the next volume; None where all are taken."""
    points = {_find_point(name) for name in used}
    return next((name for name in _NAMES if _find_point(name) not in points), None)


def _find_point(name: str) -> str:
    """Return what of a name tells two attachments apart: ``sdf``, ``/dev/xvdf`` and ``/dev/sdf1`` are one."""
    found = _POINT.fullmatch(name)
    return found[1] if found else name


def list_attached_names(volumes: Iterable[CloudVolume], instance_id: str) -> frozenset[str]:
    """Return the names under which AWS describes volumes as attached to the instance."""
    held = (volume.attachment_to(instance_id) for volume in volumes)
    return frozenset(one.device for one in held if one is not None and one.device)


def list_given_names(calls: Iterable[Change[object]]) -> frozenset[str]:
    """Return the names that these calls gave."""
    return frozenset(call.device for call in calls if isinstance(call, AttachVolume))
