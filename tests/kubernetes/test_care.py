from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from agent.cloud.aws.calls import AttachClusterNodeVolume, CreateSnapshot
from agent.cloud.aws_worker.main import Caller
from agent.controller.care.orphans import Orphans
from agent.controller.care.settings import CareSettings
from agent.controller.care.tell_events import Teller
from agent.controller.cluster.api import connect
from agent.controller.cluster.lease import Lease
from agent.controller.cluster.objects import MARK_RELEASED, TAINT_OUT_OF_SERVICE, Node, VolumeAttachment
from agent.controller.cluster.watched import Watched
from agent.controller.program import ControllerSettings, Parts, run_controller
from agent.core.model import VolumeId
from tests.aws.cloud import CLUSTER_ARN, CLUSTER_ID, REGION, ZONE, Cloud
from tests.aws.faults import deny
from tests.aws.server import AwsServer
from tests.aws.world import CREDENTIALS, NodeUnderTest, World
from tests.component.controller.conftest import ScriptedCloud
from tests.kubernetes.care import DRIVER, OTHER, START_UP, CareCluster, run_care_cluster
from tests.kubernetes.programs import find_missing
from tests.kubernetes.sidecars import declare_snapshots
from tests.waiting import until

KNOWN, PENDING, LOST = (f"0b5c1a52-1c0e-4a39-8d63-{number:012}" for number in (1, 2, 3))
"""The UIDs of VolumeSnapshots, by which they are named."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CareCluster]:
    with run_care_cluster(tmp_path_factory.mktemp("care")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: CareCluster) -> Iterator[CareCluster]:
    yield running
    running.clear()


async def test_a_node_takes_pods_once_its_driver_is_there(cluster: CareCluster) -> None:
    """The start-up taint goes when CSINode has the driver, counted or not, and no other taint does."""
    node = cluster.add_node("late", OTHER, START_UP)
    uncounted = cluster.add_node("uncounted", START_UP)
    async with cluster.care():
        cluster.register_driver(uncounted, count=None)
        cluster.register_driver(node)
        await until(lambda: cluster.read_taints("late") == {OTHER["key"]})
        await until(lambda: not cluster.read_taints("uncounted"))
        early = cluster.add_node("early", START_UP)
        cluster.register_driver(early)
        await until(lambda: not cluster.read_taints("early"))


async def test_a_node_is_not_taken_for_an_earlier_one_of_its_name(cluster: CareCluster) -> None:
    """The CSINode that a node left behind says nothing of the next one of the same name."""
    former = cluster.add_node("renewed")
    cluster.register_driver(former)
    cluster.api.delete("Node", "renewed")
    cluster.add_node("renewed", START_UP)
    other = cluster.add_node("other", START_UP)
    cluster.register_driver(other)
    async with cluster.care():
        await until(lambda: not cluster.read_taints("other"))
    assert cluster.read_taints("renewed") == {START_UP["key"]}


async def test_one_of_two_replicas_works(cluster: CareCluster) -> None:
    """The second one waits, and has its turn as soon as the first one ends."""
    async with cluster.care("two") as second:
        await until(lambda: cluster.read_holder(second.settings) == "two")
        async with cluster.care("one") as first:
            node = cluster.add_node("tended", START_UP)
            cluster.register_driver(node)
            await until(lambda: not cluster.read_taints("tended"))
            assert cluster.read_holder(first.settings) == "two"
            assert not any(verb == "watch" for _, _, verb in first.api.used)
    async with cluster.care("three") as third:
        await until(lambda: cluster.read_holder(third.settings) == "three")


async def test_a_replica_stops_when_it_loses_the_lease(cluster: CareCluster) -> None:
    """It does nothing more until it has the lease again."""
    with structlog.testing.capture_logs() as logs:
        async with cluster.care("one") as replica:
            await until(lambda: cluster.read_holder(replica.settings) == "one")
            name = replica.settings.lease
            cluster.api.patch("Lease", name, {"spec": {"holderIdentity": "two"}})
            await until(lambda: "care.lease_lost" in {entry["event"] for entry in logs})
            node = cluster.add_node("left", START_UP)
            cluster.register_driver(node)
            assert cluster.read_taints("left") == {START_UP["key"]}
            cluster.api.delete("Lease", name)
            await until(lambda: logs[-1]["event"] == "care.node_welcomed")
            assert not cluster.read_taints("left")
    assert [entry["event"] for entry in logs if entry["event"].startswith("care.")] == [
        *("care.began", "care.lease_lost", "care.began", "care.node_welcomed")
    ]


async def test_a_restarted_api_server_is_found_again(cluster: CareCluster) -> None:
    """Nothing but the API server's return is waited for."""
    node = cluster.add_node("before", START_UP)
    async with cluster.care():
        cluster.register_driver(node)
        await until(lambda: not cluster.read_taints("before"))
        cluster.stop()
        cluster.start()
        later = cluster.add_node("after", START_UP)
        cluster.register_driver(later)
        await until(lambda: not cluster.read_taints("after"))


