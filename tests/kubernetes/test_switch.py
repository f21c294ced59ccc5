"""A node that goes over from AWS's node pod to the agent and back, and one that has both of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.api import WAIT_S, Object
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import (
    AWS_DRIVER,
    OLDER_ZONE,
    SECOND_LIMIT,
    ZONE,
    attach_as_aws,
    change_csi,
    detach_as_aws,
    give_name_back,
    is_registered,
    list_drivers,
    running_second_plugin,
    wait_condition,
)
from tests.kubernetes.manifests import DRIVER, Use, make_driver
from tests.kubernetes.node import KubernetesNode
from tests.kubernetes.second_plugin import NODE_ID
from tests.kubernetes.test_drop_in import CONTEXT, OURS
from tests.kubernetes.workloads import SIZE_BYTES, Claim, Workloads, choose_volume_id
from tests.waiting import wait_until

LIMIT = 3
"""How many volumes the instance is said to take."""


@pytest.fixture(scope="module")
def aws_driver(node: KubernetesNode) -> Iterator[None]:
    """Have the driver declared as AWS's chart does; the agent has its own name afterwards."""
    node.api.create(make_driver(AWS_DRIVER, is_attaching=True))
    yield
    give_name_back(node)


def add_volume_of_aws(workloads: Workloads) -> Claim:
    """Make a volume known to Kubernetes as an older version of AWS's driver did."""
    volume_id = choose_volume_id()
    workloads.node.ebs.call("create", volume=volume_id, size_bytes=SIZE_BYTES)
    return workloads.add_claim(volume_id, driver=AWS_DRIVER, context=CONTEXT, topology={OLDER_ZONE: OURS})


def use(workloads: Workloads, claim: Claim, script: str) -> str:
    """Run a script in a pod with the volume, which AWS's controller attaches; return its words."""
    pod = workloads.add_pod(Use(claim.name))
    attachment = attach_as_aws(workloads, claim)
    workloads.wait_running(pod)
    said = workloads.run_in(pod, script)
    workloads.end_pod(pod)
    workloads.wait_unstaged(claim)
    detach_as_aws(workloads, claim, attachment)
    return said


def read_objects(workloads: Workloads, claim: Claim) -> list[Object]:
    """Return what the cluster has of the volume and its driver, and the node's labels."""
    named = {"PersistentVolume": claim.name, "PersistentVolumeClaim": claim.name, "CSIDriver": AWS_DRIVER}
    labels = workloads.api.read("Node", NODE_NAME)["metadata"]["labels"]
    return [*(workloads.api.read(kind, name) for kind, name in named.items()), labels]


def wait_node_id(node: KubernetesNode, is_so: str) -> Object:
    """Return what CSINode has of AWS's name, once it is the plugin's with this node's ID."""

    def is_its(found: Object) -> bool:
        return bool(list_drivers(found).get(AWS_DRIVER, {}).get("nodeID") == is_so)

    return list_drivers(node.api.wait("CSINode", NODE_NAME, is_its, f"was to be {is_so}"))[AWS_DRIVER]


@pytest.mark.usefixtures("aws_driver")
def test_node_goes_over_and_back(workloads: Workloads) -> None:
    """The volume that AWS's node pod formatted the agent mounts, and that one again; no object changes."""
    node = workloads.node
    claim = add_volume_of_aws(workloads)
    with running_second_plugin(node, zone=OURS):
        assert {ZONE, OLDER_ZONE} <= set(wait_node_id(node, NODE_ID)["topologyKeys"])
        use(workloads, claim, "echo precious > /data/file; sync /data/file")
        before = read_objects(workloads, claim)
        change_csi(node, driver=AWS_DRIVER, zone=OURS)
        told = wait_condition(node, AWS_DRIVER, "KubeletUnreachable", "Another plugin answers")
        assert "DaemonSet" in told["hint"]
        wait_node_id(node, NODE_ID)
    wait_until(lambda: is_registered(node), "the agent was to take over by itself", WAIT_S)
    found = list_drivers(node.api.read("CSINode", NODE_NAME))[AWS_DRIVER]
    assert found["nodeID"] != NODE_ID
    assert {ZONE, OLDER_ZONE} <= set(found["topologyKeys"])
    assert read_objects(workloads, claim) == before
    assert use(workloads, claim, "cat /data/file; echo more > /data/more; sync /data/more") == "precious\n"
    assert claim.volume_id not in [one["volume_id"] for one in node.agent.read_events("volume.formatted")]

    change_csi(node, enabled=False, driver=AWS_DRIVER)
    node.api.wait("CSINode", NODE_NAME, lambda it: AWS_DRIVER not in list_drivers(it), "was to be let go")
    with running_second_plugin(node, zone=OURS):
        wait_node_id(node, NODE_ID)
        assert use(workloads, claim, "cat /data/file /data/more") == "precious\nmore\n"
        assert read_objects(workloads, claim) == before


@pytest.mark.usefixtures("aws_driver")
def test_both_are_on_a_node(workloads: Workloads) -> None:
    """With places reserved for one another they take together what the instance does, and no pod more."""
    node = workloads.node
    change_csi(node, attach_limit=LIMIT, reserved=SECOND_LIMIT)
    with running_second_plugin(node, zone=OURS):
        wait_until(lambda: is_registered(node), "kubelet was to take the agent", WAIT_S)
        found = list_drivers(node.api.read("CSINode", NODE_NAME))
        counts = {name: found[name]["allocatable"]["count"] for name in (DRIVER, AWS_DRIVER)}
        assert counts == {DRIVER: LIMIT - SECOND_LIMIT, AWS_DRIVER: SECOND_LIMIT}
        of_aws = [add_volume_of_aws(workloads) for _ in range(SECOND_LIMIT + 1)]
        attached = of_aws[:SECOND_LIMIT]
        pods = [workloads.add_pod(Use(claim.name)) for claim in attached]
        attachments = [attach_as_aws(workloads, claim) for claim in attached]
        mine = workloads.add_volume()
        pods.append(workloads.add_pod(Use(mine.name)))
        for pod in pods:
            workloads.wait_running(pod)
        over = workloads.add_pod(Use(of_aws[-1].name))
        node.api.wait(
            "Pod", over, lambda it: "max volume count" in str(it["status"]), "was to be one too many"
        )
        for pod in pods:
            workloads.run_in(pod, "echo precious > /data/file; cat /data/file")
        for pod in [over, *pods]:
            workloads.end_pod(pod)
        for claim, attachment in zip(attached, attachments, strict=True):
            workloads.wait_unstaged(claim)
            detach_as_aws(workloads, claim, attachment)
