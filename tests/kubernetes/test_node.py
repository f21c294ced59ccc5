"""The node itself, before any volume: ready, with the agent beside kubelet, and pods run."""

from __future__ import annotations

from tests.kubernetes.manifests import make_pod
from tests.kubernetes.node import KUBELET_ROOT, MOVED_ROOT, KubernetesNode
from tests.vm.guest_agent import UNIT


def test_node_is_ready_and_runs_a_pod(node: KubernetesNode) -> None:
    """Beside the installed agent kubelet runs, below a root that is a link, and starts a pod."""
    assert node.guest.shell('readlink "$1"', KUBELET_ROOT).strip() == MOVED_ROOT
    assert node.is_active(UNIT)
    node.api.create(make_pod("first", script="echo it runs"))
    pod = node.api.wait("Pod", "first", lambda pod: pod["status"]["phase"] == "Succeeded", "was to succeed")
    assert pod["spec"]["nodeName"] == "guest"
    node.api.delete("Pod", "first", grace_s=0)
    node.api.wait_gone("Pod", "first")
