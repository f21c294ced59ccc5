"""Tells which nodes have a volume, by the IDs that their CSINodes have. Pure."""

from __future__ import annotations

from agent.cloud.aws.models import CloudVolume
from agent.controller.calls import PublishedVolume
from agent.controller.node_ids import find_node

PUBLISHED_STATES = frozenset({"attached", "busy"})
"""In these a node has a volume: ``busy`` is one that it still uses while it is to be detached."""


def publish(volume: CloudVolume) -> PublishedVolume:
    """Return the volume with the nodes that have it."""
    held = (find_node(one) for one in volume.attachments if one.state in PUBLISHED_STATES)
    return PublishedVolume(volume, tuple(node for node in held if node is not None))
