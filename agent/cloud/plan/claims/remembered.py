"""Recalls which volumes this node's claims had, for as long as AWS has not said which they have. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.cloud.plan.claims.wanted_volume import find_owner
from agent.cloud.plan.decisions import NodeView
from agent.cloud.state.made_volumes import Makings, make_key
from agent.core.model import VolumeId
from agent.policy.entries import VolumeEntry


def recall_claimed(entries: Iterable[VolumeEntry], node: NodeView, makings: Makings) -> dict[str, VolumeId]:
    """Return, by entry name, the volume that AWS last described as the one of the entry's claim.

    What AWS only answered with, and never described, is not among them: it may have come to nothing. Nor is
    what it was not certain of when AWS was asked last: without marks, or one of several with them.
    """
    return dict(_recall(entries, node, makings))


def _recall(
    entries: Iterable[VolumeEntry], node: NodeView, makings: Makings
) -> Iterator[tuple[str, VolumeId]]:
    for entry in entries:
        if entry.claim is None:
            continue
        cluster, owner = find_owner(entry.claim, node)
        if cluster is None or owner is None:
            continue
        making = makings.get(make_key(cluster, owner, entry.name))
        if making.volume_id is not None and making.is_seen and not making.is_doubted:
            yield entry.name, making.volume_id
