"""Decides what becomes of a volume whose claim is no longer in the policy, and when: never at once.

That a claim is missing may be a slip of the pen, so the time of the deletion is first written on the volume,
where everybody sees it and no restart forgets it. What any entry names or could mean is nobody's to delete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from msgspec import Struct

from agent.cloud.aws.calls import CreateTags, DeleteVolume
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_DELETE_AFTER,
    TAG_MADE_BY,
    TAG_NODE,
    TAG_ON_DELETE,
    CloudSnapshot,
    CloudVolume,
)
from agent.cloud.plan.attach_volume import is_matching, plan_detach
from agent.cloud.plan.claims.last_snapshot import plan_last_snapshot
from agent.cloud.plan.decisions import Decision, Do, NodeView
from agent.core.model import Reason, VolumeId
from agent.core.steps import Wait
from agent.policy import Policy
from agent.policy.entries import VolumeEntry

_TIME = "%Y-%m-%dT%H:%M:%SZ"


class PlannedDeletion(Struct, frozen=True):
    """A volume that is going to be deleted."""

    volume_id: VolumeId
    claim: str
    rule: str
    """snapshot | delete"""
    after: datetime | None
    """UTC; None: it is being written on the volume."""

    def describe(self) -> str:
        """Return in a sentence what is going to happen."""
        when = "after the grace period" if self.after is None else f"after {self.after:%Y-%m-%d %H:%M} UTC"
        last = (
            "a last snapshot is taken of it and it is deleted" if self.rule == "snapshot" else "it is deleted"
        )
        return f"{self.volume_id} has no entry any more: {when} {last}, as claim {self.claim!r} said."


def find_removed(volumes: Iterable[CloudVolume], policy: Policy, node: NodeView) -> tuple[CloudVolume, ...]:
    """Return this node's volumes that nothing in the policy is for; never those of the whole cluster."""
    if node.node_key is None:
        return ()
    marks = {TAG_MADE_BY: MADE_BY, TAG_CLUSTER: node.cluster_key, TAG_NODE: node.node_key}
    return tuple(
        volume
        for volume in volumes
        if not volume.is_gone
        and all(volume.tag(key) == value for key, value in marks.items())
        and volume.tag(TAG_CLAIM) is not None
        and not any(is_meant(entry, volume) for entry in policy.volumes)
    )


def is_meant(entry: VolumeEntry, volume: CloudVolume) -> bool:
    """Return whether an entry, of whatever node, is or could be for the volume.

    A device name is the volume's only while it is attached; an entry that goes by one could mean any.
    """
    if entry.claim is not None:
        return volume.tag(TAG_CLAIM) == entry.name
    return entry.match is not None and is_matching(entry.match, volume)


def find_wanted_again(
    volumes: Iterable[CloudVolume], removed: Sequence[CloudVolume], node: NodeView
) -> tuple[CloudVolume, ...]:
    """Return this node's volumes that were to be deleted, and are wanted again."""
    return tuple(
        volume
        for volume in volumes
        if volume.tag(TAG_DELETE_AFTER)
        and not volume.is_gone
        and volume.is_made_by_agent
        and (volume.tag(TAG_CLUSTER), volume.tag(TAG_NODE)) == (node.cluster_key, node.node_key)
        and volume not in removed
    )


def plan_cancel_deletion(volume: CloudVolume) -> Decision:
    """Take the time of its deletion off a volume that is wanted again."""
    return Do(CreateTags(volume.volume_id, ((TAG_DELETE_AFTER, ""),)))


def find_planned_deletion(volume: CloudVolume) -> PlannedDeletion | None:
    """Return that a volume whose claim is gone is going to be deleted; None: it is retained.

    What the policy said when the claim was in it counts, and is on the volume itself. Anything but an exact
    ``delete`` or ``snapshot`` retains.
    """
    rule = volume.tag(TAG_ON_DELETE)
    if rule not in {"delete", "snapshot"}:
        return None
    return PlannedDeletion(
        volume.volume_id, volume.tag(TAG_CLAIM) or "", rule, parse_time(volume.tag(TAG_DELETE_AFTER))
    )


def parse_time(text: str | None) -> datetime | None:
    """Return the time a tag says; None where it says none."""
    try:
        return datetime.strptime(text or "", _TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def write_time(moment: datetime) -> str:
    """Return a time as tags have it."""
    return f"{moment:{_TIME}}"


def plan_removed(
    volume: CloudVolume,
    snapshots: Sequence[CloudSnapshot],
    node: NodeView,
    *,
    is_released: bool,
    now: datetime,
    deadline: datetime,
    begun: str | None = None,
) -> Decision | None:
    """Decide what becomes of a volume whose claim is gone; None: nothing, for now or for ever.

    ``deadline``: the time of its deletion that is written on it, unless one is. ``begun``: the one of
    ``snapshots``, those taken before the deletion, since whose beginning it was free.
    """
    deletion = find_planned_deletion(volume)
    if deletion is None:
        return None
    instance_id = node.identity.instance_id or ""
    is_here = volume.volume_id in node.devices or volume.attachment_to(instance_id) is not None
    if volume.attachments and not is_here:
        return None
    if deletion.after is None:
        return Do(CreateTags(volume.volume_id, ((TAG_DELETE_AFTER, write_time(deadline)),)))
    if now < deletion.after:
        return None
    if is_here:
        return plan_detach(volume, node, is_released=is_released)
    if volume.state != "available":
        return Wait(
            Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is {volume.state}; it is deleted after that."
        )
    return plan_last_snapshot(volume, snapshots, begun, now) or Do(DeleteVolume(volume.volume_id))
