"""Says why a volume cannot be used in some way: which access modes EBS has, and for which volumes. Pure.

Source: the Container Storage Interface, VolumeCapability.AccessMode; the EBS guide, "Multi-Attach".
"""

from __future__ import annotations

from agent.cloud.aws.models import CloudVolume
from agent.controller.calls import UseQuestion

_OF_ONE_NODE = frozenset(
    {
        "SINGLE_NODE_WRITER",
        "SINGLE_NODE_READER_ONLY",
        "SINGLE_NODE_SINGLE_WRITER",
        "SINGLE_NODE_MULTI_WRITER",
    }
)
_OF_MANY_NODES = "MULTI_NODE_MULTI_WRITER"


def find_misuse(volume: CloudVolume, question: UseQuestion) -> str | None:
    """Return why the volume cannot be used in one of the ways that are asked about; None: it can in all."""
    found = (_judge(volume, mode, is_block=is_block) for mode, is_block in question.modes)
    return next((why for why in found if why is not None), None)


def _judge(volume: CloudVolume, mode: str, *, is_block: bool) -> str | None:
    if mode in _OF_ONE_NODE:
        return None
    if mode != _OF_MANY_NODES:
        return (
            f"EBS has no access mode {mode}: use one of a single node, or {_OF_MANY_NODES} as a block device."
        )
    if not is_block:
        return (
            f"{volume.volume_id} can be of several nodes as a block device only: no filesystem is shared so."
        )
    if not volume.is_multi_attach:
        return f"{volume.volume_id} was made without multi-attach, so it is of one node at a time."
    return None
