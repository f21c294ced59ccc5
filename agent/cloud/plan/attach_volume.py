"""Decides how a volume that exists comes to this node: look first, then call, then watch API and device.

Never attaches what the CSI driver owns, never takes a volume from an instance that is not proven gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.cloud.plan.decisions import (
    AttachApi,
    Decision,
    Do,
    NodeView,
    Release,
    Settled,
    explain_no_attach,
    make_attach_call,
    make_detach_call,
)
from agent.core.model import Reason
from agent.core.steps import Refuse, Wait
from agent.policy.entries import Match


def plan_attach(volume: CloudVolume, node: NodeView, *, may_take_over: bool = False) -> Decision:
    """Decide the next thing on the way to having ``volume`` here.

    ``may_take_over``: the volume is this node's claim, so it may be detached from an instance proven gone.
    """
    if volume.is_csi:
        return _refuse_csi(volume)
    unusable = _find_unusable(volume)
    if unusable is not None:
        return unusable
    here = volume.attachment_to(node.identity.instance_id) if node.identity.instance_id else None
    if here is not None:
        return _watch(volume, here, node)
    if volume.volume_id in node.devices:
        return Settled(volume)  # the device itself is the better witness; descriptions lag behind
    if volume.attachments and not volume.is_multi_attach:
        return _plan_held(volume, node, may_take_over=may_take_over)
    return _plan_free(volume, node)


def _refuse_csi(volume: CloudVolume) -> Refuse:
    return Refuse(
        Reason.MANAGED_BY_CSI,
        f"{volume.volume_id} belongs to the EBS CSI driver, as its tags say.",
        hint="Use it through Kubernetes, or take it out of the policy.",
    )


def _find_unusable(volume: CloudVolume) -> Wait | None:
    if volume.is_gone:
        return Wait(
            Reason.NOT_ATTACHED,
            f"{volume.volume_id} is being deleted ({volume.state}).",
            hint="Name another volume in the policy.",
        )
    if volume.state == "creating":
        return Wait(Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is being made.")
    if volume.state == "error":
        return Wait(
            Reason.CLOUD_ERROR,
            f"{volume.volume_id} is in state error: AWS could not make or keep it.",
            hint="A wrong or disabled KMS key is the usual cause. Delete the volume once that is mended.",
        )
    return None


def _watch(volume: CloudVolume, here: CloudAttachment, node: NodeView) -> Decision:
    """Wait for API and device to agree on a volume that is being attached here."""
    if volume.volume_id in node.devices and here.state in {"attached", "attaching"}:
        return Settled(volume)
    if here.state in {"attached", "attaching"}:
        return Wait(
            Reason.NOT_ATTACHED,
            f"{volume.volume_id} is {here.state} to this node, and its device is not here yet.",
            hint="It usually takes seconds. If it stays so: is the NVMe driver loaded, does lsblk show it?",
        )
    if here.state == "busy":
        return Wait(
            Reason.WAITING_FOR_CLOUD,
            f"{volume.volume_id} cannot leave this node: AWS says the device is busy.",
            hint="It was detached while in use. Unmount it, or reboot the node, to let it go.",
        )
    return Wait(Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is {here.state} from this node.")


def _plan_held(volume: CloudVolume, node: NodeView, *, may_take_over: bool) -> Decision:
    holder = volume.attachments[0]
    if may_take_over and holder.instance_id in node.gone and node.may_judge(holder):
        if holder.state == "detaching":
            return Wait(
                Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is leaving {holder.holder}, which is gone."
            )
        return Do(make_detach_call(volume.volume_id, str(holder.instance_id), node))
    return Wait(
        Reason.ATTACHED_ELSEWHERE,
        f"{volume.volume_id} is {holder.state} to {holder.holder}.",
        hint="It comes here once it is detached there. The agent takes a volume from another instance only "
        "when it is this node's own claim and AWS proves that the instance is gone.",
    )


def _plan_free(volume: CloudVolume, node: NodeView) -> Decision:
    zone = node.identity.zone
    if zone is not None and volume.zone != zone:
        return Wait(
            Reason.WRONG_ZONE,
            f"{volume.volume_id} lies in {volume.zone}, this node in {zone}.",
            hint="Volumes cannot move between zones. Snapshot it, and make a volume here from the snapshot.",
        )
    if node.api is AttachApi.NONE:
        return explain_no_attach(f"{volume.volume_id} is not attached", node)
    call = make_attach_call(volume.volume_id, node)
    if call is None:
        return Wait(Reason.ATTACHMENT_LIMIT, "Every block device name of this instance is taken.")
    return Do(call)


def plan_detach(volume: CloudVolume, node: NodeView, *, is_released: bool) -> Decision | None:
    """Decide the next thing on the way to a volume that has left this node; None: it has."""
    if volume.is_csi:
        return _refuse_csi(volume)
    here = volume.attachment_to(node.identity.instance_id) if node.identity.instance_id else None
    if here is None and volume.volume_id not in node.devices:
        return None
    if here is not None and here.state in {"detaching", "busy"}:
        return Wait(Reason.WAITING_FOR_CLOUD, f"{volume.volume_id} is {here.state} from this node.")
    if not is_released:
        return Release(volume.volume_id)
    if node.api is AttachApi.NONE:
        return Wait(Reason.NOT_ATTACHED, "agent.cloud.attach_api is none: detach it by hand.")
    return Do(make_detach_call(volume.volume_id, str(node.identity.instance_id), node))


def choose_volume(volumes: Sequence[CloudVolume], node: NodeView) -> CloudVolume | None:
    """Choose one of the volumes an entry's tags match: all nodes agree without talking to each other.

    One that is here stays. Else a free one in this zone, each node trying them in its own order, so that
    nodes seldom reach for the same; whoever attaches first has it. Else one somebody has, to say who.
    """
    instance_id = node.identity.instance_id or ""
    usable = [volume for volume in volumes if not volume.is_csi and not volume.is_gone]

    def rank(volume: CloudVolume) -> tuple[bool, bool, bool, str]:
        is_here = volume.volume_id in node.devices or volume.attachment_to(instance_id) is not None
        is_near = node.identity.zone in {None, volume.zone}
        is_free = not volume.attachments or volume.is_multi_attach
        order = hashlib.sha256(f"{instance_id}/{volume.volume_id}".encode()).hexdigest()
        return not is_here, not is_near, not is_free, order

    return min(usable, key=rank, default=None)


def is_matching(match: Match, volume: CloudVolume) -> bool:
    """Return whether a described volume is what an entry means."""
    size_bytes = volume.size_gib << 30
    return (
        (match.volume_id is None or match.volume_id == volume.volume_id)
        and (match.type is None or match.type == volume.type)
        and (match.size is None or size_bytes in match.size)
        and all(volume.tag(key) == value for key, value in (match.tags or {}).items())
    )
