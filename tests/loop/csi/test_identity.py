"""Who the node is, as kubelet is told on an instance: asked for until it is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.aws.faults import Fault
from tests.aws.server import AwsServer
from tests.aws.world import CREDENTIALS
from tests.csi.fd_store import FdStore
from tests.csi.kubelet import Kubelet, running_kubelet
from tests.loop.csi import as_instance
from tests.loop.csi.conftest import DRIVER
from tests.loop.pages.metadata import Metadata
from tests.waiting import wait_until

INSTANCE = "i-0123456789abcdef0"
HYPERPOD_ID = f"hyperpod-abcde01234yz-{INSTANCE}"


@pytest.fixture
def resource_config(scratch: Scratch) -> Path:
    """Give the place of the cluster's file, which is not there."""
    return scratch.base / "resource_config.json"


@pytest.fixture
def metadata(agent: AgentProcess, resource_config: Path) -> Iterator[Metadata]:
    """Give the metadata service of the instance that the agent is on, which refuses until it has an ID."""
    agent.module = as_instance.__name__
    with Metadata() as metadata:
        agent.environment |= {
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.endpoint,
            "SAGEMAKER_RESOURCE_CONFIG_PATH": str(resource_config),
        }
        yield metadata


@pytest.fixture
def asked(agent: AgentProcess, metadata: Metadata, aws: AwsServer) -> AwsServer:
    """Give the AWS that is asked on an instance whose ID is known."""
    metadata.instance_id = INSTANCE
    agent.environment |= {"EBS_AGENT_CLOUD_ENDPOINT": aws.endpoint, **CREDENTIALS}
    return aws


@pytest.fixture
def store(scratch: Scratch, agent: AgentProcess) -> Iterator[FdStore]:
    """Give what keeps the agent's sockets while it is restarted, as systemd does."""
    store = FdStore(scratch.base / "notify")
    agent.environment["NOTIFY_SOCKET"] = str(store.path)
    agent.stored = store.stored
    yield store
    store.close()


def test_node_without_entries_is_asked_about_until_it_is_known(
    scratch: Scratch, agent: AgentProcess, write_policy: Callable[..., None], metadata: Metadata
) -> None:
    """After a reboot the network may come late, and kubelet alone has the sources asked again."""
    write_policy()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        wait_until(lambda: kubelet.history, "kubelet has asked in vain")
        assert "not known yet" in kubelet.history[0]
        assert not kubelet.registered
        metadata.instance_id = INSTANCE
        assert kubelet.wait_registered().node_id == INSTANCE


def write_cluster(resource_config: Path) -> None:
    """Write the cluster's file, in which this node is at every machine's own address."""
    instance = {"InstanceName": "gpu-1", "CustomerIpAddress": "127.0.0.1", "InstanceId": INSTANCE}
    arn = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
    groups = [{"Name": "gpu", "Instances": [instance]}]
    resource_config.write_text(json.dumps({"ClusterConfig": {"ClusterArn": arn}, "InstanceGroups": groups}))


def test_node_of_hyperpod_is_not_named_before_its_cluster_is_known(
    scratch: Scratch,
    agent: AgentProcess,
    write_policy: Callable[..., None],
    metadata: Metadata,
    resource_config: Path,
) -> None:
    """Under the instance's name alone its volumes would be attached by EC2's API, for good."""
    metadata.instance_id = INSTANCE
    resource_config.write_text('{"ClusterConfig": {')
    write_policy()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        wait_until(lambda: kubelet.history, "kubelet has asked in vain")
        assert "of which HyperPod cluster" in kubelet.history[0]
        write_cluster(resource_config)
        assert kubelet.wait_registered().node_id == HYPERPOD_ID


def test_node_that_registered_under_another_name_registers_anew(
    scratch: Scratch,
    agent: AgentProcess,
    write_policy: Callable[..., None],
    metadata: Metadata,
    resource_config: Path,
    store: FdStore,
) -> None:
    """Of a restart behind stored sockets kubelet sees nothing, and by itself it never asks again."""
    metadata.instance_id = INSTANCE
    write_policy()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        assert kubelet.wait_registered().node_id == INSTANCE
        wait_until(lambda: len(store.stored) == 2, "both sockets are stored")
        write_cluster(resource_config)
        agent.stop()
        agent.start()
        wait_until(lambda: list_names(kubelet) == [HYPERPOD_ID], "it is registered under its name")
        agent.stop()
        agent.start()
        assert kubelet.history.count(f"registered {DRIVER}") == 2


TAGGED = {"name": "data", "match": {"tags": {"role": "data"}}, "block": {}}


@pytest.mark.parametrize("entries", [[], [TAGGED]], ids=["nothing else to ask", "entries that ask"])
def test_count_of_volumes_that_becomes_known_is_told_once(
    scratch: Scratch,
    agent: AgentProcess,
    write_policy: Callable[..., None],
    asked: AwsServer,
    entries: list[dict[str, Any]],
) -> None:
    """AWS tells it after kubelet has registered the driver, and without it the scheduler knows no limit."""
    asked.faults.add(Fault("DescribeInstanceTypes", times=1_000_000))
    write_policy(*entries)
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        assert kubelet.wait_registered().max_volumes_per_node == 0
        wait_until(lambda: asked.calls["DescribeInstanceTypes"], "AWS was asked")
        asked.faults.clear()
        wait_until(lambda: [room for room in list_rooms(kubelet) if room], "the count is told")
        assert kubelet.history == [
            f"{word} {DRIVER}" for word in ("registered", "deregistered", "registered")
        ]


@pytest.mark.parametrize("entries", [[], [TAGGED]], ids=["nothing else to ask", "entries that ask"])
def test_count_of_volumes_is_told_with_the_first_registration(
    scratch: Scratch,
    agent: AgentProcess,
    write_policy: Callable[..., None],
    asked: AwsServer,
    entries: list[dict[str, Any]],
) -> None:
    """A node without a limit would be given more pods than it can have, also where no volume is described."""
    asked.faults.add(Fault("DescribeVolumes", times=1_000_000))
    write_policy(*entries)
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        assert kubelet.wait_registered().max_volumes_per_node > 0
        assert kubelet.history == [f"registered {DRIVER}"]


def test_count_that_was_not_known_is_asked_for_by_the_next_agent(
    scratch: Scratch,
    agent: AgentProcess,
    write_policy: Callable[..., None],
    asked: AwsServer,
    store: FdStore,
) -> None:
    """Behind stored sockets kubelet asks nothing: the agent tells it, once AWS does."""
    asked.faults.add(Fault("DescribeInstanceTypes", times=1_000_000))
    write_policy()
    with running_kubelet(scratch.kubelet, DRIVER) as kubelet:
        agent.start()
        assert kubelet.wait_registered().max_volumes_per_node == 0
        wait_until(lambda: len(store.stored) == 2, "both sockets are stored")
        agent.stop()
        asked.faults.clear()
        agent.start()
        wait_until(lambda: [room for room in list_rooms(kubelet) if room], "the count is told")


def list_rooms(kubelet: Kubelet) -> list[int]:
    """Return how many volumes kubelet's CSINode has the node take, if the driver is there."""
    return [info.max_volumes_per_node for info in kubelet.registered.values()]


def list_names(kubelet: Kubelet) -> list[str]:
    """Return what the node is called in kubelet's CSINode, if the driver is there."""
    return [info.node_id for info in kubelet.registered.values()]
