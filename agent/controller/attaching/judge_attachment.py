"""Judges from a description how far a volume is on its way to a node, and what forbids it. Pure.

A volume is never taken from a node that has it.
"""

from __future__ import annotations

from enum import Enum

from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.controller.calls import AttachCall, NodeId, NoSuchThingError, Pairs
from agent.controller.node_ids import find_node
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason

_BY_ID = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"


class Stage(Enum):
    """How far a volume is on its way to a node."""

    FREE = "free"
    """It can be attached."""
    WAITING = "waiting"
    """It is being made, or is leaving a node: it can be attached later."""
    ATTACHING = "attaching"
    ATTACHED = "attached"


def find_attachment(volume: CloudVolume, node: NodeId) -> CloudAttachment | None:
    """Return the volume's attachment to a node; instances have one ID in all clusters."""
    return volume.attachment_to(node.instance_id)


def name_holder(attachment: CloudAttachment) -> str:
    """Return the node that has an attachment, by the ID that its CSINode has, or the best name there is."""
    node = find_node(attachment)
    return attachment.holder if node is None else str(node)


def judge_attach(volume: CloudVolume, call: AttachCall) -> Stage:
    """Return how far the volume is on its way to the node; raises AgentError where it cannot get there."""
    if volume.is_gone:
        raise explain_no_volume(volume.volume_id)
    if volume.state == "error":
        raise AgentError(
            f"{volume.volume_id} is in state error: AWS could not make or keep it.",
            hint="A wrong or disabled KMS key is the usual cause. Delete the volume once that is mended.",
            reason=Reason.IMPAIRED,
            retryable=False,
        )
    if call.is_multi_node and not volume.is_multi_attach:
        raise RefusedError(
            f"{volume.volume_id} cannot be attached to several nodes: it was made without multi-attach.",
            hint="Use the access mode ReadWriteOnce, or a volume of type io2 with multi-attach.",
            reason=Reason.MULTI_ATTACH,
        )
    here = find_attachment(volume, call.node)
    if here is not None:
        by_state = {"attached": Stage.ATTACHED, "attaching": Stage.ATTACHING}
        return by_state.get(here.state, Stage.WAITING)
    if volume.state == "creating":
        return Stage.WAITING
    return Stage.FREE if call.is_multi_node else _judge_others(volume)


def _judge_others(volume: CloudVolume) -> Stage:
    staying = [one for one in volume.attachments if one.state != "detaching"]
    if staying:
        raise RefusedError(
            f"{volume.volume_id} is {staying[0].state} to {name_holder(staying[0])}.",
            hint="It can be attached to another node once it is detached there.",
            reason=Reason.ATTACHED_ELSEWHERE,
        )
    return Stage.WAITING if volume.attachments else Stage.FREE


def describe_place(volume: CloudVolume) -> str:
    """Return where the volume is, as the end of a sentence: ``is detaching from i-…``."""
    words = {"attached": "to", "attaching": "to", "busy": "and in use at"}
    held = [f"{one.state} {words.get(one.state, 'from')} {name_holder(one)}" for one in volume.attachments]
    return f"is {' and '.join(held) or volume.state}"


def tell_node(volume: CloudVolume, node: NodeId) -> Pairs:
    """Return what the node is told of the volume that is attached to it.

    AWS's driver needs ``devicePath`` and opens it where it exists; where AWS names no block device, as of
    HyperPod's nodes, it is the link that udev makes for the volume's ID.
    """
    here = find_attachment(volume, node)
    named = None if here is None else here.device
    return (("devicePath", named or _BY_ID + volume.volume_id.replace("-", "")),)


def explain_no_volume(volume_id: VolumeId) -> NoSuchThingError:
    """Return the error of who asks for a volume that AWS does not have."""
    return NoSuchThingError(
        f"AWS knows no volume {volume_id} in this account and region.",
        hint="Is the volume's ID right, and the volume not deleted?",
    )


def explain_no_node(node: NodeId) -> NoSuchThingError:
    """Return the error of who names a node that AWS does not have."""
    return NoSuchThingError(
        f"AWS knows no node {node}.",
        hint="A node that was replaced has another ID. If it is there: is the controller in its region, and "
        "does its role belong to the node's account?",
    )
