"""What HyperPod refuses, and what the agent makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cloud.aws.calls import ListClusterNodes
from agent.cloud.errors.explain import CloudError
from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.identity.whoami import Orchestrator
from agent.cloud.service import ENDPOINT_VARIABLE, CloudService
from agent.core.model import Reason
from agent.core.replace import replace
from tests.aws.cloud import CLUSTER_ARN
from tests.aws.world import CREDENTIALS, EmulatedHands, World

CLAIM = """
classes: {plain: {type: gp3}}
volumes:
  - name: data
    claim: {class: plain, size: 1GiB}
    filesystem: {type: ext4, format: if-blank}
    mount: {path: /data/data}
"""


def by_id(volume: str) -> str:
    return f"volumes:\n  - {{name: db, match: {{volume_id: {volume}}}, block: {{}}}}\n"


async def test_cluster_that_is_being_created_is_waited_for(world: World, tmp_path: Path) -> None:
    """While the cluster is not InService the volume waits, and is attached when it is, with nobody's help."""
    world.use_policy(tmp_path, by_id(world.cloud.make_volume()))
    node = world.add_node(1)
    world.cloud.hyperpod.status = "Creating"
    ending = (await node.look()).endings["db"]
    assert ending.reason is Reason.WAITING_FOR_CLOUD
    assert "InService" in ending.message
    assert "lifecycle scripts" in str(ending.hint)
    world.cloud.hyperpod.status = "InService"
    await node.settle(step_s=30)
    assert node.hands.list_devices()


async def test_slurm_cluster_is_asked_nothing(world: World, tmp_path: Path) -> None:
    """In a cluster that Slurm orchestrates no volume is made and none attached; one that is here is used."""
    volume = world.cloud.make_volume()
    world.use_policy(tmp_path, CLAIM + by_id(volume).removeprefix("volumes:\n"))
    world.cloud.hyperpod.orchestrator = "Slurm"
    node = world.add_node(1)
    node.identity = replace(node.identity, orchestrator=Orchestrator.SLURM)
    endings = (await node.look(3)).endings
    assert {ending.reason for ending in endings.values()} == {Reason.ATTACH_UNSUPPORTED}
    assert {"data", "db"} == set(endings)
    changes = {name for name in world.aws.calls if not name.startswith(("Describe", "List"))}
    assert not changes
    world.devices.here[str(node.identity.instance_id)] = {volume}
    assert "db" not in (await node.look()).endings


@pytest.mark.parametrize("is_restricted", [True, False], ids=["restricted", "Slurm, not known"])
async def test_what_never_works_is_refused(world: World, tmp_path: Path, *, is_restricted: bool) -> None:
    """Where HyperPod attaches nothing, that is told as such, and not asked again and again."""
    world.use_policy(tmp_path, by_id(world.cloud.make_volume()))
    node = world.add_node(1)
    if is_restricted:
        world.cloud.hyperpod.restricted.add(str(node.identity.instance_id))
    else:
        world.cloud.hyperpod.orchestrator = "Slurm"
    for _ in range(10):
        ending = (await node.look()).endings["db"]
        assert ending.reason is Reason.ATTACH_UNSUPPORTED
    assert world.aws.calls["AttachClusterNodeVolume"] == 1


async def test_client_is_made_anew_when_the_region_is_known(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks AWS before the region is known does not keep asking nowhere once it is."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ENDPOINT_VARIABLE, world.aws.endpoint)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "config.json"
    surroundings = IdentitySources(path, None, host_name=f"hyperpod-{world.add_node(1).identity.instance_id}")
    hands = EmulatedHands(world.devices, "i-none")
    service = CloudService(
        lambda: world.policy, hands, lambda _: None, lambda _operation, _outcome: None,
        surroundings=lambda: surroundings,
    )  # fmt: skip

    async def tell(_text: str | None, _percent: float | None = None) -> None: ...

    follower, _view = await service.prepare_orders(tell)
    with pytest.raises(CloudError, match="in which region") as raised:
        await follower.make(ListClusterNodes(CLUSTER_ARN))
    assert raised.value.reason is Reason.WAITING_FOR_CLOUD
    path.write_text(json.dumps({"ClusterConfig": {"ClusterArn": CLUSTER_ARN}}))
    await service.prepare_orders(tell)
    assert len(await follower.make(ListClusterNodes(CLUSTER_ARN))) == 1
    await service.end()


async def test_large_cluster_is_listed_whole(world: World) -> None:
    """A cluster of more than a page of nodes is listed to its end, each node once."""
    nodes = [world.add_node(number) for number in range(1, 251)]
    listed = await nodes[0].make(ListClusterNodes(CLUSTER_ARN))
    assert [one.instance_id for one in listed] == [node.identity.instance_id for node in nodes]
    assert world.aws.calls["ListClusterNodes"] == 3


OLD_CLUSTER_ARN = CLUSTER_ARN.replace("cluster/", "cluster/z")[: len(CLUSTER_ARN)]


async def test_node_that_was_moved_to_another_cluster_finds_out_by_the_answer(
    world: World, tmp_path: Path
) -> None:
    """That AWS knows no such node, or cluster, has it asked anew who the node is, without a restart."""
    world.use_policy(tmp_path, by_id(world.cloud.make_volume()))
    node = world.add_node(1)
    moved = node.identity
    node.identity = replace(moved, cluster_arn=OLD_CLUSTER_ARN)
    ending = (await node.look(2)).endings["db"]
    assert "does not know this cluster, or this node in it" in ending.message
    node.identity = moved
    await node.settle(step_s=30)
    assert node.hands.list_devices()
    assert node.loop.findings.facts.cluster_id == moved.cluster_id


async def test_list_of_the_cluster_without_this_node_has_it_asked_again(world: World, tmp_path: Path) -> None:
    """A node that was moved is not in the list it asks for: that proves nothing, and is told."""
    world.use_policy(tmp_path, CLAIM.replace("1GiB}", "1GiB, per: cluster}"))
    await world.add_node(1).settle()
    node = world.add_node(2)
    del world.cloud.nodes[str(node.identity.instance_id)]
    ending = (await node.look()).endings["data"]
    assert "does not have this node" in ending.message
    assert ending.reason is Reason.WAITING_FOR_CLOUD
    assert "another cluster" in str(ending.hint)
    node.identity = replace(node.identity, cluster_arn=OLD_CLUSTER_ARN)
    assert (await node.look()).facts.cluster_id == node.identity.cluster_id
    assert world.aws.calls["DetachClusterNodeVolume"] == 0


async def test_reload_asks_again_which_node_this_is(world: World, tmp_path: Path) -> None:
    """After a reload claims and marks are those of the cluster that the node is in by now."""
    world.use_policy(tmp_path, CLAIM)
    node = world.add_node(1)
    moved = node.identity
    node.identity = replace(moved, cluster_arn=OLD_CLUSTER_ARN)
    await node.look()
    node.identity = moved
    await node.look()
    assert node.loop.findings.facts.cluster_id != moved.cluster_id
    node.policy = replace(world.policy)
    await node.look()
    assert node.loop.findings.facts.cluster_id == moved.cluster_id
