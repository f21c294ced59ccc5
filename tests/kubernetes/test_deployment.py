"""The chart's pods as containers of a real node, of the images that are shipped."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from tests.aws.cloud import REGION, Cloud
from tests.aws.world import CREDENTIALS
from tests.chart.helm import LEAST, render
from tests.kubernetes.api import Object
from tests.kubernetes.control_plane import HOST_AS_SEEN_BY_GUESTS, ControlPlane
from tests.kubernetes.images import write_program_images
from tests.kubernetes.interrupted_aws import InterruptedAws
from tests.kubernetes.kubectl import ask, kubectl, kubectl_unavailable_reason
from tests.kubernetes.manifests import DRIVER
from tests.kubernetes.node import KubernetesNode
from tests.kubernetes.programs import find_missing, get_program
from tests.vm.images import make_image
from tests.waiting import wait_until

NAME, NODE_SET = "ebs-agent-controller", "ebs-agent-node"
LIVENESS = Path(__file__).with_name("liveness.py")
HOME = "/opt/ebs-agent"
ROLLOUT_S = 240.0
FIND_DISK = """
until disk=$(lsblk --noheadings --paths --output NAME,SERIAL | grep "$1"); do sleep 0.2; done
echo "${disk%% *}"
"""
VALUES = (
    *('image.repository="localhost/ebs-agent"', f'region="{REGION}"', f'driver="{DRIVER}"', "replicas=1"),
    *('sidecars.registry="localhost"', "snapshots=false", "metrics.enabled=false", "csiDriver.create=false"),
)
OURS = {
    "Deployment",
    "DaemonSet",
    "ServiceAccount",
    "ClusterRole",
    "Role",
    "ClusterRoleBinding",
    "RoleBinding",
}


@pytest.fixture(scope="module")
def images(node: KubernetesNode, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have the node know the images that are shipped, and sidecars packed without a registry."""
    if reason := kubectl_unavailable_reason():
        pytest.skip(reason)
    containers = find_pod(render(LEAST, sets=VALUES))["containers"]
    sidecars = {each["name"]: each["image"] for each in containers if each["name"].startswith("csi-")}
    if missing := find_missing([*sidecars]):
        pytest.skip(f"needs {', '.join(missing)} built: make build-kubernetes")
    scratch = tmp_path_factory.mktemp("images")
    import_images(node, make_image(scratch / "controller"))
    packed = scratch / "sidecars.tar"
    write_program_images(packed, {image: get_program(name) for name, image in sidecars.items()})
    import_images(node, packed)


@pytest.fixture(scope="module")
def plane(node: KubernetesNode, images: None) -> Iterator[ControlPlane]:  # noqa: ARG001
    """Lend the cluster, and leave nothing of the chart's in it."""
    yield node.plane
    selected = f"app.kubernetes.io/name in ({NAME},{NODE_SET})"
    kinds = "deployment,daemonset,serviceaccount,clusterrole,role,clusterrolebinding,rolebinding,configmap"
    ask(node.plane, "delete", kinds, f"--selector={selected}", "--wait=true")


def import_images(node: KubernetesNode, archive: Path) -> None:
    """Import an archive into the node's containerd, which reads it from a disk that is there meanwhile."""
    disk = f"vol-{secrets.token_hex(8)}0"
    node.guest.plug_nvme(disk, archive)
    device = node.guest.shell(FIND_DISK, disk.replace("-", "")).strip()
    node.run_ctr("images", "import", "--no-unpack", device)
    node.guest.unplug_nvme(disk)


def test_deployment_is_rolled_out(node: KubernetesNode, plane: ControlPlane) -> None:
    """The image works as its user, with a read-only root; each sidecar finds controller and API."""
    cloud = Cloud()
    with InterruptedAws(cloud) as aws:
        objects = [made for made in render(LEAST, sets=VALUES) if made["kind"] in OURS]
        connect(find_pod(objects), plane, aws.endpoint)
        kubectl(plane, objects)
        roll_out(node, f"deployment/{NAME}")
        leaders = (
            *(f"ebs-agent-care-{DRIVER}", "external-attacher-leader", "external-resizer"),
            DRIVER.replace(".", "-"),
        )
        # A pod is ready when the controller is; a sidecar leads once it has found it.
        for leader in leaders:
            wait_until(partial(is_held, node, leader), f"somebody was to lead by {leader}", ROLLOUT_S)
        logs = "/var/log/pods/*ebs-agent-controller*"
        assert not node.guest.shell(f"grep --recursive --ignore-case forbidden {logs} || true")


def find_pod(objects: list[Object]) -> Any:
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


def is_held(node: KubernetesNode, prefix: str) -> bool:
    """Return whether somebody has a Lease whose name begins so."""
    leases = [each for each in node.api.list("Lease") if each["spec"].get("holderIdentity")]
    return any(each["metadata"]["name"].startswith(prefix) for each in leases)


@pytest.mark.nightly
def test_daemon_set_installs_the_agent(node: KubernetesNode, plane: ControlPlane, tmp_path: Path) -> None:
    """A pod has the node install its bundle, and is ready when that answers; the agent outlives it."""
    import_images(node, make_image(tmp_path, kind="node"))
    values = ["node.enabled=true", 'node.image.repository="localhost/ebs-agent-node"']
    kubectl(plane, [made for made in render(LEAST, sets=values) if made["kind"] == "DaemonSet"])
    roll_out(node, f"daemonset/{NODE_SET}")
    installed = node.guest.get(f"{HOME}/.by-pod").decode().strip()
    assert node.guest.shell(f"readlink {HOME}/current").strip() == installed
    before = read_main_process(node)
    ask(plane, "delete", f"daemonset/{NODE_SET}", "--wait=true")
    assert read_main_process(node) == before
    assert json.loads(node.guest.shell("ebs-agent status --json"))["version"] == __version__
    assert not node.guest.shell("ls /var/tmp | grep ebs-agent || true")


def read_main_process(node: KubernetesNode) -> str:
    return node.guest.shell("systemctl show --property=MainPID,ActiveState ebs-agent.service")


def roll_out(node: KubernetesNode, name: str) -> None:
    """Wait until a rollout has ended; the failure shows what became of the pods."""
    try:
        ask(node.plane, "rollout", "status", name, f"--timeout={ROLLOUT_S:.0f}s", timeout_s=ROLLOUT_S + 60)
    except AssertionError as error:
        logs = node.guest.shell("tail --lines=30 /var/log/pods/*ebs-agent*/*/*.log || true")
        raise AssertionError(f"{error}\n{json.dumps(list_statuses(node), indent=1)}\n{logs}") from error


def list_statuses(node: KubernetesNode) -> list[Object]:
    return [each.get("status", {}) for each in node.api.list("Pod")]