@pytest.fixture(scope="module")
def server() -> Iterator[AwsServer]:
    with AwsServer(Cloud()) as running:
        yield running


@pytest.fixture
def world(server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> World:
    """Give an AWS of which nothing is known yet."""
    server.renew(Cloud())
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return World(server, Caller(REGION, server.endpoint))


def add_hyperpod_node(
    cluster: CareCluster, world: World, number: int, name: str = "", *taints: dict[str, str]
) -> NodeUnderTest:
    """Have a node of the HyperPod cluster, which Kubernetes hears of."""
    node = world.add_node(number)
    instance_id = node.identity.instance_id
    provider_id = f"aws:///{ZONE}/sagemaker/cluster/hyperpod-{CLUSTER_ID}-{instance_id}"
    cluster.add_node(name or f"node-{number}", *taints, provider_id=provider_id)
    return node


async def test_volumes_of_an_instance_that_is_proven_gone_are_released(
    cluster: CareCluster, world: World
) -> None:
    """Neither silence of the node nor of AWS does it; and a node that returns is in service again."""
    witness, node = (add_hyperpod_node(cluster, world, number, "", OTHER) for number in (1, 2))
    cluster.attach("node-2")
    denied = deny("DescribeClusterNode", "sagemaker:DescribeClusterNode", times=1)
    with structlog.testing.capture_logs() as logs:
        async with cluster.care(make=witness.make, releases_dead_nodes=True):
            cluster.set_ready("node-2", is_ready=False)
            await until(lambda: world.aws.calls["ListClusterNodes"])
            assert cluster.read_taints("node-2") == {OTHER["key"]}
            world.aws.faults.add(denied)
            world.cloud.remove_node(str(node.identity.instance_id))
            await until(lambda: "care.nothing_proven" in {entry["event"] for entry in logs})
            assert cluster.read_taints("node-2") == {OTHER["key"]}
            await until(lambda: cluster.read_taints("node-2") == {OTHER["key"], TAINT_OUT_OF_SERVICE})
            cluster.set_ready("node-2", is_ready=True)
            await until(lambda: cluster.read_taints("node-2") == {OTHER["key"]})
    assert cluster.read_taints("node-1") == {OTHER["key"]}
    read = cluster.api.read("Node", "node-2")
    assert MARK_RELEASED not in read["metadata"].get("annotations", {})


async def test_only_nodes_with_volumes_of_the_driver_are_asked_about(
    cluster: CareCluster, world: World
) -> None:
    """What is not released by it is left to Kubernetes, and so is everything unless it is asked for."""
    witness = add_hyperpod_node(cluster, world, 1)
    for number in (2, 3, 4):
        gone = add_hyperpod_node(cluster, world, number)
        cluster.set_ready(f"node-{number}", is_ready=False)
        world.cloud.remove_node(str(gone.identity.instance_id))
    cluster.attach("node-3", driver="other.example.com")
    cluster.attach("node-4")
    async with cluster.care():
        tended = cluster.add_node("tended", START_UP)
        cluster.register_driver(tended)
        await until(lambda: not cluster.read_taints("tended"))
    async with cluster.care(make=witness.make, releases_dead_nodes=True):
        await until(lambda: cluster.read_taints("node-4") == {TAINT_OUT_OF_SERVICE})
    assert cluster.read_taints("node-2") == cluster.read_taints("node-3") == set()


async def test_what_an_operator_put_out_of_service_stays_so(cluster: CareCluster, world: World) -> None:
    """Only what the controller did is taken back, by whichever replica, with the option or without."""
    witness = add_hyperpod_node(cluster, world, 1)
    theirs = {"key": TAINT_OUT_OF_SERVICE, "value": "theirs", "effect": "NoExecute"}
    add_hyperpod_node(cluster, world, 2, "theirs", theirs)
    ours = add_hyperpod_node(cluster, world, 3, "ours")
    cluster.attach("ours")
    cluster.set_ready("ours", is_ready=False)
    world.cloud.remove_node(str(ours.identity.instance_id))
    async with cluster.care("one", make=witness.make, releases_dead_nodes=True):
        await until(lambda: cluster.read_taints("ours") == {TAINT_OUT_OF_SERVICE})
    cluster.set_ready("ours", is_ready=True)
    async with cluster.care("two"):
        await until(lambda: not cluster.read_taints("ours"))
    assert cluster.read_taints("theirs") == {TAINT_OUT_OF_SERVICE}


def read_events(cluster: CareCluster, kind: str) -> list[tuple[str, str]]:
    """Return (reason, message) of what was told of objects of a kind."""
    events = cluster.api.list("Event")
    return [(one["reason"], one["message"]) for one in events if one["involvedObject"]["kind"] == kind]


def write_volume(name: str, handle: str, claim: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "csi": {"driver": DRIVER, "volumeHandle": handle},
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "default", "name": claim, "uid": "u"},
        },
    }


