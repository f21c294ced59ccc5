"""Remembers which nodes the cluster has, by the IDs that Kubernetes has for them; asks nobody itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from agent.controller.calls import NodeId

MOST_NODES = 65_536
"""Nodes remembered; those go first that were told of last the longest ago."""


class ClusterNodes:
    """The cluster's nodes, and those it had: an instance is never another cluster's afterwards.

    So what a node holds stays known while its driver is started anew, or while the node is taken away.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, NodeId] | None = None

    def note(self, nodes: Iterable[NodeId]) -> None:
        """Take these for nodes of the cluster, which were told of together with all others."""
        known = self._known = self._known or OrderedDict()
        for node in nodes:
            known[node.instance_id] = node
            known.move_to_end(node.instance_id)
        while len(known) > MOST_NODES:
            known.popitem(last=False)

    def list_known(self) -> Mapping[str, NodeId] | None:
        """Return the nodes by their instances' IDs; None: nobody has told of any."""
        return self._known
