"""What a person asks of claims' volumes that nobody holds: which there are, and to delete one.

Nothing is deleted but the one volume that was named, and that only if nothing in the policy means it, nobody
has it attached, and AWS proves that the node whose name it bears is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.calls import DeleteVolume, DescribeVolumes
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_HELD_SINCE,
    TAG_MADE_BY,
    TAG_NODE,
    CloudVolume,
)
from agent.cloud.errors.explain import explain_unread, require_read
from agent.cloud.identity.last_identity import StrangerError
from agent.cloud.orders.runner import Follower
from agent.cloud.plan.claims.orphan_expiry import find_obstacle
from agent.cloud.plan.claims.pools import find_last_holder
from agent.cloud.plan.decisions import NodeView
from agent.cloud.plan.instance_gone import find_gone
from agent.cloud.view.describe_all import describe_known
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import VolumeId
from agent.core.units import GIB
from agent.policy import Policy


class Orphan(Struct, frozen=True):
    """A claim's volume that nobody holds."""

    volume: CloudVolume
    obstacle: str | None
    """Why it is not deleted by order, in a clause; None: it may be."""


class OrphanOrders:
    """Carries orders out with the daemon's own client."""

    def __init__(self, follower: Follower, node: NodeView, policy: Policy) -> None:
        self._follower = follower
        self._make = follower.make
        self._node = node
        self._policy = policy

    async def find(self) -> list[Orphan]:
        """Return the volumes of this cluster's claims that are attached nowhere, oldest first."""
        clusters = {self._node.cluster_key, self._node.shared_key or self._node.cluster_key}
        filters = (
            (f"tag:{TAG_MADE_BY}", (MADE_BY,)),
            (f"tag:{TAG_CLUSTER}", tuple(sorted(clusters))),
            ("status", ("available",)),
        )
        found, unread = split(await self._make(DescribeVolumes(filters)))
        for one in unread:
            await self._follower.say(explain_unread(one).message)
        left = [volume for volume in found if volume.tag(TAG_CLAIM) is not None and not volume.attachments]
        return await self._judge(sorted(left, key=lambda one: (one.created_at, one.volume_id)))

    async def _judge(self, volumes: Sequence[CloudVolume]) -> list[Orphan]:
        holders = sorted({holder for holder in map(find_last_holder, volumes) if holder is not None})
        try:
            gone = await find_gone(self._make, self._node, holders)
        except StrangerError as error:
            await self._follower.say(error.message)
            gone = frozenset()
        return [Orphan(volume, find_obstacle(volume, self._policy, gone)) for volume in volumes]

    async def delete(self, volume_id: VolumeId) -> None:
        """Delete one volume that was named; RefusedError says why not."""
        for volume in require_read(await describe_known(self._make, [volume_id])):
            self._check_kind(volume)
            (orphan,) = await self._judge([volume])
            if orphan.obstacle is not None:
                raise _refuse(f"{volume_id} is not deleted: {orphan.obstacle}.")
            await self._make(DeleteVolume(volume_id))
            await self._follower.say(f"{volume_id} is deleted.")
            return
        raise AgentError(
            f"AWS knows no {volume_id} in this account and region.",
            hint="`ebs-agent orphans` lists those there are.",
            retryable=False,
        )

    def _check_kind(self, volume: CloudVolume) -> None:
        clusters = {self._node.cluster_key, self._node.shared_key}
        is_ours = volume.is_made_by_agent and volume.tag(TAG_CLUSTER) in clusters
        if not is_ours or volume.tag(TAG_CLAIM) is None:
            raise _refuse(f"{volume.volume_id} is no volume of a claim of this cluster.")
        if volume.attachments or volume.state != "available":
            raise _refuse(f"{volume.volume_id} is {volume.state}.")


def show_orphan(orphan: Orphan) -> dict[str, Any]:
    """Return an orphan as JSON."""
    volume = orphan.volume
    return {
        "volume_id": volume.volume_id,
        "claim": volume.tag(TAG_CLAIM),
        "size_bytes": volume.size_gib * GIB,
        "type": volume.type,
        "zone": volume.zone,
        "created_at": volume.created_at,
        "last_holder": volume.tag(TAG_NODE),
        "held_since": volume.tag(TAG_HELD_SINCE) or volume.created_at,
        "may_be_deleted": orphan.obstacle is None,
        "obstacle": orphan.obstacle,
    }


def _refuse(message: str) -> RefusedError:
    return RefusedError(
        message,
        "Where you are sure, delete it in the EC2 console.",
        retryable=False,
        exit_code=ExitCode.REFUSED,
    )
