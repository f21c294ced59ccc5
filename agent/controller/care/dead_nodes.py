"""Has the volumes of nodes whose instances are proven gone released at once, and takes that back.

Kubernetes waits six minutes before it detaches a volume from a node that is not heard of, since it may still
write. Of an instance that is gone it may not: the node is put out of service, as Kubernetes names it, and its
pods and attachments end. Silence, a denial or an error of AWS never does that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from agent.base.log import get_logger
from agent.controller.calls import NodeId
from agent.controller.care.node_changes import has_returned, plan_release, plan_return
from agent.controller.care.node_deeds import change_node
from agent.controller.care.proofs import Proofs, group_nodes, parse_provider_id
from agent.controller.cluster.api import ClusterApi, ClusterError, Operations
from agent.controller.cluster.lease import Lease
from agent.controller.cluster.objects import TAINT_OUT_OF_SERVICE, Node, VolumeAttachment
from agent.controller.cluster.watched import Bell, Watched
from agent.core.errors import AgentError, OvertakenError

LOOK_S = 5.0
PAUSES_S = (5.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Between questions about one node: it is mostly gone within a minute, or comes back."""
RESTS_S = (5.0, 10.0, 30.0, 60.0)
"""After questions that AWS did not answer, which pods wait for."""

log = get_logger(__name__)


class _Rest(Struct):
    """A group of nodes of which AWS could not be asked, or did not answer."""

    failures: int = 0
    until_s: float = 0.0


class DeadNodes:
    """The nodes that hold volumes of the driver and are not heard of, and those put out of service."""

    def __init__(
        self,
        api: ClusterApi,
        lease: Lease,
        driver: str,
        nodes: Watched[Node],
        attachments: Watched[VolumeAttachment],
        proofs: Proofs | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``proofs`` is None where no node is to be released; what was done before is still taken back."""
        self._api = api
        self._lease = lease
        self._driver = driver
        self._nodes = nodes
        self._attachments = attachments
        self._proofs = proofs
        self._clock = clock
        self._bell = Bell()
        nodes.add_bell(self._bell)
        attachments.add_bell(self._bell)
        self._asked: dict[NodeId, int] = {}
        self._due: dict[NodeId, float] = {}
        self._rests: dict[str | None, _Rest] = {}
        """By HyperPod cluster; None: the nodes of none."""
        self._under_way: set[str | None] = set()
        """The groups that AWS is being asked about."""
        self._has_failed = False

    async def tend(self) -> None:
        """Release and take back; never returns."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._take_back()
                if self._proofs is not None:
                    self._release(self._proofs, tasks)
                if self._has_failed:
                    await anyio.sleep(LOOK_S)
                self._has_failed = False
                await self._bell.wait(LOOK_S)

    async def _take_back(self) -> None:
        for name, node in list(self._nodes.known.items()):
            if has_returned(node) and await self._change(name, "put it into service", plan_return):
                log.info("care.node_returned", node=name)

    def _release(self, proofs: Proofs, tasks: TaskGroup) -> None:
        """Begin to ask about each group of which a node is due, so that none waits for another's answer."""
        suspects = self._find_suspects()
        self._forget(suspects)
        now = self._clock()
        due = (node_id for node_id in suspects if self._due.get(node_id, 0.0) <= now)
        for cluster_id, node_ids in group_nodes(due).items():
            rest = self._rests.get(cluster_id)
            if cluster_id not in self._under_way and (rest is None or rest.until_s <= now):
                self._under_way.add(cluster_id)
                group = {node_id: suspects[node_id] for node_id in node_ids}
                tasks.start_soon(self._release_group, proofs, cluster_id, group)

    async def _release_group(
        self, proofs: Proofs, cluster_id: str | None, suspects: Mapping[NodeId, Node]
    ) -> None:
        try:
            gone = await proofs.find_gone(tuple(suspects), self._find_witnesses())
        except AgentError as error:
            self._rest(cluster_id, error)
            return
        finally:
            self._under_way.remove(cluster_id)
        self._rests.pop(cluster_id, None)
        for node_id, node in suspects.items():
            self._note_asked(node_id)
            if node_id in gone:
                await self._put_out_of_service(node)

    async def _put_out_of_service(self, node: Node) -> None:
        name, provider_id = node.metadata.name, node.spec.provider_id
        plan = partial(plan_release, gone_provider_id=provider_id)
        if await self._change(name, "put it out of service", plan):
            log.warning("care.node_released", node=name, provider_id=provider_id)

    async def _change(self, name: str, deed: str, plan: Callable[[Node], Operations]) -> bool:
        try:
            return await change_node(self._api, self._lease, name, f"patch node {name} to {deed}", plan)
        except (ClusterError, OvertakenError) as error:
            log.warning("care.node_not_changed", node=name, error=error.message, hint=error.hint)
            self._has_failed = True
            return False

    def _find_suspects(self) -> Mapping[NodeId, Node]:
        """Return the nodes that hold a volume of the driver and are not heard of, by what they were."""
        if not (self._nodes.is_listed and self._attachments.is_listed):
            return {}
        holders = {
            found.spec.node_name
            for found in self._attachments.known.values()
            if found.spec.attacher == self._driver
        }
        suspects: dict[NodeId, Node] = {}
        for name in holders & self._nodes.known.keys():
            node = self._nodes.known[name]
            node_id = parse_provider_id(node.spec.provider_id)
            if node_id is not None and not node.is_ready and not node.has_taint(TAINT_OUT_OF_SERVICE):
                suspects[node_id] = node
        return suspects

    def _find_witnesses(self) -> list[NodeId]:
        """Return the nodes that are heard of."""
        ready = (node for node in self._nodes.known.values() if node.is_ready)
        found = (parse_provider_id(node.spec.provider_id) for node in ready)
        return [node_id for node_id in found if node_id is not None]

    def _note_asked(self, node_id: NodeId) -> None:
        asked = self._asked.get(node_id, 0)
        self._asked[node_id] = asked + 1
        self._due[node_id] = self._clock() + PAUSES_S[min(asked, len(PAUSES_S) - 1)]

    def _forget(self, suspects: Mapping[NodeId, Node]) -> None:
        """Ask at once about a node that falls silent again."""
        for node_id in self._asked.keys() - suspects.keys():
            del self._asked[node_id], self._due[node_id]
        for cluster_id in self._rests.keys() - {node_id.cluster_id for node_id in suspects}:
            del self._rests[cluster_id]

    def _rest(self, cluster_id: str | None, error: AgentError) -> None:
        rest = self._rests.setdefault(cluster_id, _Rest())
        rest_s = RESTS_S[min(rest.failures, len(RESTS_S) - 1)]
        rest.failures += 1
        rest.until_s = self._clock() + rest_s
        log.warning(
            "care.nothing_proven",
            cluster=cluster_id,
            error=error.message,
            hint=error.hint,
            rest_s=rest_s,
        )
