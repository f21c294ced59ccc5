"""The chart's Deployment as containers of a real node, of the images that are shipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent import __version__
from tests.aws.cloud import Cloud
from tests.chart.helm import LEAST, render
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.interrupted_aws import InterruptedAws
from tests.kubernetes.kubectl import ask, kubectl, kubectl_unavailable_reason
from tests.kubernetes.manifests import DRIVER
from tests.kubernetes.node import KubernetesNode
from tests.kubernetes.programs import find_missing
from tests.kubernetes.release import (
    CONTROLLER,
    NODE_SET,
    ROLLOUT_S,
    Release,
    import_controller,
    import_images,
    list_sidecars,
    remove_release,
    roll_out,
)
from tests.vm.hyperpod_node import HOME
from tests.vm.images import make_image
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def plane(node: KubernetesNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Lend the cluster, whose node knows the images, and leave nothing of the chart's in it."""
    if reason := kubectl_unavailable_reason():
        pytest.skip(reason)
    if missing := find_missing([*list_sidecars()]):
        pytest.skip(f"needs {', '.join(missing)} built: make build-kubernetes")
    import_controller(node, tmp_path_factory.mktemp("images"))
    yield node.plane
    remove_release(node.plane)


@pytest.mark.usefixtures("plane")
def test_deployment_is_rolled_out(node: KubernetesNode) -> None:
    """The image works as its user, with a read-only root; each sidecar finds controller and API."""
    with InterruptedAws(Cloud()) as aws:
        release = Release(node, aws.endpoint)
        release.upgrade([f'driver="{DRIVER}"', "csiDriver.create=false"])
        release.roll_out(f"deployment/{CONTROLLER}")
        leaders = (
            *(f"ebs-agent-care-{DRIVER}", "external-attacher-leader", "external-resizer"),
            DRIVER.replace(".", "-"),
        )
        # A pod is ready when the controller is; a sidecar leads once it has found it.
        for leader in leaders:
            wait_until(partial(is_held, node, leader), f"somebody was to lead by {leader}", ROLLOUT_S)
        logs = "/var/log/pods/*ebs-agent-controller*"
        assert not node.guest.shell(f"grep --recursive --ignore-case forbidden {logs} || true")


def is_held(node: KubernetesNode, prefix: str) -> bool:
    """Return whether somebody has a Lease whose name begins so."""
    leases = [each for each in node.api.list("Lease") if each["spec"].get("holderIdentity")]
    return any(each["metadata"]["name"].startswith(prefix) for each in leases)


@pytest.mark.nightly
def test_agent_outlives_the_daemon_set(node: KubernetesNode, plane: ControlPlane, tmp_path: Path) -> None:
    """A pod has the node install its bundle, and is ready when that answers; the agent outlives it."""
    import_images(node, make_image(tmp_path, kind="node"))
    values = ["node.enabled=true", f'node.image.repository="localhost/{NODE_SET}"']
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
