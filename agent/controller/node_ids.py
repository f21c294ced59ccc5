"""Reads the ID that a node gave Kubernetes: an instance's own, or that of a HyperPod cluster's node.

``i-…`` is an instance of the account; ``hyperpod-<cluster ID>-i-…`` a node that SageMaker attaches volumes to
(the form that AWS's driver reads out of ``spec.providerID``).
"""

from __future__ import annotations

import re

from agent.cloud.aws.models import CloudAttachment
from agent.controller.calls import NodeId
from agent.core.errors import InvalidValueError
from agent.core.quoting import quote

_INSTANCE = r"i-(?:[0-9a-f]{17}|[0-9a-f]{8})"
_NODE_ID = re.compile(rf"(?:hyperpod-(?P<cluster>[a-z0-9]{{1,63}})-)?(?P<instance>{_INSTANCE})", re.ASCII)


def parse_node_id(text: str) -> NodeId:
    """Return the node that ``text`` names; InvalidValueError where it can be none of AWS's."""
    found = _NODE_ID.fullmatch(text)
    if found is None:
        raise InvalidValueError(
            f"{quote(text)} is no node that a volume can be attached to.",
            hint="A node's ID is i-… or hyperpod-<cluster ID>-i-…, as its CSINode has it.",
        )
    return NodeId(found["instance"], found["cluster"])


def find_node(attachment: CloudAttachment) -> NodeId | None:
    """Return the node that has an attachment, by the ID that its CSINode has; None where AWS names none."""
    if attachment.instance_id is None:
        return None
    return NodeId(attachment.instance_id, attachment.cluster_id)
