"""A guest as a node on EKS: kubelet under systemd, its root a link, the agent installed from its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from tests.kubernetes.api import Object
from tests.kubernetes.control_plane import HOST_AS_SEEN_BY_GUESTS, NODE_NAME, ControlPlane
from tests.kubernetes.node_disk import IMAGES, get_node_disk
from tests.vm.ebs import EbsTarget
from tests.vm.guest import Guest, GuestOptions
from tests.vm.hyperpod_node import HyperPodNode

KUBELET = "kubelet.service"
KUBELET_ROOT = "/var/lib/kubelet"
MOVED_ROOT = "/opt/sagemaker/kubelet"
"""Where the sample lifecycle scripts of HyperPod move kubelet's root, with a link in its place."""
KUBECONFIG = "/etc/kubernetes/kubeconfig"
INSTANCE = "i-0123456789abcdef0"
START_S = 300.0
MOVE_ROOT = 'mkdir -p "$2"; rm -rf "$1"; ln -s "$2" "$1"'

_executions = count(1)

OPTIONS = GuestOptions(
    has_network=True,
    memory_mib=2048,
    # One network card has one name; and as on HyperPod's images a volume that does not answer is waited for.
    kernel_args=("net.ifnames=0", "nvme_core.io_timeout=4294967295"),
)


class KubernetesNode:
    """One guest in one cluster."""

    def __init__(self, guest: Guest, plane: ControlPlane, folder: Path) -> None:
        """``folder``: what the agent is installed from."""
        self.guest = guest
        self._folder = folder
        self.plane = plane
        self.api = plane.api
        self.hyperpod = HyperPodNode(guest)
        self.agent = self.hyperpod.agent
        self.ebs = EbsTarget(guest)

    def join(self) -> None:
        """Become a node: kubelet's root is moved, images are there, kubelet runs and is ready."""
        self.guest.shell(MOVE_ROOT, KUBELET_ROOT, MOVED_ROOT)
        self.guest.wait_until(["test", "-S", "/run/containerd/containerd.sock"], timeout_s=START_S)
        self.run_ctr("images", "import", f"/usr/local/{IMAGES}")
        config = self.plane.write_kubeconfig("node", HOST_AS_SEEN_BY_GUESTS)
        self.guest.put(KUBECONFIG, config.encode(), mode=0o600)
        self.guest.run(["systemctl", "start", KUBELET], timeout_s=START_S)
        self.wait_ready()

    def prepare(self) -> None:
        """Have what the cluster gives its node before the agent: its file and its network."""
        self.hyperpod.join_cluster(INSTANCE)
        self.hyperpod.set_hardware([])
        self.hyperpod.start_hardware()

    def install_agent(self) -> None:
        """Install the agent from its folder in S3, by the lifecycle script, to serve the volumes of pods."""
        self.hyperpod.stage(self._folder, [], agent={"csi": {"enabled": True}})
        self.hyperpod.install()

    def wait_ready(self) -> Object:
        """Return the node once kubelet says that it is ready."""
        return self.api.wait("Node", NODE_NAME, is_ready, "was to be ready", START_S)

    def run_ctr(self, *arguments: str) -> str:
        """Run containerd's own client on the containers of Kubernetes; return what it printed."""
        argv = ["ctr", "--namespace", "k8s.io", *arguments]
        return self.guest.run(argv, timeout_s=START_S).stdout.decode()

    def run_in_pod(self, pod: str, script: str) -> str:
        """Run a shell script in a pod's only container, which must be running; return what it printed."""
        (status,) = self.api.read("Pod", pod)["status"]["containerStatuses"]
        container = status["containerID"].removeprefix("containerd://")
        return self.run_ctr(
            "tasks", "exec", "--exec-id", f"test-{next(_executions)}", container, "sh", "-euc", script
        )

    def is_active(self, unit: str) -> bool:
        """Tell whether a unit of the guest is active."""
        return self.hyperpod.is_active(unit)


def is_ready(node: Mapping[str, Any]) -> bool:
    """Tell whether a node's or a pod's condition Ready is true."""
    conditions: Sequence[Mapping[str, str]] = node.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def boot_options() -> GuestOptions:
    """Return how a guest that is to be a node is booted."""
    return replace(OPTIONS, local_disk=str(get_node_disk()))
