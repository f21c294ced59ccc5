"""Proves that instances of the cluster's nodes are gone; nodes that Kubernetes hears of are the witnesses.

A list or a description that has none of them is of another cluster or account, and proves nothing of anybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from agent.cloud.aws.call import Make
from agent.cloud.plan.instance_gone import find_gone_instances, find_gone_nodes
from agent.controller.calls import NodeId
from agent.controller.cluster_arns import ClusterArns
from agent.controller.node_ids import parse_node_id
from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import Reason


def parse_provider_id(provider_id: str) -> NodeId | None:
    """Return the instance that ``aws:///zone/…`` names, of either kind; None: none can be proven gone by it.

    ``aws:///us-west-2a/i-…`` and ``aws:///us-west-2a/sagemaker/cluster/hyperpod-<cluster ID>-i-…``.
    """
    if not provider_id.startswith("aws://"):
        return None
    try:
        return parse_node_id(provider_id.rpartition("/")[2])
    except InvalidValueError:
        return None


class Proofs:
    """Asks AWS."""

    def __init__(self, make: Make, region: str) -> None:
        self._make = make
        self._clusters = ClusterArns(make, region)

    async def find_gone(self, suspects: Sequence[NodeId], witnesses: Iterable[NodeId]) -> frozenset[NodeId]:
        """Return which suspects, all of one group, are proven gone.

        Raises AgentError where AWS does not say all it is asked, which says nothing of other groups.
        """
        (cluster_id,) = {node.cluster_id for node in suspects}
        suspected = [node.instance_id for node in suspects]
        known = [node.instance_id for node in witnesses if node.cluster_id == cluster_id]
        gone = await self._ask(cluster_id, suspected, known)
        return frozenset(NodeId(instance_id, cluster_id) for instance_id in gone)

    async def _ask(self, cluster_id: str | None, suspects: list[str], witnesses: list[str]) -> frozenset[str]:
        place = "the account" if cluster_id is None else f"HyperPod cluster {cluster_id}"
        if not witnesses:
            raise AgentError(
                f"No node of {place} is ready beside those that are not heard of, so that no node is proven "
                "gone by what AWS says.",
                hint="Nothing to do: after six minutes Kubernetes itself detaches the volumes of those.",
                reason=Reason.WAITING_FOR_CLOUD,
            )
        if cluster_id is None:
            gone = await find_gone_instances(self._make, witnesses, suspects)
        else:
            arn = await self._clusters.find_arn(cluster_id)
            gone = await find_gone_nodes(self._make, arn, witnesses, suspects)
        if gone is None:
            raise AgentError(
                f"What AWS says of {place} has none of its nodes that are ready, so that no node is proven "
                "gone by it.",
                hint="Is the controller's role in the account that the nodes belong to?",
                reason=Reason.WAITING_FOR_CLOUD,
            )
        return gone


def group_nodes(nodes: Iterable[NodeId]) -> Mapping[str | None, Sequence[NodeId]]:
    """Return nodes by the HyperPod cluster they belong to, those of none under None: each is proven alone."""
    groups: defaultdict[str | None, list[NodeId]] = defaultdict(list)
    for node in nodes:
        groups[node.cluster_id].append(node)
    return groups
