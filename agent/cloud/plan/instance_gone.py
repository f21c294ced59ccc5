"""Proves that an instance is gone, from two answers that agree; where either is missing, it is not gone.

A volume is detached from another instance only on this proof. That an instance is not described proves
nothing by itself: HyperPod's are never described by EC2, and a list may be of the wrong cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TypeVar

from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DescribeClusterNode, DescribeInstances, ListClusterNodes
from agent.cloud.aws.models import ClusterNode
from agent.cloud.errors.explain import CloudError
from agent.cloud.identity.last_identity import StrangerError
from agent.cloud.identity.whoami import parse_instance_id, require_identity
from agent.cloud.plan.decisions import AttachApi, NodeView

T = TypeVar("T")

_MOST_WITNESSES = 8
_MOST_SUSPECTS = 200 - _MOST_WITNESSES
"""Asked about in one call, with the witnesses: a call's filters take 200 values."""


def is_listed(nodes: tuple[ClusterNode, ...], instance_id: str) -> bool:
    """Return whether the cluster's whole list has the instance."""
    return any(node.instance_id == instance_id for node in nodes if node.status != "NotFound")


def is_absent(nodes: tuple[ClusterNode, ...], instance_id: str, witness: str) -> bool:
    """Return whether the cluster's whole list, which has ``witness``, does not have the instance."""
    return is_listed(nodes, witness) and not is_listed(nodes, instance_id)


async def find_gone(
    make: Make, node: NodeView, suspects: Iterable[str], enough: int | None = None
) -> frozenset[str]:
    """Return those of ``suspects`` that are proven gone; costs no call where there is no suspect.

    ``enough``: proving so many of a cluster's nodes gone, those first that come first, is as good as all.
    Raises StrangerError where this node itself is not where it is asked.
    """
    own_id = node.identity.instance_id
    ordered = tuple(parse_instance_id(suspect) for suspect in suspects if suspect != own_id)
    if not ordered or own_id is None:
        return frozenset()
    if node.api is AttachApi.HYPERPOD:
        require_identity(node.identity, "cluster_arn")
        cluster = str(node.identity.cluster_arn)
        place = f"cluster {cluster.rpartition('/')[2]}"
        gone = await find_gone_nodes(make, cluster, (own_id,), ordered, enough)
    else:
        place = "instances"
        gone = await find_gone_instances(make, (own_id,), ordered)
    if gone is None:
        raise StrangerError(place, own_id)
    return gone


async def find_gone_nodes(
    make: Make, cluster: str, witnesses: Sequence[str], suspects: Sequence[str], enough: int | None = None
) -> frozenset[str] | None:
    """Return which suspects are not in a HyperPod cluster any more, by its whole list and each by itself.

    ``cluster`` is its ARN. None: the list has none of the ``witnesses``, instances that are known to be in
    the cluster, so that it proves nothing.
    """
    nodes: tuple[ClusterNode, ...] = await make(ListClusterNodes(cluster))
    witness = next((one for one in witnesses if is_listed(nodes, one)), None)
    if witness is None:
        return None
    gone: set[str] = set()
    for suspect in [one for one in suspects if is_absent(nodes, one, witness)]:
        is_enough = enough is not None and len(gone) >= enough
        if not is_enough and await _is_not_found(make, cluster, suspect):
            gone.add(suspect)
    return frozenset(gone)


async def _is_not_found(make: Make, cluster: str, instance_id: str) -> bool:
    """Return whether AWS, asked for this very node, says that there is none."""
    try:
        found: ClusterNode = await make(DescribeClusterNode(cluster, instance_id))
    except CloudError as error:
        if error.code in {"ResourceNotFound", "ResourceNotFoundException"}:
            return True
        raise
    return found.status == "NotFound"


async def find_gone_instances(
    make: Make, witnesses: Sequence[str], suspects: Sequence[str]
) -> frozenset[str] | None:
    """Return the ordinary instances EC2 says are terminated; one it does not know is not proven gone.

    None: EC2 knows none of the ``witnesses``, instances that are known to run, so that it proves nothing.
    """
    witnesses = tuple(witnesses)[:_MOST_WITNESSES]
    gone: set[str] = set()
    for start in range(0, len(suspects), _MOST_SUSPECTS):
        chunk = suspects[start : start + _MOST_SUSPECTS]
        reservations: tuple[tuple[tuple[str, str], ...], ...] = await make(
            DescribeInstances((*witnesses, *chunk))
        )
        known = dict(itertools.chain.from_iterable(reservations))
        if not any(witness in known for witness in witnesses):
            return None
        gone |= {suspect for suspect in chunk if known.get(suspect) == "terminated"}
    return frozenset(gone)
