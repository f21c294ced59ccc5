"""Whose a volume is: what the node shows of it, and what its tags say. What is not ours is not touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model import Exclusion, Reason
from agent.steps import Refuse

if TYPE_CHECKING:
    from agent.model import Observed

_CSI_TAGS = frozenset({"ebs.csi.aws.com/cluster", "CSIVolumeName", "kubernetes.io/created-for/pvc/name"})
"""What the EBS CSI driver tags its volumes with."""


def find_exclusion(observed: Observed) -> Exclusion | None:
    """Return why the volume is not the agent's to touch: by what the node shows of it, or by its tags."""
    if observed.exclusion is not None or observed.origin is None:
        return observed.exclusion
    if not any(key in _CSI_TAGS for key, _ in observed.origin.tags):
        return None
    return Exclusion(
        Reason.MANAGED_BY_CSI,
        f"{observed.volume_id} belongs to the EBS CSI driver, by its tags.",
        hint="Leave the volume to Kubernetes, or remove its tags once Kubernetes has let go of it.",
    )


def find_raw_exclusion(observed: Observed) -> Exclusion | None:
    """Return why a raw volume is not the agent's to touch."""
    # What a raw volume holds, and who builds on it, is its owner's business; whose it is, is not.
    exclusion = find_exclusion(observed)
    return None if exclusion is not None and exclusion.reason is Reason.DEVICE_BUSY else exclusion


def refuse_excluded(exclusion: Exclusion) -> Refuse:
    """Return the step that says so."""
    return Refuse(exclusion.reason, exclusion.message, exclusion.hint)
