"""Lets pods onto a node once its driver is there: removes the start-up taint, however late that is.

A kubelet may not edit its own node's taints, so nobody but the controller can.
"""

from __future__ import annotations

from functools import partial

import anyio

from agent.base.log import get_logger
from agent.controller.care.node_changes import name_start_up_taint, plan_welcome
from agent.controller.care.node_deeds import change_node
from agent.controller.cluster.api import ClusterApi, ClusterError
from agent.controller.cluster.lease import Lease
from agent.controller.cluster.objects import CsiNode, Node
from agent.controller.cluster.watched import Bell, Watched
from agent.core.errors import OvertakenError

LOOK_S = 30.0
"""How often it is looked where nothing changed, for what failed."""
PAUSE_S = 5.0
"""After what failed: nodes change all the time, and none of that would mend it."""

log = get_logger(__name__)


class StartUp:
    """The nodes that wait for their driver."""

    def __init__(
        self, api: ClusterApi, lease: Lease, driver: str, nodes: Watched[Node], csi_nodes: Watched[CsiNode]
    ) -> None:
        self._api = api
        self._lease = lease
        self._driver = driver
        self._nodes = nodes
        self._csi_nodes = csi_nodes
        self._bell = Bell()
        nodes.add_bell(self._bell)
        csi_nodes.add_bell(self._bell)

    async def tend(self) -> None:
        """Remove each taint when it is time; never returns."""
        while True:
            if not await self._look():
                await anyio.sleep(PAUSE_S)
            await self._bell.wait(LOOK_S)

    async def _look(self) -> bool:
        """Return whether all came through that was to be done."""
        is_done = True
        for name, node in list(self._nodes.known.items()):
            csi_node = self._csi_nodes.known.get(name)
            if not plan_welcome(node, csi_node, self._driver):
                continue
            taint = name_start_up_taint(self._driver)
            plan = partial(plan_welcome, csi_node=csi_node, driver=self._driver)
            try:
                if await change_node(self._api, self._lease, name, f"remove {taint} from {name}", plan):
                    log.info("care.node_welcomed", node=name, taint=taint)
            except (ClusterError, OvertakenError) as error:
                log.warning("care.node_not_welcomed", node=name, error=error.message, hint=error.hint)
                is_done = False
        return is_done
