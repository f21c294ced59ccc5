"""Changes nodes: each as it is now, and under the lease."""

from __future__ import annotations

from collections.abc import Callable

from agent.base.log import get_logger
from agent.controller.cluster.api import ClusterApi, ClusterError, Operations
from agent.controller.cluster.lease import Lease
from agent.controller.cluster.objects import Node

ATTEMPTS = 3
"""How often a change is decided anew at once, where the node is changed by others meanwhile."""

log = get_logger(__name__)


async def change_node(
    api: ClusterApi, lease: Lease, name: str, deed: str, plan: Callable[[Node], Operations]
) -> bool:
    """Read the node, and change it as ``plan`` decides by what was read; False: there was nothing to change.

    ``deed`` completes "asked to …". Raises ClusterError, and OvertakenError where another replica works.
    """
    for attempt in range(1, ATTEMPTS + 1):
        node = await api.find(Node, name)
        operations = () if node is None else plan(node)
        if not operations:
            return False
        try:
            async with lease.doing(deed):
                await api.change(Node, name, operations)
        except ClusterError as error:
            if not error.is_overtaken or attempt == ATTEMPTS:
                raise
            log.debug("care.node_changed_meanwhile", node=name, error=error.message)
        else:
            return True
    return False