async def test_a_claim_is_told_once_why_its_volume_is_not_attached(cluster: CareCluster) -> None:
    """The answer's sentence and hint are an event of the claim, which the next replica does not repeat."""
    cluster.api.create(write_volume("pv-1", "vol-0123456789abcdef0", "data"))
    cluster.attach("node-1")
    said = "rpc error: code = PermissionDenied desc = The role lacks ec2:AttachVolume. Add it."
    error = {"time": "2026-01-01T00:00:00Z", "message": said}
    status = {"status": {"attached": False, "attachError": error}}
    cluster.api.patch("VolumeAttachment", "pv-1-node-1", status, subresource="status")
    for holder in ("one", "two"):
        with structlog.testing.capture_logs() as logs:
            async with cluster.care(holder) as replica:
                create = ("", "events", "create")
                await until(lambda: create in replica.api.used)  # noqa: B023 -- waited for here
                await until(lambda: read_events(cluster, "PersistentVolumeClaim"))
        assert "care.claim_not_told" not in {entry["event"] for entry in logs}
    assert read_events(cluster, "PersistentVolumeClaim") == [
        (
            "AttachFailed",
            "The volume cannot be attached to node node-1: The role lacks ec2:AttachVolume. Add it.",
        )
    ]


async def test_what_is_left_of_volumes_is_listed_and_left(cluster: CareCluster, world: World) -> None:
    """What two looks find is told of the driver; it stays as it is."""
    node = add_hyperpod_node(cluster, world, 1)
    volume_id = world.cloud.make_volume()
    world.cloud.volumes[volume_id].add_tags({"CSIVolumeName": "pv-gone"})
    await node.make(AttachClusterNodeVolume(CLUSTER_ARN, str(node.identity.instance_id), VolumeId(volume_id)))
    cluster.attach("node-1", "pv-gone")
    assert await look_for_orphans(cluster, node, times=1)
    assert read_events(cluster, "CSIDriver") == []
    counted = await look_for_orphans(cluster, node, times=3)
    told = sorted(message.partition(" is left")[0] for _, message in read_events(cluster, "CSIDriver"))
    assert told == ["VolumeAttachment pv-gone-node-1", f"volume {volume_id}"]
    one_each = {"VolumeAttachment": 1, "snapshot": 0, "volume": 1}
    assert counted == [dict.fromkeys(one_each, 0), one_each, one_each]
    assert world.cloud.volumes[volume_id].status == "in-use"
    assert cluster.api.read("VolumeAttachment", "pv-gone-node-1")


