"""Chooses in which zones a volume may be made, in which order, and how a claim is told of it. Pure.

Zones are asked for by name or by ID. Whatever else a topology says, as of the operating system, is nothing
that a volume has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from agent.cloud.aws.zones import Zone
from agent.controller.calls import CreateCall, Pairs
from agent.core.errors import AgentError
from agent.core.quoting import quote
from agent.core.reasons import Reason

ZONE_KEY = "topology.kubernetes.io/zone"
NAME_KEYS = (ZONE_KEY, "topology.ebs.csi.aws.com/zone")
ID_KEY = "topology.k8s.aws/zone-id"


def needs_zones(call: CreateCall) -> bool:
    """Return whether AWS is to be asked which zones there are, before one can be chosen."""
    terms = (*call.preferred, *call.requisite)
    return (
        not terms or any(key == ID_KEY for term in terms for key, _ in term) or not all(map(_has_zone, terms))
    )


def list_zones(call: CreateCall, zones: Sequence[Zone]) -> tuple[str, ...]:
    """Return the names of the zones the volume may be made in, best first; AgentError where there is none.

    Where several are as good, the name of what is made decides: whoever asks again tries the same first.
    """
    allowed = _spread(call.requisite, call.name, zones)
    preferred = _spread(call.preferred, call.name, zones)
    ordered = [one for one in preferred if not call.requisite or one in allowed] + list(allowed)
    if not call.requisite and not call.preferred:
        ordered = _shuffle(call.name, zones)
    if not ordered:
        raise AgentError(
            f"The volume {quote(call.name)} is asked for in no zone that this account has.",
            hint="Compare the topology of the StorageClass and of the nodes with "
            "`aws ec2 describe-availability-zones`; names of zones differ between accounts, IDs do not.",
            reason=Reason.WRONG_ZONE,
        )
    return tuple(dict.fromkeys(ordered))


def describe_place(call: CreateCall, zone: str, zones: Sequence[Zone]) -> Pairs:
    """Return where a volume in this zone can be used, by the keys with which that was asked for."""
    for term in (*call.preferred, *call.requisite):
        if _has_zone(term) and zone in _match(term, zones):
            return tuple((key, value) for key, value in term if key in NAME_KEYS or key == ID_KEY)
    return ((ZONE_KEY, zone),)


def _spread(terms: Iterable[Pairs], name: str, zones: Sequence[Zone]) -> list[str]:
    found: list[str] = []
    for term in terms:
        found += _match(term, zones) if _has_zone(term) else _shuffle(name, zones)
    return found


def _has_zone(term: Pairs) -> bool:
    return any(key in NAME_KEYS or key == ID_KEY for key, _ in term)


def _match(term: Pairs, zones: Sequence[Zone]) -> list[str]:
    """Return the one zone that a topology names, none where it names two, or an ID that is not there."""
    named = {value for key, value in term if key in NAME_KEYS}
    for zone_id in (value for key, value in term if key == ID_KEY):
        named |= {next((zone.name for zone in zones if zone.zone_id == zone_id), "")}
    return [*named] if len(named) == 1 and "" not in named else []


def _shuffle(name: str, zones: Sequence[Zone]) -> list[str]:
    def weigh(zone: Zone) -> bytes:
        return hashlib.sha256(f"{name}\0{zone.name}".encode()).digest()

    return [zone.name for zone in sorted(zones, key=weigh) if zone.is_ordinary]
