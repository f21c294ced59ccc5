"""A release of the chart in the cluster of a guest: its images on the node, its objects by its values."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent import __version__
from tests.aws.cloud import REGION
from tests.aws.world import CREDENTIALS
from tests.chart.helm import LEAST, render
from tests.kubernetes.api import Object
from tests.kubernetes.control_plane import HOST_AS_SEEN_BY_GUESTS, ControlPlane
from tests.kubernetes.images import write_program_images
from tests.kubernetes.kubectl import ask, kubectl
from tests.kubernetes.node import KubernetesNode
from tests.kubernetes.programs import get_program
from tests.vm.hyperpod_node import HOME
from tests.vm.images import make_image

CONTROLLER, NODE_SET = "ebs-agent-controller", "ebs-agent-node"
LIVENESS = Path(__file__).with_name("liveness.py")
ROLLOUT_S = 240.0
FIND_DISK = """
until disk=$(lsblk --noheadings --paths --output NAME,SERIAL | grep "$1"); do sleep 0.2; done
echo "${disk%% *}"
"""
VALUES = (
    *('image.repository="localhost/ebs-agent"', f'region="{REGION}"', "replicas=1"),
    *('sidecars.registry="localhost"', "snapshots=false", "metrics.enabled=false"),
)
OURS = {
    "Deployment",
    "DaemonSet",
    "ConfigMap",
    "ServiceAccount",
    "ClusterRole",
    "Role",
    "ClusterRoleBinding",
    "RoleBinding",
    "CSIDriver",
    "StorageClass",
}
"""Kinds that a cluster of one node has any use for."""


def list_sidecars() -> dict[str, str]:
    """Return the images of the sidecars that are built here, by their programs."""
    containers = find_pod(render(LEAST, sets=VALUES))["containers"]
    return {each["name"]: each["image"] for each in containers if each["name"].startswith("csi-")}


def import_controller(node: KubernetesNode, scratch: Path) -> None:
    """Have the node know the controller's image as it is shipped, and sidecars packed without a registry."""
    import_images(node, make_image(scratch / "controller"))
    packed = scratch / "sidecars.tar"
    write_program_images(packed, {image: get_program(name) for name, image in list_sidecars().items()})
    import_images(node, packed)


def import_images(node: KubernetesNode, archive: Path) -> None:
    """Import an archive into the node's containerd, which reads it from a disk that is there meanwhile."""
    disk = f"vol-{secrets.token_hex(8)}0"
    node.guest.plug_nvme(disk, archive)
    device = node.guest.shell(FIND_DISK, disk.replace("-", "")).strip()
    node.run_ctr("images", "import", "--no-unpack", device)
    node.guest.unplug_nvme(disk)


class Release:
    """The chart's objects, of which those of the controller reach the API server and the emulated AWS."""

    def __init__(self, node: KubernetesNode, aws_endpoint: str) -> None:
        self._node = node
        self._aws_endpoint = aws_endpoint

    def upgrade(self, values: Sequence[str]) -> None:
        """Put the objects into the cluster as these values have them, in place of what was there of them."""
        objects = [made for made in render(LEAST, sets=[*VALUES, *values]) if made["kind"] in OURS]
        connect(find_pod(objects), self._node.plane, self._aws_endpoint)
        kubectl(self._node.plane, objects)

    def roll_out(self, *names: str) -> None:
        """Wait until rollouts have ended; the failure shows what became of the pods."""
        for name in names:
            roll_out(self._node, name)

    def find_install(self) -> Mapping[str, Any]:
        """Return how the container that acts on the node ended last; empty while it has not."""
        for pod in self._node.api.list("Pod"):
            if pod["metadata"]["name"].startswith(NODE_SET):
                for status in pod["status"].get("initContainerStatuses") or ():
                    states = (status.get("state", {}), status.get("lastState", {}))
                    ended = [state["terminated"] for state in states if "terminated" in state]
                    return dict(ended[0]) if ended else {}
        return {}

    def remove(self) -> None:
        """Take all of it away but what it made for good: CSIDriver and classes."""
        remove_release(self._node.plane)


def remove_release(plane: ControlPlane) -> None:
    """Take the chart's objects away, and wait until they are gone."""
    selected = f"app.kubernetes.io/name in ({CONTROLLER},{NODE_SET})"
    kinds = "deployment,daemonset,serviceaccount,clusterrole,role,clusterrolebinding,rolebinding,configmap"
    ask(plane, "delete", kinds, f"--selector={selected}", "--wait=true")


def find_pod(objects: Sequence[Object]) -> Any:
    """Return how the chart's Deployment has its pods."""
    (deployment,) = (made for made in objects if made["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]


def connect(pod: dict[str, Any], plane: ControlPlane, endpoint: str) -> None:
    """Give a pod what clusters have: a network, on which the API server and AWS are."""
    pod["hostNetwork"] = True
    port = endpoint.rpartition(":")[2]
    api = {"KUBERNETES_SERVICE_HOST": HOST_AS_SEEN_BY_GUESTS, "KUBERNETES_SERVICE_PORT": str(plane.port)}
    aws = {
        **CREDENTIALS,
        "AWS_EC2_METADATA_DISABLED": "true",
        "EBS_AGENT_CLOUD_ENDPOINT": f"http://{HOST_AS_SEEN_BY_GUESTS}:{port}",
    }
    for container in pod["containers"]:
        known = {**api, **(aws if container["name"] == "controller" else {})}
        container.setdefault("env", []).extend({"name": key, "value": each} for key, each in known.items())
        if container["name"] == "liveness-probe":
            container["image"] = f"localhost/ebs-agent:{__version__}"
            container["command"] = [f"{HOME}/bin/python", "-c", LIVENESS.read_text(encoding="utf-8")]


def roll_out(node: KubernetesNode, name: str) -> None:
    """Wait until a rollout has ended; the failure shows what became of the pods."""
    try:
        ask(node.plane, "rollout", "status", name, f"--timeout={ROLLOUT_S:.0f}s", timeout_s=ROLLOUT_S + 60)
    except AssertionError as error:
        logs = node.guest.shell("tail --lines=30 /var/log/pods/*ebs-agent*/*/*.log || true")
        statuses = [each.get("status", {}) for each in node.api.list("Pod")]
        raise AssertionError(f"{error}\n{json.dumps(statuses, indent=1)}\n{logs}") from error