def write_content(name: str, handle: str) -> dict[str, Any]:
    """Return what the snapshotter makes of a VolumeSnapshot; its status is to be written after."""
    of = {"kind": "VolumeSnapshot", "namespace": "default", "name": name}
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotContent",
        "metadata": {"name": f"snapcontent-{name}"},
        "spec": {
            "driver": DRIVER,
            "deletionPolicy": "Delete",
            "source": {"volumeHandle": handle},
            "volumeSnapshotRef": of,
        },
    }


@pytest.mark.skipif(bool(find_missing(["snapshot-controller"])), reason="needs the snapshotter's types built")
async def test_snapshots_that_kubernetes_lost_are_listed_and_left(cluster: CareCluster, world: World) -> None:
    """One being taken is not; a second of a known one is, and each whose VolumeSnapshotContent is gone."""
    witness = add_hyperpod_node(cluster, world, 1)
    volume_id = VolumeId(world.cloud.make_volume())
    taken = []
    for name in (KNOWN, KNOWN, PENDING, LOST):
        tags = {"CSIVolumeSnapshotName": f"snapshot-{name}", "kubernetes.io/cluster/mine": "owned"}
        call = CreateSnapshot(volume_id, "", tuple(tags.items()))
        taken.append((await witness.make(call)).snapshot_id)
    known, second, _, lost = taken
    declare_snapshots(cluster.api)
    try:
        for name in (KNOWN, PENDING, LOST):
            cluster.api.create(write_content(name, volume_id))
        for name, handle in ((KNOWN, known), (LOST, lost)):
            status = {"status": {"snapshotHandle": handle, "readyToUse": True}}
            content = f"snapcontent-{name}"
            cluster.api.patch("VolumeSnapshotContent", content, status, subresource="status")
        cluster.api.delete("VolumeSnapshotContent", f"snapcontent-{LOST}")
        counted = await look_for_orphans(cluster, witness, times=2)
    finally:
        for name in (KNOWN, PENDING, LOST):
            cluster.api.delete("VolumeSnapshotContent", f"snapcontent-{name}")
    told = sorted(message.split()[1] for _, message in read_events(cluster, "CSIDriver"))
    assert told == sorted([second, lost])
    assert [counts and counts["snapshot"] for counts in counted] == [0, 2]
    assert {*taken} <= {*world.cloud.ec2.snapshots}


async def look_for_orphans(
    cluster: CareCluster, node: NodeUnderTest, *, times: int
) -> list[Mapping[str, int] | None]:
    """Look for them so often, as the replica that works does; return what was counted each time."""
    counted: list[Mapping[str, int] | None] = []
    async with connect(cluster.kubeconfig) as api:
        lease = Lease(api, "care", "one")
        await lease.acquire()
        nodes, attachments = Watched(api, Node), Watched(api, VolumeAttachment)
        await nodes._list()
        await attachments._list()
        care = CareSettings(DRIVER, REGION, cluster_id="mine")
        orphans = Orphans(api, node.make, Teller(api, lease), care, nodes, attachments, counted.append)
        for _ in range(times):
            await orphans.look()
        await lease.release()
    return counted


async def test_the_controller_cares_until_it_is_told_to_end(
    cluster: CareCluster, world: World, tmp_path: Path
) -> None:
    """Its end leaves the lease to the next replica at once, and the sidecars' socket is served meanwhile."""
    care = CareSettings(DRIVER, REGION, cluster.kubeconfig)
    endpoint, scripted = tmp_path / "csi.sock", ScriptedCloud()
    settings = ControllerSettings(endpoint, DRIVER, REGION, care=care, cloud_endpoint=world.aws.endpoint)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_controller, settings, lambda _make, _settings, _nodes: Parts(scripted, scripted))
        cluster.register_driver(cluster.add_node("tended", START_UP))
        await until(lambda: not cluster.read_taints("tended"))
        assert endpoint.exists()
        assert cluster.read_holder(care) == care.holder
        os.kill(os.getpid(), signal.SIGTERM)
    assert cluster.read_holder(care) == ""
