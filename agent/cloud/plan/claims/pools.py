"""Decides how a node whose name ends with it gets a volume for a claim: one that a node before it has left.

Where an instance's name holds its own ID, as on HyperPod with EKS, a replacement has another name, and its
claims would begin with blank volumes. There a claim's volumes of one cluster, instance group and zone are a
pool: a free one whose last holder is proven gone is taken over, and one is made only where there is none.

Two nodes never take one volume: attaching succeeds for one of them, and only who is attached writes its name
on it. Until that name is described the volume is nobody's, and nothing is done with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence

from agent.cloud.aws.calls import CreateTags
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_DELETE_AFTER,
    TAG_GROUP,
    TAG_HELD_SINCE,
    TAG_MADE_BY,
    TAG_NODE,
    TAG_UNHELD,
    CloudVolume,
)
from agent.cloud.plan.attach_volume import plan_attach
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.cloud.plan.decisions import Decision, Do, NodeView, make_detach_call
from agent.cloud.state.made_volumes import Making
from agent.core.model import Reason, VolumeId
from agent.core.steps import Wait

_INSTANCE_IN_NAME = re.compile(r"(?:^|-)(i-(?:[0-9a-f]{17}|[0-9a-f]{8}))$", re.ASCII)


class Take(Do, frozen=True):
    """Attach a volume that others may be after, too: who is told that it is in use has lost it to them."""

    key: str
    """The claim's, under which it is remembered that the volume is being taken."""
    volume_id: VolumeId


def find_last_holder(volume: CloudVolume) -> str | None:
    """Return the instance that had the volume last, by its name on it; None where the name tells none."""
    found = _INSTANCE_IN_NAME.search(volume.tag(TAG_NODE) or "")
    return found[1] if found else None


def find_pool(wanted: WantedVolume, volumes: Iterable[CloudVolume]) -> tuple[CloudVolume, ...]:
    """Return the volumes of the claim's pool, whoever has them."""
    marks = {
        TAG_MADE_BY: MADE_BY,
        TAG_CLUSTER: wanted.cluster,
        TAG_CLAIM: wanted.name,
        TAG_GROUP: wanted.group,
    }
    return tuple(
        volume
        for volume in volumes
        if wanted.is_pooled
        and volume.zone == wanted.zone
        and not (volume.is_gone or volume.is_csi or volume.is_multi_attach)
        and all(volume.tag(key) == value for key, value in marks.items())
    )


def find_candidates(
    wanted: WantedVolume, pool: Iterable[CloudVolume], node: NodeView
) -> tuple[CloudVolume, ...]:
    """Return what may be taken over: of a last holder proven gone, and held by nobody else."""
    instance_id = node.identity.instance_id or ""

    def rank(volume: CloudVolume) -> tuple[bool, str, str]:
        holder = find_last_holder(volume) or ""
        return bool(volume.attachments), rank_holder(instance_id, holder), volume.volume_id

    left = (
        volume
        for volume in find_pool(wanted, pool)
        if find_last_holder(volume) in node.gone
        and all(one.instance_id in node.gone and node.may_judge(one) for one in volume.attachments)
    )
    return tuple(sorted(left, key=rank))


def choose_share(instance_id: str) -> str:
    """Return the hexadecimal digit with which the IDs end of those whom a node takes over from first."""
    return hashlib.sha256(instance_id.encode()).hexdigest()[0]


def rank_holder(instance_id: str, holder: str) -> str:
    """Return what a node sorts by whom it takes over from: each in an order of its own, all claims alike.

    So nodes seldom reach for the same volumes, and one proof is enough for all that one node has left.
    """
    return hashlib.sha256(f"{instance_id}/{holder}".encode()).hexdigest()


def find_taken(
    wanted: WantedVolume, volumes: Iterable[CloudVolume], node: NodeView
) -> tuple[CloudVolume, ...]:
    """Return the pool's volumes that are attached here under the name of their last holder."""
    instance_id = node.identity.instance_id or ""
    return tuple(
        volume
        for volume in find_pool(wanted, volumes)
        if volume.attachment_to(instance_id) is not None and volume.tag(TAG_NODE) != wanted.node
    )


def plan_pool(
    wanted: WantedVolume,
    volumes: Sequence[CloudVolume],
    node: NodeView,
    making: Making,
    lost: Collection[VolumeId],
) -> Decision | None:
    """Decide how a claim without a volume of its own gets one of the pool; None: there is none to be had.

    ``lost``: volumes that another node was quicker to attach, which is not described yet.
    """
    taken = find_taken(wanted, volumes, node)
    if taken:
        return _plan_naming(wanted, min(taken, key=lambda one: one.volume_id != making.taking), node)
    candidates = find_candidates(wanted, volumes, node)
    here = next((one for one in candidates if one.volume_id in node.devices), None)
    if here is not None:
        return _wait_for_attachment(here)
    if making.taking in {one.volume_id for one in candidates}:
        candidates = tuple(one for one in candidates if one.volume_id == making.taking)
    for volume in candidates:
        if volume.volume_id in lost:
            continue
        if volume.attachments:
            return _plan_freeing(volume, node)
        decision = plan_attach(volume, node)
        return Take(decision.call, wanted.key, volume.volume_id) if isinstance(decision, Do) else decision
    if candidates:
        return Wait(
            Reason.WAITING_FOR_CLOUD,
            f"Other nodes took the free volumes of claim {wanted.name!r}; AWS does not describe it yet.",
        )
    return None


def _plan_naming(wanted: WantedVolume, volume: CloudVolume, node: NodeView) -> Decision:
    """Write this node's name on a volume it has attached, unless another that lives has its name there."""
    here = volume.attachment_to(node.identity.instance_id or "")
    if here is None or here.state not in {"attached", "attaching"}:
        return Wait(Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is leaving this node.")
    if find_last_holder(volume) not in node.gone:
        return Wait(
            Reason.ATTACHED_ELSEWHERE,
            f"{volume.volume_id} is attached here and bears the name of {volume.tag(TAG_NODE)}, which is not "
            "proven gone.",
            hint="The volume is not used here. It is given back.",
        )
    since = (here.attached_at or "")[:19]
    tags = dict(wanted.all_tags) | ({TAG_HELD_SINCE: f"{since}Z"} if since else {})
    tags |= {tag: "" for tag in (TAG_DELETE_AFTER, TAG_UNHELD) if volume.tag(tag)}
    return Do(CreateTags(volume.volume_id, tuple(sorted(tags.items()))))


def _wait_for_attachment(volume: CloudVolume) -> Wait:
    return Wait(
        Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is here; AWS does not describe it as attached yet."
    )


def _plan_freeing(volume: CloudVolume, node: NodeView) -> Decision:
    holder = volume.attachments[0]
    if holder.state == "detaching":
        return Wait(
            Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is leaving {holder.holder}, which is gone."
        )
    return Do(make_detach_call(volume.volume_id, str(holder.instance_id), node))
