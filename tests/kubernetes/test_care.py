from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.kubernetes.care import OTHER, START_UP, CareCluster, run_care_cluster
from tests.waiting import until

# A connection that is given up while it is made leaves its socket to the garbage collector (httpx2, anyio).
pytestmark = pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CareCluster]:
    with run_care_cluster(tmp_path_factory.mktemp("care")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: CareCluster) -> Iterator[CareCluster]:
    yield running
    running.clear()


async def test_a_node_takes_pods_once_its_driver_is_there(cluster: CareCluster) -> None:
    """The start-up taint goes when CSINode has the driver with its count, and no other taint does."""
    node = cluster.add_node("late", OTHER, START_UP)
    uncounted = cluster.add_node("uncounted", START_UP)
    async with cluster.care():
        cluster.register_driver(uncounted, count=None)
        cluster.register_driver(node)
        await until(lambda: cluster.read_taints("late") == {OTHER["key"]})
        early = cluster.add_node("early", START_UP)
        cluster.register_driver(early)
        await until(lambda: not cluster.read_taints("early"))
    assert cluster.read_taints("uncounted") == {START_UP["key"]}


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
