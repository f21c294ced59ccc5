"""In which availability zone this node is: by its name, which is an account's own, and its ID, which is not.

On HyperPod the metadata service answers as the account has it that the instance runs in, which is AWS's. What
it calls the zone may be another zone's name in the customer's account; the ID means the same zone to all.
"""

from __future__ import annotations

import re

from msgspec import Struct

from agent.cloud.identity.identity_sources import IdentitySources, ask_metadata

_ID_PATH = "/latest/meta-data/placement/availability-zone-id"
_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*-az[0-9]+", re.ASCII)
"""``usw2-az1``; ``usw2-lax1-az1`` of a local zone."""


class Zone(Struct, frozen=True):
    """An availability zone; None is what is not known of it."""

    name: str | None = None
    zone_id: str | None = None


async def ask_zone(surroundings: IdentitySources) -> Zone:
    """Return what the metadata service says, the name as the instance's account has it."""
    answer = await ask_metadata(surroundings)
    return Zone(answer.zone, None if answer.problem else await _ask_id(surroundings))


async def _ask_id(surroundings: IdentitySources) -> str | None:
    endpoint, timeout_s = surroundings.metadata_endpoint, surroundings.metadata_timeout_s
    if endpoint is None:
        return None
    try:
        (answer,) = await surroundings.fetch(endpoint, (_ID_PATH,), timeout_s)
        said = answer.take()
    except (OSError, ValueError):
        return None
    text = said.decode("ascii", "replace").strip()
    return text if _ID.fullmatch(text) else None


def choose_zone(asked: Zone, *, by_policy: str | None, by_account: str | None, is_hyperpod: bool) -> Zone:
    """Return the zone as it may be told to the customer's cluster.

    ``asked``: by the metadata service; ``by_account``: as AWS calls it to the customer's account.
    """
    by_metadata = None if is_hyperpod else asked.name
    return Zone(by_policy or by_account or by_metadata, asked.zone_id)
