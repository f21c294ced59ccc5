"""What is asked of AWS, and how often: own names only, in few calls, ever more rarely."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cloud.aws.calls import DescribeVolumes, ListClusterNodes
from agent.core.model import Reason
from tests.aws.cloud import CLUSTER_ID, OTHER_ZONE
from tests.aws.world import NodeUnderTest, World

OWN = """
classes: {a: {type: gp3}}
volumes:
  - {name: own, claim: {class: a, size: 1GiB}, block: {}}
"""
CLAIMS = OWN + "  - {name: shared, claim: {class: a, size: 1GiB, per: cluster}, block: {}}\n"
BY_TAGS = """
volumes:
  - {name: one, match: {tags: {role: one}}, block: {}}
  - {name: two, match: {tags: {role: two}}, block: {}}
  - {name: three, match: {tags: {team: a, role: three}}, block: {}}
"""


def make_claimed(world: World, node: str, claim: str = "own") -> str:
    return world.cloud.make_volume(
        tags={
            "ebs-agent:made-by": "ebs-agent",
            "ebs-agent:cluster": CLUSTER_ID,
            "ebs-agent:claim": claim,
            "ebs-agent:node": node,
        }
    )


def count_described(node: NodeUnderTest) -> int:
    return len(node.loop.findings.origins)


async def test_volumes_of_other_nodes_are_not_described(world: World, tmp_path: Path) -> None:
    """A star in a filter is a wildcard at EC2: the cluster's own volumes are asked for by a literal one."""
    for number in range(10, 40):
        make_claimed(world, f"compute-{number}")
    world.use_policy(tmp_path, CLAIMS)
    node = world.add_node(1)
    await node.settle()
    assert count_described(node) == 2
    assert world.aws.calls["ListClusterNodes"] == 0


@pytest.mark.parametrize("tag", ["a*", "a?c", "a[b]c", "a\\b", "*"])
async def test_tags_are_meant_literally(world: World, tmp_path: Path, tag: str) -> None:
    """A tag's value is found by every character of it, also those that mean something in a filter."""
    for other in ("abc", "axc", "a", "ab", "aac"):
        world.cloud.make_volume(tags={"role": other})
    wanted = world.cloud.make_volume(tags={"role": tag})
    world.use_policy(tmp_path, f"volumes: [{{name: db, match: {{tags: {{role: '{tag}'}}}}, block: {{}}}}]\n")
    node = world.add_node(1)
    findings = await node.settle()
    assert set(findings.origins) == {wanted}


async def test_holders_of_others_claims_are_nobodys_suspects(world: World, tmp_path: Path) -> None:
    """Only who holds this node's claims is asked about: not who holds a volume of another node's claim."""
    by_tags = "  - {name: else, match: {tags: {x: y}}, block: {}}\n"
    world.use_policy(tmp_path, OWN)
    await world.add_node(1).settle()
    (theirs,) = world.cloud.volumes.values()
    theirs.add_tags({"x": "y"})
    world.use_policy(tmp_path, OWN + by_tags)
    node = world.add_node(2)
    findings = await node.look(6)
    assert findings.endings["else"].reason is Reason.ATTACHED_ELSEWHERE
    assert not [call for call in node.made if isinstance(call, ListClusterNodes)]


async def test_waiting_node_asks_who_is_gone_ever_more_rarely(world: World, tmp_path: Path) -> None:
    """A node that waits for a volume another one has asks seldom whether that one is gone."""
    world.use_policy(tmp_path, CLAIMS)
    await world.add_node(1).settle()
    node = world.add_node(2)
    for _ in range(40):
        await node.look()
        node.time_s += 30
    assert node.loop.findings.endings["shared"].reason is Reason.ATTACHED_ELSEWHERE
    assert sum(isinstance(call, ListClusterNodes) for call in node.made) <= 9


async def test_entries_by_tags_share_a_call(world: World, tmp_path: Path) -> None:
    """Entries that go by the same keys are asked for together, and no more once their volumes are here."""
    for role in ("one", "two"):
        world.cloud.make_volume(tags={"role": role})
    world.cloud.make_volume(tags={"role": "three", "team": "a"})
    world.use_policy(tmp_path, BY_TAGS)
    node = world.add_node(1)
    await node.look()
    assert (
        sum(isinstance(call, DescribeVolumes) for call in node.made) == 3
    )  # one of them for the marks of the agent itself
    findings = await node.settle()
    assert len(findings.origins) == 3
    world.aws.calls.clear()
    await node.look(3)
    assert dict(world.aws.calls) == {"DescribeVolumes": 3}


async def test_volume_elsewhere_is_found_to_be_told(world: World, tmp_path: Path) -> None:
    """Volumes of other zones are described only where none of this zone is meant, so that it can be said."""
    far = world.cloud.make_volume(zone=OTHER_ZONE, tags={"role": "one"})
    for role in ("one", "two"):
        world.cloud.make_volume(tags={"role": role})
    world.cloud.make_volume(zone=OTHER_ZONE, tags={"role": "three", "team": "a"})
    world.use_policy(tmp_path, BY_TAGS)
    node = world.add_node(1)
    findings = await node.look(5)
    assert findings.endings["three"].reason is Reason.WRONG_ZONE
    assert findings.endings.keys() == {"three"}
    assert far not in findings.origins
