"""What is known from beyond this node: who it is in its cluster, and where a volume comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NodeFacts:
    """Who this node is in its cluster; None is what is not known (yet), which no policy entry matches."""

    instance_name: str | None = None
    """``compute-nodes-1``: kept when HyperPod replaces the instance (Slurm)."""
    instance_group: str | None = None
    instance_id: str | None = None
    """``i-…``: another one after every replacement."""
    cluster_id: str | None = None
    """The twelve characters at the end of the cluster's ARN."""

    def or_else(self, other: NodeFacts) -> NodeFacts:
        """Return these facts, with those of ``other`` for what is not known here."""
        return NodeFacts(
            self.instance_name or other.instance_name,
            self.instance_group or other.instance_group,
            self.instance_id or other.instance_id,
            self.cluster_id or other.cluster_id,
        )


@dataclass(frozen=True)
class Origin:
    """What the cloud knows about a volume, where it was asked and answered."""

    snapshot_id: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    type: str | None = None
    is_multi_attach: bool = False
    is_made_by_agent: bool = False
    """Created empty by this agent for this claim, under a client token it holds the record of."""
