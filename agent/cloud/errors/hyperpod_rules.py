"""What HyperPod's own refusals to attach and detach mean: they have one code, and differ in their words only.

AWS documents when it refuses, not how it says so. So the words are matched loosely, AWS's own are always told
with them, and what is not recognised stays what it was. Sources: the SageMaker API's AttachClusterNodeVolume;
aws-ebs-csi-driver, pkg/cloud/cloud.go.
"""

from __future__ import annotations

import re

from agent.cloud.errors import codes
from agent.cloud.errors.rule_type import Rule
from agent.core.model import Reason

OPERATIONS = frozenset({"AttachClusterNodeVolume", "DetachClusterNodeVolume"})
CODES = frozenset({"ValidationException", "ValidationError", "ConflictException", "InvalidNodeStatus"})
"""Codes under which HyperPod says several things."""

WHILE_IN_SERVICE = "only while the cluster is InService"
"""In the sentence of a volume that waits for this, and for nothing else."""

RESTRICTED = Rule(
    Reason.ATTACH_UNSUPPORTED,
    "HyperPod attaches no volumes to nodes of a restricted instance group: {message}",
    "Use an instance group that is not restricted, or give the entry an instance_group that leaves this one "
    "out.",
    is_retryable=False,
    retry_after_s=900.0,
)
NOT_IN_SERVICE = Rule(
    Reason.WAITING_FOR_CLOUD,
    f"HyperPod attaches and detaches volumes {WHILE_IN_SERVICE}: {{message}}",
    "Nothing to do: it is tried again until the cluster is. A cluster that is being created gets there when "
    "its lifecycle scripts have ended, unless it provisions continuously; so they must not wait for this.",
    retry_after_s=15.0,
)
NOT_EKS = Rule(
    Reason.ATTACH_UNSUPPORTED,
    "HyperPod attaches volumes only in clusters that Amazon EKS orchestrates: {message}",
    "Have the volume attached by other means, and set agent.cloud.attach_api: none: it is used as soon as "
    "its device is here.",
    is_retryable=False,
    retry_after_s=900.0,
)
NODE_NOT_READY = Rule(
    Reason.WAITING_FOR_CLOUD,
    "HyperPod attaches and detaches nothing while this node is in its state: {message}",
    "Nothing to do: it is tried again. `aws sagemaker describe-cluster-node` shows the node's state.",
    retry_after_s=15.0,
)
NO_NODE = Rule(
    Reason.WAITING_FOR_CLOUD,
    "HyperPod does not know this cluster, or this node in it: {message}",
    "It passes by itself where the node is new, or is moving to another cluster. If it stays so: does "
    "`ebs-agent doctor` name the right cluster?",
    retry_after_s=30.0,
)

BY_CODE = {
    "HyperPodRestricted": RESTRICTED,
    "HyperPodNotInService": NOT_IN_SERVICE,
    "HyperPodNotEks": NOT_EKS,
    "HyperPodNodeNotReady": NODE_NOT_READY,
    "ResourceNotFound": NO_NODE,
    "ResourceNotFoundException": NO_NODE,
}

_WORDS = (
    ("InvalidVolume.ZoneMismatch", re.compile(r"availability zone", re.IGNORECASE)),
    ("HyperPodRestricted", re.compile(r"\brestricted instance group|\bRIG\b", re.IGNORECASE)),
    (
        "HyperPodNotInService",
        re.compile(
            r"\bin[ _-]?service\b|\bcluster\b.*\b(?:state|status|creating|updating|deleting|rolling ?back)\b",
            re.IGNORECASE,
        ),
    ),
    ("HyperPodNotEks", re.compile(r"\bEKS\b|\bkubernetes\b|\bslurm\b|\borchestrat", re.IGNORECASE)),
    (codes.INCORRECT_STATE, re.compile(r"\bvolume\b.*(?:\bavailable\b|\bstate\b|\bstatus\b)", re.IGNORECASE)),
    (
        "HyperPodNodeNotReady",
        re.compile(r"\b(?:node|instance)\b.*\b(?:state|status|running|pending)\b", re.IGNORECASE),
    ),
)
"""(code of the agent's own or EC2's, what AWS's words have in them), the first that fits. A sentence that
names InService and EKS both is taken for what passes by itself."""


def find_hyperpod_code(operation: str, code: str, message: str) -> str:
    """Return the code for what HyperPod says in words, else ``code``."""
    if operation not in OPERATIONS or code not in CODES or "failed to satisfy constraint" in message:
        return code
    return next((meant for meant, words in _WORDS if words.search(message)), code)
