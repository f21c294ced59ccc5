"""Tells which nodes have a volume, by the IDs that their CSINodes have. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.controller.calls import NodeId, PublishedVolume
from agent.controller.node_ids import find_node

PUBLISHED_STATES = frozenset({"attached", "busy"})
"""In these a node has a volume: ``busy`` is one that it still uses while it is to be detached."""


def publish(volume: CloudVolume, known: Mapping[str, NodeId] | None = None) -> PublishedVolume:
    """Return the volume with the nodes that have it; ``known`` are the cluster's, by their instances' IDs."""
    held = (_name(one, known or {}) for one in volume.attachments if one.state in PUBLISHED_STATES)
    return PublishedVolume(volume, tuple(node for node in held if node is not None))


def _name(attachment: CloudAttachment, known: Mapping[str, NodeId]) -> NodeId | None:
    """Return the node by the ID that Kubernetes has, else by the one that AWS's answer amounts to."""
    return known.get(attachment.instance_id or "") or find_node(attachment)
