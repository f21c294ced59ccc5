"""Joins the parts of the controller: what describes for all, whose turn it is, and who does what."""

from __future__ import annotations

from agent.cloud.aws.call import Make
from agent.controller.describing.describing import Describing
from agent.controller.program import ControllerSettings, Parts
from agent.controller.snapshots.cluster_snapshots import ClusterSnapshots
from agent.controller.turns import Turns
from agent.controller.volumes.cluster_volumes import ClusterVolumes
from agent.controller.volumes.listing import KnowNodes


def compose_parts(make: Make, settings: ControllerSettings, know_nodes: KnowNodes) -> Parts:
    """Return what the controller asks for volumes and snapshots, which share what AWS describes."""
    describing, turns = Describing(make), Turns()
    return Parts(
        ClusterVolumes(make, describing, turns, settings.region, settings.cluster_id, know_nodes),
        ClusterSnapshots(make, describing, turns.take, settings.cluster_id),
    )
