"""The agent in place of AWS's node pods: the switch and what is in its way, a volume of AWS's, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.kubernetes.api import WAIT_S, Object
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import (
    AWS_DRIVER,
    OLDER_ZONE,
    ZONE,
    attach_as_aws,
    change_csi,
    give_name_back,
    is_registered,
    list_drivers,
    running_second_plugin,
    wait_condition,
)
from tests.kubernetes.manifests import DRIVER, Use, make_driver
from tests.kubernetes.node import INSTANCE, KubernetesNode
from tests.kubernetes.workloads import SIZE_BYTES, Workloads, choose_volume_id
from tests.waiting import wait_until

OURS, ANOTHER = "us-west-2a", "us-west-2b"
CONTEXT = {
    "storage.kubernetes.io/csiProvisionerIdentity": f"1700000000000-1234-{AWS_DRIVER}",
    "partition": "",
}
"""What AWS's controller has Kubernetes keep of a volume."""


@dataclass(frozen=True)
class Switch:
    """What the agent told of the node while it took over AWS's name, by what was in its way."""

    second_plugin: Object
    collision: Object


@pytest.fixture(scope="module")
def switch(node: KubernetesNode) -> Iterator[Switch]:
    """Have the agent take AWS's name, in spite of all that may be in the way; it has its own afterwards.

    Nothing of the agent's is restarted but for the two changes of its name.
    """
    api = node.api
    try:
        api.create(make_driver(AWS_DRIVER, is_attaching=True))
        api.patch("Node", NODE_NAME, {"metadata": {"labels": {ZONE: ANOTHER}}})
        with running_second_plugin(node, at="second"):
            change_csi(node, driver=AWS_DRIVER, zone=OURS)
            second_plugin = wait_condition(node, AWS_DRIVER, "RegistrationRefused", "already registered")
        collision = wait_condition(node, AWS_DRIVER, "RegistrationRefused", "topology")
        api.patch("Node", NODE_NAME, {"metadata": {"labels": {ZONE: OURS}}})
        wait_until(lambda: is_registered(node), "kubelet was to take the agent by itself", WAIT_S)
        yield Switch(second_plugin, collision)
    finally:  # or all later tests of the cluster fail with those of this file
        give_name_back(node)


def test_second_plugin_of_the_name_is_told(switch: Switch) -> None:
    """While AWS's node pod has the name kubelet refuses the agent, which says what to do about it."""
    assert "DaemonSet" in switch.second_plugin["hint"]


def test_zone_that_collides_with_a_label_is_told(switch: Switch) -> None:
    """Kubelet refuses a zone that a label of the node contradicts, until one of them is mended."""
    assert OURS in switch.collision["message"]
    assert ANOTHER in switch.collision["message"]
    assert "agent.csi.zone" in switch.collision["hint"]


@pytest.mark.usefixtures("switch")
def test_node_is_known_by_the_name_of_awss_driver(node: KubernetesNode) -> None:
    """AWS's controller finds the node's ID and its zone, and the agent's own name is gone."""
    found = list_drivers(node.api.read("CSINode", NODE_NAME))
    assert DRIVER not in found
    assert found[AWS_DRIVER]["nodeID"].endswith(f"-{INSTANCE}")
    assert {ZONE, OLDER_ZONE} <= set(found[AWS_DRIVER]["topologyKeys"])
    labels = node.api.read("Node", NODE_NAME)["metadata"]["labels"]
    assert (labels[ZONE], labels[OLDER_ZONE]) == (OURS, OURS)


@pytest.mark.usefixtures("switch")
def test_volume_that_awss_controller_attaches(workloads: Workloads) -> None:
    """A PersistentVolume as AWS's driver makes it is attached by its half, and served by the agent."""
    volume_id = choose_volume_id()
    workloads.node.ebs.call("create", volume=volume_id, size_bytes=SIZE_BYTES)
    claim = workloads.add_claim(volume_id, driver=AWS_DRIVER, context=CONTEXT, topology={ZONE: OURS})
    pod = workloads.add_pod(Use(claim.name))
    attachment = attach_as_aws(workloads, claim)
    workloads.wait_running(pod)
    workloads.run_in(pod, "echo precious > /data/file; sync /data/file")
    assert workloads.run_in(pod, "cat /data/file") == "precious\n"
    workloads.end_pod(pod)
    workloads.wait_unstaged(claim)
    workloads.api.wait_gone("VolumeAttachment", attachment)
