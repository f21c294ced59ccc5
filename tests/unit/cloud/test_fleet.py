"""Many nodes at once, on a clock that jumps: they share what gone nodes left, and never one volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import anyio
import pytest

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.calls import AttachClusterNodeVolume
from agent.cloud.aws.models import CloudVolume
from agent.core.model import VolumeId
from bench.fleet import VOLUMES_PER_NODE, Fleet, SimulatedNode, Way
from bench.limits import Bucket, JumpingLoop
from tests.aws.world import CrashError, is_crash

ENDLESS = 1e9
LIMIT_S = 3600.0


def play(story: Callable[[], Awaitable[None]]) -> None:
    anyio.run(story, backend_options={"loop_factory": JumpingLoop})


def make_fleet(nodes: int, left: float, seed: int, lag_s: float) -> Fleet:
    """Return a fleet whose AWS limits nothing, so that nodes meet as closely as can be."""
    fleet = Fleet(nodes, Way("", is_claimed=True, is_pooled=True, left=left), seed, lag_s)
    fleet.gate.describes = fleet.gate.changes = Bucket(ENDLESS, ENDLESS, ENDLESS)
    return fleet


def list_used(node: SimulatedNode) -> list[VolumeId]:
    return list(node.findings.claimed.values())


def check_shared(fleet: Fleet) -> None:
    """Each node has its volumes, which bear its name, and no volume has two."""
    for node in fleet.nodes.values():
        assert node.ready_at_s is not None, node.findings.endings
        used = list_used(node)
        assert len(used) == VOLUMES_PER_NODE
        assert set(used) == set(node.devices), "what was taken beside them was given back"
        for volume_id in used:
            volume = fleet.aws.volumes[volume_id]
            assert volume.tag("ebs-agent:node") == node.name
            assert [one.instance_id for one in volume.attachments] == [node.instance_id]
    users = Counter(volume_id for node in fleet.nodes.values() for volume_id in list_used(node))
    assert set(users.values()) == {1}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("left", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("lag_s", [0.0, 7.0], ids=["prompt", "lagging"])
def test_nodes_share_a_pool(left: float, lag_s: float, seed: int) -> None:
    """Nodes that boot at once take what was left, make what is missing, and no two of them one volume."""
    nodes = 12

    async def run() -> None:
        fleet = make_fleet(nodes, left, seed, lag_s)
        await fleet.run(LIMIT_S)
        check_shared(fleet)
        assert len(fleet.aws.made) == max(0, nodes - round(nodes * left)) * VOLUMES_PER_NODE
        assert fleet.aws.served["DetachClusterNodeVolume"] == 0

    play(run)


@pytest.mark.thorough
def test_hundred_nodes_share_a_pool() -> None:
    """A hundred nodes boot at once where forty left their volumes."""

    async def run() -> None:
        fleet = make_fleet(100, 0.4, seed=1, lag_s=3.0)
        await fleet.run(LIMIT_S)
        check_shared(fleet)
        assert len(fleet.aws.made) == 60 * VOLUMES_PER_NODE

    play(run)


class RestlessNode(SimulatedNode):
    """A node whose agent is killed now and then around an attach, and started again."""

    deaths = 0

    async def make(self, call: Call[Any], *, within: Within = nullcontext) -> Any:
        is_near = isinstance(call, AttachClusterNodeVolume) and self.deaths < 3
        if is_near and self._rng.random() < 0.3:
            self.deaths += 1
            raise CrashError
        answer = await super().make(call, within=within)
        if is_near and self._rng.random() < 0.3:
            self.deaths += 1
            raise CrashError
        return answer


async def live(node: SimulatedNode) -> None:
    """Run a node's agent, and start it again whenever it dies."""
    while True:
        await run_until_it_dies(node)
        node.restart()


async def run_until_it_dies(node: SimulatedNode) -> None:
    try:
        await node.loop.run()
    except BaseException as error:
        if not is_crash(error):
            raise


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lag_s", [0.0, 7.0], ids=["prompt", "lagging"])
def test_agents_that_die_while_they_take_share_a_pool(
    lag_s: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever agents die around an attach, no volume is lost to the pool, and none is had by two."""
    monkeypatch.setattr("bench.fleet.SimulatedNode", RestlessNode)

    async def run() -> None:
        fleet = make_fleet(8, 1.0, seed, lag_s)
        async with anyio.create_task_group() as tasks:
            for node in fleet.nodes.values():
                tasks.start_soon(live, node)
            await anyio.sleep(LIMIT_S)
            tasks.cancel_scope.cancel()
        check_shared(fleet)
        assert not fleet.aws.made

    play(run)


def hold(volume: CloudVolume, fleet: Fleet) -> bool:
    return any(one.instance_id in fleet.nodes for one in volume.attachments)


def test_volume_of_a_node_that_lives_is_left() -> None:
    """A volume that is free and bears the name of a node that lives is nobody else's to take."""

    async def run() -> None:
        fleet = make_fleet(2, 1.0, seed=1, lag_s=0.0)
        holders = {f"i-{0xDEAD0000 + number:017x}" for number in range(2)}
        fleet.aws.nodes |= holders
        before = set(fleet.aws.volumes)
        await fleet.run(LIMIT_S)
        assert not any(hold(fleet.aws.volumes[volume_id], fleet) for volume_id in before)
        assert len(fleet.aws.made) == 2 * VOLUMES_PER_NODE

    play(run)
