"""Asks AWS about all volumes this node has to do with, in as few calls as they can be asked in.

One DescribeVolumes for every volume known by ID, one for everything that carries this node's or its
cluster's marks, and one for all entries that are still looking for a volume by tags of the same keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from agent.cloud.aws.answer_fields import Unread, split
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DescribeVolumes, DescribeVolumesModifications
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_GROUP,
    TAG_MADE_BY,
    TAG_NODE,
    CloudVolume,
    Modification,
)
from agent.cloud.aws.request_syntax import Pattern
from agent.cloud.plan.attach_volume import is_matching
from agent.cloud.plan.claims.wanted_volume import CLUSTER_WIDE, WantedVolume
from agent.cloud.plan.decisions import NodeView
from agent.core.model import Origin, VolumeId
from agent.policy.entries import Match, VolumeEntry

Described: TypeAlias = "tuple[CloudVolume | Unread, ...]"
"""Volumes, and what could not be read of them: each function says what it asked for."""

_FILTER_VALUES = 200
"""Values all filters of one call take. Source: EC2's error code FilterLimitExceeded."""


async def describe_known(make: Make, volume_ids: Iterable[VolumeId]) -> Described:
    """Describe volumes by ID; one that is gone is simply not among them."""
    wanted = sorted(volume_ids)
    found: list[CloudVolume | Unread] = []
    for start in range(0, len(wanted), _FILTER_VALUES):
        chunk = tuple(wanted[start : start + _FILTER_VALUES])
        found += await make(DescribeVolumes((("volume-id", chunk),)))
    return tuple(found)


async def describe_marked(make: Make, node: NodeView) -> Described:
    """Describe all volumes the agent made for this node, or for the whole cluster."""
    own = None if node.node_key is None else (node.cluster_key, node.node_key)
    shared = None if node.shared_key is None else (node.shared_key, CLUSTER_WIDE)
    asked = [pair for pair in (own, shared) if pair is not None]
    filters = (
        (f"tag:{TAG_MADE_BY}", (MADE_BY,)),
        (f"tag:{TAG_CLUSTER}", tuple(sorted({cluster for cluster, _ in asked}))),
        (f"tag:{TAG_NODE}", tuple(node_key for _, node_key in asked)),
    )
    if not asked:
        return ()
    return tuple(await make(DescribeVolumes(filters)))


async def describe_pools(
    make: Make, wanted: Sequence[WantedVolume], state: str, last_digit: str | None = None
) -> Described:
    """Describe the volumes in ``state`` of the pools that these claims of one node are served from.

    ``last_digit``: only a sixteenth of them, those whose last holder's ID ends so.
    """
    holder = () if last_digit is None else ((f"tag:{TAG_NODE}", (Pattern(f"*{last_digit}"),)),)
    filters = (
        *holder,
        (f"tag:{TAG_MADE_BY}", (MADE_BY,)),
        (f"tag:{TAG_CLUSTER}", tuple(sorted({one.cluster for one in wanted}))),
        (f"tag:{TAG_GROUP}", tuple(sorted({str(one.group) for one in wanted}))),
        (f"tag:{TAG_CLAIM}", tuple(sorted({one.name for one in wanted}))),
        ("availability-zone", tuple(sorted({one.zone for one in wanted}))),
        ("status", (state,)),
    )
    return tuple(await make(DescribeVolumes(filters)))


async def describe_matching(make: Make, matches: Iterable[Match], zone: str | None) -> Described:
    """Describe the volumes that entries mean by their tags; one call for all that ask by the same keys.

    Only this zone's can come here. Those of others are described for the entries that find none, to say so.
    """
    wanted = tuple(matches)
    found = await _describe_tagged(make, wanted, zone)
    if zone is not None:
        read, _ = split(found)
        missed = [match for match in wanted if not any(is_matching(match, volume) for volume in read)]
        found = (*found, *await _describe_tagged(make, missed, None))
    return found


async def _describe_tagged(make: Make, matches: Iterable[Match], zone: str | None) -> Described:
    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for match in matches:
        tags = match.tags or {}
        groups.setdefault(tuple(sorted(tags)), []).append(tags)
    found: list[CloudVolume | Unread] = []
    for keys, alike in groups.items():
        most = max((_FILTER_VALUES - 1) // len(keys), 1)
        for start in range(0, len(alike), most):
            chunk = alike[start : start + most]
            filters = [(f"tag:{key}", tuple(sorted({tags[key] for tags in chunk}))) for key in keys]
            filters += [] if zone is None else [("availability-zone", (zone,))]
            found += await make(DescribeVolumes(tuple(filters)))
    return tuple(found)


def is_searchable(entry: VolumeEntry) -> bool:
    """Return whether the entry is looking for a volume that only AWS can name.

    Only tags name one: a type or a size alone would reach for volumes that are anybody's. Device names are
    chosen when a volume is attached, so they name none that is not.
    """
    match = entry.match
    return bool(
        match and match.volume_id is None and match.tags and not entry.claim and match.device_name is None
    )


async def describe_modifications(make: Make, volume_ids: Iterable[VolumeId]) -> dict[VolumeId, Modification]:
    """Return the last modification of each volume that ever had one."""
    wanted = tuple(sorted(volume_ids))
    if not wanted:
        return {}
    found: Sequence[Modification] = await make(DescribeVolumesModifications(wanted))
    last: dict[VolumeId, Modification] = {}
    for one in sorted(found, key=lambda one: one.started_at):
        last[one.volume_id] = one
    return last


def make_origin(volume: CloudVolume) -> Origin:
    """Return what the node half has to know of where a volume comes from."""
    return Origin(
        snapshot_id=volume.snapshot_id,
        source_volume_id=volume.copy_of,
        tags=volume.tags,
        type=volume.type,
        is_multi_attach=volume.is_multi_attach,
    )
