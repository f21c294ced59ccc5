"""Nodes of several groups fall silent together: what is not proven of one holds up none of the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, TypeVar, cast

import anyio
import msgspec
import pytest
import structlog

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import DescribeClusterNode, DescribeInstances, GetCallerIdentity, ListClusterNodes
from agent.cloud.aws.models import ClusterNode
from agent.cloud.errors.explain import Failure, explain_failure
from agent.controller.calls import NodeId
from agent.controller.care.dead_nodes import RESTS_S, DeadNodes
from agent.controller.care.proofs import Proofs
from agent.controller.cluster.api import ClusterApi, Operations
from agent.controller.cluster.lease import Lease
from agent.controller.cluster.objects import TAINT_OUT_OF_SERVICE, Node, VolumeAttachment
from agent.controller.cluster.watched import Watched
from tests.unit.controller.stand_in import run_until

pytestmark = pytest.mark.anyio
T = TypeVar("T")
DRIVER = "ebs.csi.aws.com"
POD, OTHER_POD = "abcde01234yz", "fghij56789yz"
"""HyperPod clusters."""


def name_node(number: int, cluster_id: str | None = None) -> NodeId:
    return NodeId(f"i-{number:017x}", cluster_id)


class Cluster:
    """What Kubernetes and AWS know of nodes; of AWS, only what a test has scripted."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.attachments: list[VolumeAttachment] = []
        self.gone: set[str] = set()
        self.denied: set[str] = set()
        """HyperPod clusters that may not be listed."""
        self.silent: set[str] = set()
        """HyperPod clusters of which AWS never answers."""
        self.asked: Counter[str] = Counter()
        """Questions, by the HyperPod cluster they are about, or EC2."""
        self.released: list[str] = []
        self.time_s = 0.0

    def add(self, node_id: NodeId, *, is_ready: bool = True) -> str:
        """Have a node that has a volume of the driver attached; return its name."""
        place = "" if node_id.cluster_id is None else f"sagemaker/cluster/hyperpod-{node_id.cluster_id}-"
        name = f"node-{len(self.attachments)}"
        self.nodes[name] = msgspec.convert(
            {
                "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
                "spec": {"providerID": f"aws:///us-west-2a/{place}{node_id.instance_id}"},
                "status": {"conditions": [{"type": "Ready", "status": "True" if is_ready else "Unknown"}]},
            },
            Node,
        )
        spec = {"attacher": DRIVER, "nodeName": name, "source": {}}
        attachment = {"metadata": {"name": f"on-{name}"}, "spec": spec}
        self.attachments.append(msgspec.convert(attachment, VolumeAttachment))
        if not is_ready:
            self.gone.add(node_id.instance_id)
        return name

    # -- Kubernetes' API and its lease --------------------------------------------------------------------

    async def list_all(self, kind: type[Any], /) -> tuple[str, list[Any]]:
        return "1", list(self.nodes.values()) if kind is Node else self.attachments

    async def find(self, kind: type[Node], name: str) -> Node | None:
        assert kind is Node
        return self.nodes.get(name)

    async def change(self, kind: type[Node], name: str, operations: Operations) -> None:
        assert kind is Node
        assert TAINT_OUT_OF_SERVICE in str(operations)
        self.released.append(name)
        del self.nodes[name]  # and with it the suspicion

    @asynccontextmanager
    async def doing(self, _: str) -> AsyncIterator[None]:
        yield

    # -- AWS ----------------------------------------------------------------------------------------------

    async def make(self, call: Call[T], /, *, within: Within = nullcontext) -> T:
        async with within():
            await asyncio.sleep(0)
            return cast("T", await self._answer(call))

    async def _answer(self, call: Call[Any]) -> Any:
        if isinstance(call, GetCallerIdentity):
            return "123456789012", "arn:aws:sts::123456789012:assumed-role/r/s"
        if isinstance(call, DescribeInstances):
            self.asked["EC2"] += 1
            states = {one: "terminated" if one in self.gone else "running" for one in call.instance_ids}
            return (tuple(states.items()),)
        if isinstance(call, DescribeClusterNode):
            raise explain_failure(Failure(call.service, call.operation, "ResourceNotFound", "no such node"))
        assert isinstance(call, ListClusterNodes)
        cluster_id = call.cluster.rpartition("/")[2]
        self.asked[cluster_id] += 1
        if cluster_id in self.silent:
            await anyio.sleep_forever()
        if cluster_id in self.denied:
            raise explain_failure(Failure(call.service, call.operation, "AccessDeniedException", "denied"))
        here = [node for node in self.nodes.values() if cluster_id in node.spec.provider_id]
        ids = ("i-" + node.spec.provider_id.rpartition("-i-")[2] for node in here)
        return tuple(ClusterNode(one, "g", "Running") for one in ids if one not in self.gone)


