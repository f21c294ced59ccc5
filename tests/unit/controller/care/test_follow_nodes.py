"""Which nodes the cluster has, as every replica follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from agent.controller.calls import NodeId
from agent.controller.care.follow_nodes import find_node_ids, follow_nodes
from agent.controller.cluster.cluster_nodes import ClusterNodes
from agent.controller.cluster.objects import CsiNode
from tests.unit.controller.stand_in import HYPERPOD, NODE, OTHER

DRIVER = "ebs.csi.hyperpod-agent"


def make_csi_node(name: str, **drivers: str) -> CsiNode:
    """Return one as the API server writes it: drivers by their names, with what each calls the node."""
    told = [{"name": name.replace("_", "."), "nodeID": node_id} for name, node_id in drivers.items()]
    return msgspec.convert({"metadata": {"name": name}, "spec": {"drivers": told}}, CsiNode)


def test_nodes_are_those_of_the_driver() -> None:
    """Other drivers call the same nodes something else, and what can be no instance is none."""
    found = find_node_ids(
        [
            msgspec.convert(
                {
                    "metadata": {"name": "a"},
                    "spec": {
                        "drivers": [
                            {"name": "efs.csi.aws.com", "nodeID": OTHER.instance_id},
                            {"name": DRIVER, "nodeID": str(HYPERPOD)},
                        ]
                    },
                },
                CsiNode,
            ),
            msgspec.convert(
                {"metadata": {"name": "b"}, "spec": {"drivers": [{"name": DRIVER, "nodeID": "b.local"}]}},
                CsiNode,
            ),
            make_csi_node("c"),
        ],
        DRIVER,
    )
    assert list(found) == [HYPERPOD]


def test_an_instance_stays_the_clusters() -> None:
    """Its driver may be started anew, or the node be taken away, while volumes are still at it."""
    nodes = ClusterNodes()
    assert nodes.list_known() is None
    nodes.note([])
    assert nodes.list_known() == {}
    nodes.note([NODE, NodeId(HYPERPOD.instance_id)])
    nodes.note([HYPERPOD])
    assert nodes.list_known() == {NODE.instance_id: NODE, HYPERPOD.instance_id: HYPERPOD}


@dataclass
class CsiNodeServer:
    """Has one node from the start, and tells of another."""

    go_on: anyio.Event = field(default_factory=anyio.Event)

    async def list_all(self, _kind: type[Any]) -> tuple[str, list[Any]]:
        return "1", [make_csi_node("a", x_y=str(NODE))]

    async def watch(self, _kind: type[Any], _version: str) -> AsyncIterator[tuple[str, Any]]:
        await self.go_on.wait()
        yield "ADDED", make_csi_node("b", x_y=str(HYPERPOD))
        await anyio.sleep_forever()


async def test_what_is_listed_and_what_comes_is_told() -> None:
    server, told, ids = CsiNodeServer(), anyio.Event(), set[NodeId]()

    def note(nodes: Any) -> None:
        nonlocal told
        ids.update(nodes)
        told.set()
        told = anyio.Event()

    async with anyio.create_task_group() as group:
        group.start_soon(follow_nodes, server, "x.y", note)
        await told.wait()
        assert ids == {NODE}
        server.go_on.set()
        await told.wait()
        assert ids == {NODE, HYPERPOD}
        group.cancel_scope.cancel()
