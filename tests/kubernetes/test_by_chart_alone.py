"""A node that runs already, by the chart alone: installed, upgraded, gone back, moved over, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.aws.cloud import ZONE, Cloud
from tests.kubernetes.api import WAIT_S
from tests.kubernetes.aws_driver import AWS, tell_how
from tests.kubernetes.claims import name_provider
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import AWS_DRIVER, OLDER_ZONE, is_registered, list_drivers
from tests.kubernetes.drop_in import ZONE as ZONE_LABEL
from tests.kubernetes.interrupted_aws import InterruptedAws
from tests.kubernetes.kubectl import kubectl_unavailable_reason
from tests.kubernetes.manifests import DRIVER, Use, make_driver
from tests.kubernetes.migrator import Migrator
from tests.kubernetes.node import INSTANCE, KubernetesNode
from tests.kubernetes.programs import AWS_DRIVER as AWS_PROGRAM
from tests.kubernetes.programs import SIDECARS, find_missing
from tests.kubernetes.release import CONTROLLER, NODE_SET, Release, import_controller, import_images
from tests.kubernetes.sidecars import ControllerPod, declare_snapshots, grant_rights
from tests.kubernetes.workloads import Workloads, find_container
from tests.vm.bundles import VERSION, make_later_source
from tests.vm.cloud_volumes import GuestVolumes
from tests.vm.hyperpod_node import HOME
from tests.vm.images import make_image
from tests.waiting import wait_until

LATER, BROKEN = "1.0.0", "1.0.1"
CLASS = "by-chart"
BOTH = (f"deployment/{CONTROLLER}", f"daemonset/{NODE_SET}")
WENT_BACK, FAILED = 3, 1
"""How the container that acts on the node ends."""
FIND_MOUNTS = "grep kubernetes.io~csi /proc/self/mountinfo | cut -d ' ' -f 1,5"
READ_BY_HAND = 'mkdir -p /run/it; mount -o ro "$1" /run/it; cat /run/it/file; umount /run/it'

pytestmark = pytest.mark.nightly


@dataclass
class Installation:
    """The release, the AWS that its controller asks, and the lines of a file that grows from pod to pod."""

    node: KubernetesNode
    aws: InterruptedAws
    release: Release
    workloads: Workloads
    lines: list[str] = field(default_factory=list)

    def upgrade(self, driver: str = DRIVER, version: str = VERSION, *, removes: bool = False) -> None:
        """Have the chart say this of the agent on nodes: its driver's name, its version, or that it goes."""
        csi = {"enabled": True, "driver": driver, "zone": ZONE, "attach_limit": 3}
        origin = {"format_without_origin_after": "5s"}
        policy = yaml.safe_dump({"version": 1, "agent": {"csi": csi, "cloud": origin}, "volumes": []})
        node = {"enabled": True, "image": {"repository": f"localhost/{NODE_SET}", "tag": version}}
        said = {**node, "policy": policy, "remove": removes}
        classes = [{"name": CLASS, "parameters": {"type": "gp3"}}]
        self.release.upgrade(
            [f'driver="{DRIVER}"', f"node={json.dumps(said)}", f"storageClasses={json.dumps(classes)}"]
        )

    def start_pod(self, claim: str) -> str:
        """Return the name of a pod that finds all that was written, and has written a line more."""
        pod = self.workloads.start_pod(Use(claim))
        assert self.workloads.run_in(pod, "cat /data/file || true") == "".join(self.lines)
        self.write(pod)
        return pod

    def write(self, pod: str) -> None:
        """Have a running pod write one line more, and read all of them."""
        self.lines.append(f"line {len(self.lines)}\n")
        self.workloads.run_in(pod, f"echo {self.lines[-1].strip()} >> /data/file; sync /data/file")
        assert self.workloads.run_in(pod, "cat /data/file") == "".join(self.lines)

    def end_pod(self, pod: str) -> None:
        """Have a pod ended, and its volume detached."""
        self.workloads.end_pod(pod)
        wait_until(lambda: not self.node.api.list("VolumeAttachment"), "it was to be detached", WAIT_S)

    def find_marks(self, pod: str) -> tuple[str, str]:
        """Return what changes when a pod is disturbed: its container, and the numbers of its mounts."""
        return find_container(self.node.api.read("Pod", pod)), self.node.guest.shell(FIND_MOUNTS)

    def wait_installed(self, version: str, driver: str) -> None:
        """Wait until a version answers on the node, and kubelet has it by this driver's name alone."""
        self.release.roll_out(*BOTH)
        assert self.node.hyperpod.read_version() == version
        wait_until(lambda: is_registered(self.node), "kubelet was to take the agent", WAIT_S)
        found = list_drivers(self.node.api.read("CSINode", NODE_NAME))
        assert [name for name in (DRIVER, AWS_DRIVER) if name in found] == [driver]

    def wait_ended(self, code: int) -> str:
        """Return what the container that acts on the node said last, once that ended so."""

        def look() -> Any:
            found = self.release.find_install()
            return found if found.get("exitCode") == code else None

        return str(wait_until(look, f"it was to end with {code}", 2 * WAIT_S).get("message"))