@asynccontextmanager
async def caring(cluster: Cluster) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Care for the nodes; gives what has all be listed anew, upon which nodes are looked at."""
    nodes, attachments = Watched(cluster, Node), Watched(cluster, VolumeAttachment)  # type: ignore[arg-type]  # it only lists

    async def look_anew() -> None:
        await attachments._list()
        await nodes._list()

    await look_anew()
    care = DeadNodes(
        cast("ClusterApi", cluster),
        cast("Lease", cluster),
        DRIVER,
        nodes,
        attachments,
        Proofs(cluster.make, "us-west-2"),
        clock=lambda: cluster.time_s,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(care.tend)
        yield look_anew
        tasks.cancel_scope.cancel()


def list_unproven(logs: list[Any]) -> dict[str | None, str]:
    return {one["cluster"]: one["error"] for one in logs if one["event"] == "care.nothing_proven"}


@pytest.mark.parametrize("why", ["no witness", "denied"])
async def test_what_is_not_proven_of_one_group_holds_up_no_other(why: str) -> None:
    """Each has its own questions, and its own rest after one that was not answered."""
    cluster = Cluster()
    cluster.add(name_node(1))
    lost = [cluster.add(name_node(2), is_ready=False), cluster.add(name_node(3, POD), is_ready=False)]
    if why == "denied":
        cluster.add(name_node(4, POD))
        cluster.denied.add(POD)
    with structlog.testing.capture_logs() as logs:
        async with caring(cluster) as look_anew:
            await run_until(lambda: bool(cluster.released and list_unproven(logs)))
            assert cluster.released == lost[:1]
            lost.append(cluster.add(name_node(5), is_ready=False))
            asked = cluster.asked[POD]
            await look_anew()
            await run_until(lambda: len(cluster.released) > 1)
            assert cluster.asked[POD] == asked
            cluster.time_s += RESTS_S[0]
            cluster.denied.clear()
            cluster.add(name_node(6, POD))
            await look_anew()
            await run_until(lambda: len(cluster.released) > 2)
    assert cluster.released == [lost[0], lost[2], lost[1]]
    words = {"no witness": "is ready beside those", "denied": "sagemaker:ListClusterNodes"}
    assert list(list_unproven(logs)) == [POD]
    assert words[why] in list_unproven(logs)[POD]


async def test_a_group_of_which_aws_does_not_answer_is_waited_for_by_none() -> None:
    """It is not asked about a second time meanwhile."""
    cluster = Cluster()
    cluster.silent.add(POD)
    for number, group in enumerate((None, POD, OTHER_POD)):
        cluster.add(name_node(10 + number, group))
    lost = [cluster.add(name_node(20, POD), is_ready=False), cluster.add(name_node(21), is_ready=False)]
    async with caring(cluster) as look_anew:
        await run_until(lambda: len(cluster.released) == 1)
        lost.append(cluster.add(name_node(22, OTHER_POD), is_ready=False))
        await look_anew()
        await run_until(lambda: len(cluster.released) == 2)
    assert cluster.released == lost[1:]
    assert cluster.asked[POD] == 1


async def test_each_rests_longer_the_oftener_it_fails() -> None:
    cluster = Cluster()
    cluster.denied = {POD, OTHER_POD}
    cluster.add(name_node(1, POD))
    cluster.add(name_node(2, POD), is_ready=False)
    with structlog.testing.capture_logs() as logs:
        async with caring(cluster) as look_anew:
            for number, rest_s in enumerate(RESTS_S, start=1):
                await run_until(lambda: len(list(logs)) == number)  # noqa: B023 -- waited for here
                assert logs[-1]["rest_s"] == rest_s
                cluster.time_s += rest_s
                await look_anew()
        assert {one["event"] for one in logs} == {"care.nothing_proven"}
