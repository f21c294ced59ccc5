"""A node whose agent serves volumes by the name of AWS's driver: the switch, and AWS's half of the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.api import WAIT_S, Object
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.manifests import DRIVER
from tests.kubernetes.node import KUBELET_ROOT, START_S, KubernetesNode
from tests.kubernetes.workloads import Claim, Workloads
from tests.vm.guest.agent_disk import HOME
from tests.vm.guest_agent import POLICY, UNIT
from tests.waiting import wait_until

AWS_DRIVER = "ebs.csi.aws.com"
ZONE, OLDER_ZONE = "topology.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone"
METRICS = "http://127.0.0.1:9842/metrics"
SECOND = "second-plugin.service"
SECOND_PROGRAM = "/scratch/second_plugin.py"
SECOND_LIMIT = 1
"""How many volumes the second plugin says that it takes."""
NO_DEVICE = "/dev/xvdnone"
"""What AWS's controller names as a volume's device: on a node with NVMe there is no such file."""
READ_METRICS = """
import sys, urllib.request
sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())
"""


def change_csi(node: KubernetesNode, **settings: Any) -> None:
    """Write settings of the face into the agent's policy, and have them count."""
    policy = yaml.safe_load(node.guest.get(POLICY))
    policy["agent"]["csi"] = {"enabled": True, **settings}
    node.guest.put(POLICY, yaml.safe_dump(policy).encode(), mode=0o600)
    node.guest.run(["systemctl", "restart", UNIT], timeout_s=START_S)


def give_name_back(node: KubernetesNode) -> None:
    """Have the agent serve by its own name again, and nothing left of AWS's."""
    api = node.api
    change_csi(node)
    wait_until(lambda: is_registered(node), "kubelet was to take the agent by its own name", WAIT_S)
    api.patch("Node", NODE_NAME, {"metadata": {"labels": {ZONE: None, OLDER_ZONE: None}}})
    api.delete("CSIDriver", AWS_DRIVER)
    found = list_drivers(api.read("CSINode", NODE_NAME))
    assert DRIVER in found
    assert AWS_DRIVER not in found


def list_drivers(node: Object) -> dict[str, Object]:
    """Return a CSINode's drivers, by name."""
    return {driver["name"]: driver for driver in node["spec"].get("drivers") or ()}


def wait_condition(node: KubernetesNode, about: str, reason: str, word: str) -> Object:
    """Return what the agent says is wrong with the node, once kubelet's ``word`` is in it."""

    def look() -> Object | None:
        said: list[Object] = node.agent.read_node().get("node_conditions", [])
        found = (one for one in said if (one["about"], one["reason"]) == (about, reason))
        return next((one for one in found if word in one["message"]), None)

    return wait_until(look, f"{reason} of {about} was to be told", WAIT_S)


def is_registered(node: KubernetesNode) -> bool:
    """Tell whether the agent knows itself registered as all that it serves, and complains of nothing."""
    argv = ["python3", "-I", "-c", READ_METRICS, METRICS]
    # On a slow machine who serves them may not be there yet.
    lines = node.guest.run(argv, timeout_s=WAIT_S, check=False).stdout.decode().splitlines()
    return "ebs_agent_csi_registered 1.0" in lines and node.agent.read_node()["node_conditions"] == []


@contextmanager
def running_second_plugin(node: KubernetesNode, *, at: str = AWS_DRIVER, zone: str = "") -> Iterator[None]:
    """Have another plugin of AWS's name on the node, which kubelet has registered.

    ``at``: what its sockets are called; unless it is given, as those of AWS's node pod.
    """
    guest = node.guest
    guest.put(SECOND_PROGRAM, (Path(__file__).parent / "second_plugin.py").read_bytes())
    sockets = (f"{KUBELET_ROOT}/plugins_registry/{at}-reg.sock", f"{KUBELET_ROOT}/plugins/{at}/csi.sock")
    program = [f"/{HOME}/current/bin/python", SECOND_PROGRAM, AWS_DRIVER, *sockets, str(SECOND_LIMIT), zone]
    guest.run(["systemd-run", "--quiet", "--collect", f"--unit={SECOND}", *program])
    try:
        node.api.wait("CSINode", NODE_NAME, lambda it: AWS_DRIVER in list_drivers(it), "was to have another")
        yield
    finally:
        guest.run(["systemctl", "stop", SECOND], timeout_s=WAIT_S)


def attach_as_aws(workloads: Workloads, claim: Claim) -> str:
    """Do what AWS's controller does once Kubernetes wants a volume attached; return the VolumeAttachment."""
    api = workloads.api

    def look() -> Object | None:
        wanted = (one for one in api.list("VolumeAttachment") if one["spec"]["attacher"] == AWS_DRIVER)
        of_claim = (one for one in wanted if one["spec"]["source"]["persistentVolumeName"] == claim.name)
        return next(of_claim, None)

    name = str(wait_until(look, f"{claim.name} was to be attached", WAIT_S)["metadata"]["name"])
    workloads.node.ebs.attach(claim.volume_id)
    status = {"attached": True, "attachmentMetadata": {"devicePath": NO_DEVICE}}
    api.patch("VolumeAttachment", name, {"status": status}, subresource="status")
    return name


def detach_as_aws(workloads: Workloads, claim: Claim, attachment: str) -> None:
    """Do what AWS's controller does once Kubernetes does not want a volume attached any more."""
    workloads.api.wait_gone("VolumeAttachment", attachment)
    workloads.node.ebs.disconnect(claim.volume_id)
