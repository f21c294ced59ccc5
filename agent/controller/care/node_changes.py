"""Decides what to change of one node, as patches that hold only for the node as it was read.

A taint that is removed is found by its place and by its key, in the version that was read: another one that
came or went meanwhile makes the API server refuse the patch, and the node is looked at anew. No taint is ever
written that somebody else made.
"""

from __future__ import annotations

from agent.controller.cluster.api import Operations
from agent.controller.cluster.objects import (
    MARK_RELEASED,
    TAINT_OUT_OF_SERVICE,
    CsiNode,
    Node,
)

_MARK = "/metadata/annotations/" + MARK_RELEASED.replace("~", "~0").replace("/", "~1")
OUT_OF_SERVICE = {"key": TAINT_OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
_NONE: Operations = ()


def name_start_up_taint(driver: str) -> str:
    """Return the key of the taint that keeps pods away until the node's driver is there."""
    return f"{driver}/agent-not-ready"


def plan_welcome(node: Node, csi_node: CsiNode | None, driver: str) -> Operations:
    """Return how the start-up taint is removed, once this node's driver is there; else nothing."""
    if csi_node is None or not csi_node.is_of(node) or not csi_node.serves(driver):
        return _NONE
    removed = _remove_taints(node, name_start_up_taint(driver))
    return [*_as_read(node), *removed] if removed else _NONE


def plan_release(node: Node, gone_provider_id: str) -> Operations:
    """Return how a node is put out of service whose instance ``gone_provider_id`` is proven gone.

    Nothing where it is another instance by now, is heard of, or is out of service already, whoever said so.
    """
    is_another = node.spec.provider_id != gone_provider_id
    if is_another or node.is_ready or node.has_taint(TAINT_OUT_OF_SERVICE):
        return _NONE
    mark = (
        {"op": "add", "path": "/metadata/annotations", "value": {MARK_RELEASED: gone_provider_id}}
        if node.metadata.annotations is None
        else {"op": "add", "path": _MARK, "value": gone_provider_id}
    )
    taint = (
        {"op": "add", "path": "/spec/taints/-", "value": OUT_OF_SERVICE}
        if node.spec.taints
        else {"op": "add", "path": "/spec/taints", "value": [OUT_OF_SERVICE]}
    )
    return [*_as_read(node), mark, taint]


def has_returned(node: Node) -> bool:
    """Return whether a node that the controller put out of service is ready, or another instance by now."""
    return node.released is not None and (node.is_ready or node.spec.provider_id != node.released)


def plan_return(node: Node) -> Operations:
    """Return how a node that came back is put into service: only what the controller did is undone."""
    if not has_returned(node):
        return _NONE
    removed = _remove_taints(node, TAINT_OUT_OF_SERVICE)
    return [*_as_read(node), *removed, {"op": "remove", "path": _MARK}]


def _as_read(node: Node) -> Operations:
    return [
        {"op": "test", "path": "/metadata/uid", "value": node.metadata.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": node.metadata.resourceVersion},
    ]


def _remove_taints(node: Node, key: str) -> Operations:
    """Return how all taints of a key are removed, the last one first, so that places stay what they are."""
    places = [place for place, taint in enumerate(node.spec.taints) if taint.key == key]
    operations = []
    for place in reversed(places):
        operations.append({"op": "test", "path": f"/spec/taints/{place}/key", "value": key})
        operations.append({"op": "remove", "path": f"/spec/taints/{place}"})
    return operations
