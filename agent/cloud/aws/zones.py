"""The call that asks how this account names its availability zones.

A zone's name may mean another zone in another account; its ID, as in ``usw2-az1``, means one in all of them.
Source: the EC2 user guide, "Availability Zones".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import Members
from agent.cloud.aws.call import Call

_ZONES_LIMIT = 256


class Zone(Struct, frozen=True):
    """One availability zone, or a local one."""

    name: str
    """``us-west-2a``"""
    zone_id: str
    """``usw2-az1``"""
    is_ordinary: bool = True
    """It is neither a local zone nor one of a carrier's network."""


def _parse_zones(value: Any) -> tuple[Zone, ...]:
    """Return DescribeAvailabilityZones' ``AvailabilityZones``."""
    listed = Members(value, "the answer").list("AvailabilityZones", _ZONES_LIMIT)
    zones = (Members(one, "a zone") for one in listed)
    return tuple(
        Zone(
            zone.text("ZoneName"),
            zone.text("ZoneId"),
            is_ordinary=zone.find_text("ZoneType") in {None, "availability-zone"},
        )
        for zone in zones
    )


@dataclass(frozen=True)
class DescribeAvailabilityZones(Call[tuple[Zone, ...]], reads=_parse_zones):
    """The zones of the region that this account has."""