@pytest.fixture(scope="module")
def bare(node: KubernetesNode) -> Iterator[KubernetesNode]:
    """Lend the node with nothing of the agent; the lifecycle script installs that again afterwards."""
    for missing in (kubectl_unavailable_reason(), ", ".join(find_missing([*SIDECARS, AWS_PROGRAM]))):
        if missing:
            pytest.skip(f"needs what is built: {missing}")
    node.hyperpod.run_installed("uninstall.sh", "--purge")
    yield node
    if node.hyperpod.find_release():
        node.hyperpod.run_installed("uninstall.sh", "--force", "--purge")
    node.api.patch("Node", NODE_NAME, {"metadata": {"labels": {ZONE_LABEL: None, OLDER_ZONE: None}}})
    node.install_agent()
    wait_until(lambda: is_registered(node), "kubelet was to take the agent again", WAIT_S)


@pytest.fixture
def installation(bare: KubernetesNode, tmp_path: Path) -> Iterator[Installation]:
    """Lend a cluster whose node knows the images of three versions, and nothing of the chart yet."""
    import_controller(bare, tmp_path)
    import_images(bare, make_image(tmp_path / "node", kind="node"))
    for version in (LATER, BROKEN):
        source = make_later_source(tmp_path / version, version, is_broken=version == BROKEN)
        import_images(bare, make_image(tmp_path / version / "image", kind="node", source=source))
    api = bare.api
    for name in (DRIVER, AWS_DRIVER):
        api.delete("CSIDriver", name)
    api.patch("Node", NODE_NAME, {"spec": {"providerID": name_provider(INSTANCE)}})
    bare.ebs.start()
    cloud = Cloud(GuestVolumes(bare.ebs, INSTANCE))
    cloud.add_node(INSTANCE)
    with InterruptedAws(cloud) as aws:
        installation = Installation(bare, aws, Release(bare, aws.endpoint), Workloads(bare))
        yield installation
        installation.workloads.end_objects()
        wait_until(lambda: not api.list("PersistentVolume"), "the volume was to be deleted", WAIT_S)
        installation.workloads.clear()
        installation.release.remove()
        assert not cloud.volumes
    for kind, name in (("CSIDriver", DRIVER), ("CSIDriver", AWS_DRIVER), ("StorageClass", CLASS)):
        api.delete(kind, name)


def test_life_of_a_node(installation: Installation) -> None:
    """The data of one claim is there through all that a release of the chart goes through, to its removal."""
    it, node = installation, installation.node
    it.upgrade()
    it.wait_installed(VERSION, DRIVER)
    claim = add_claim(it.workloads)
    pod = it.start_pod(claim)
    volume_id = read_driver(it, claim)["volumeHandle"]

    before = it.find_marks(pod)
    it.upgrade(version=LATER)
    it.wait_installed(LATER, DRIVER)
    it.upgrade(version=BROKEN)
    it.wait_ended(WENT_BACK)
    assert node.hyperpod.read_version() == LATER
    it.upgrade(version=LATER)
    it.wait_installed(LATER, DRIVER)
    it.write(pod)
    assert it.find_marks(pod) == before
    it.end_pod(pod)

    move_there_and_back(it, claim)

    pod = it.start_pod(claim)
    it.upgrade(version=LATER, removes=True)
    assert "drain the node first" in it.wait_ended(FAILED)
    assert node.hyperpod.read_version() == LATER
    it.end_pod(pod)
    it.release.roll_out(f"daemonset/{NODE_SET}")
    assert node.guest.shell(f"ls {HOME} 2> /dev/null || true") == ""
    node.api.wait("CSINode", NODE_NAME, lambda found: DRIVER not in list_drivers(found), "was to be let go")
    device = node.ebs.connect(volume_id)
    assert node.guest.shell(READ_BY_HAND, device) == "".join(it.lines)
    node.ebs.disconnect(volume_id)
    assert it.aws.calls["CreateVolume"] == 1
    assert it.aws.calls["DeleteVolume"] == 0


def move_there_and_back(it: Installation, claim: str) -> None:
    """Move the claim to AWS's driver, whose own controller works beside ours, and back."""
    declare_snapshots(it.node.api)
    grant_rights(it.node.api)
    migrator = Migrator(it.node.plane, it.aws.endpoint)
    it.node.api.create(make_driver(AWS_DRIVER, is_attaching=True))
    with ControllerPod(it.node.plane, AWS_DRIVER, it.aws.endpoint) as other:
        other.replace_controller(*tell_how(AWS, other.socket, it.aws.endpoint))
        # What agent.csi says counts from the next start on, as of another version.
        it.upgrade(driver=AWS_DRIVER, version=VERSION)
        it.wait_installed(VERSION, AWS_DRIVER)
        assert "Moved: 1" in migrator.migrate(claim, "--back", "--ec2-snapshot", "--yes")
        assert read_driver(it, claim)["driver"] == AWS_DRIVER
        it.end_pod(it.start_pod(claim))
        it.upgrade(driver=DRIVER, version=LATER)
        it.wait_installed(LATER, DRIVER)
        assert "Moved: 1" in migrator.migrate(claim, "--ec2-snapshot", "--yes")
    assert read_driver(it, claim)["driver"] == DRIVER
    it.end_pod(it.start_pod(claim))


def add_claim(workloads: Workloads) -> str:
    """Ask for a volume of the chart's class; return the claim's name."""
    spec = {
        "storageClassName": CLASS,
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    metadata = {"name": "by-chart"}
    return workloads.create(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
    )


def read_driver(it: Installation, claim: str) -> dict[str, Any]:
    """Return what a claim's PersistentVolume says for its driver."""
    name = it.node.api.read("PersistentVolumeClaim", claim)["spec"]["volumeName"]
    source: dict[str, Any] = it.node.api.read("PersistentVolume", name)["spec"]["csi"]
    return source
