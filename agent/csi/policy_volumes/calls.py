"""What kubelet asks about volumes of the policy, in the agent's own words: no protobuf, every value checked.

A volume is meant by the name of its entry in the policy, and is whatever that entry means on this node.
Nothing is staged: it is where the policy has it, and is published to each pod from there.
"""

from __future__ import annotations

from typing import NewType, Protocol

from msgspec import Struct

from agent.core.model import FsType
from agent.csi.calls import AccessMode, NodeInfo, SpaceUsage

EntryName = NewType("EntryName", str)


class PublishEntryCall(Struct, frozen=True):
    """Show the volume of an entry to one pod, at ``target_path``: a directory, or for a raw one a file."""

    entry: EntryName
    target_path: str
    access: AccessMode
    is_block: bool = False
    is_read_only: bool = False
    fs_type: FsType | None = None
    """What the PersistentVolume says that it holds; None: it does not say."""
    flags: tuple[str, ...] = ()
    """Of this pod's view alone: ``nosuid``, ``noexec`` and their like."""


class EntryVolumes(Protocol):
    """What the agent does for kubelet. Each may be asked again at any time, and is then as good as once.

    All raise AgentError: its reason decides the code of the answer (``agent.csi.service.codes``).
    """

    async def publish(self, call: PublishEntryCall) -> None:
        """Return when the volume of the entry is seen at the target."""

    async def unpublish(self, entry: EntryName, target_path: str) -> None:
        """Return when nothing is at the target any more, nor the target itself."""

    async def measure(self, entry: EntryName, target_path: str) -> SpaceUsage:
        """Return how full the volume at this target is; never waits for a device that does not answer."""

    async def describe_node(self) -> NodeInfo:
        """Return who this node is."""
