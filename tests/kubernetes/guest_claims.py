"""Claims whose volumes are devices of the guest: what the emulated AWS is asked for is done there, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from typing_extensions import override

from tests.aws.cloud import ZONE, Cloud
from tests.kubernetes.api import WAIT_S
from tests.kubernetes.claims import DRIVER, Claims, make_classes, name_provider
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.drop_in import change_csi, give_name_back, is_registered
from tests.kubernetes.interrupted_aws import InterruptedAws
from tests.kubernetes.manifests import Use
from tests.kubernetes.node import INSTANCE, KubernetesNode
from tests.kubernetes.sidecars import ControllerPod, declare_snapshots, grant_care, grant_rights
from tests.kubernetes.workloads import Workloads
from tests.vm.cloud_volumes import GuestVolumes
from tests.waiting import wait_until

ATTACH_LIMIT, RESERVED = 3, 1
"""What the node's agent is told that the instance takes, and how many of those are not for Kubernetes."""
MOUNTED_BY_KUBELET = ("/kubernetes.io~csi/", "/plugins/kubernetes.io/csi/")


class GuestClaims(Claims):
    """The objects of one test: claims, pods that run, and the AWS where the volumes are."""

    def __init__(self, aws: InterruptedAws, pod: ControllerPod, workloads: Workloads) -> None:
        super().__init__(workloads.api, aws, pod)
        self.workloads = workloads
        self._made: list[tuple[str, str]] = []

    def start_pod(self, claim: str) -> str:
        """Return the name of a pod that runs with a claim's filesystem at ``/data``."""
        return self.workloads.start_pod(Use(claim))

    def add_raw_pod(self, claim: str) -> str:
        """Ask for a pod with a claim's device at ``/dev/raw``; return its name."""
        return self.workloads.add_pod(Use(claim, "/dev/raw", is_block=True))

    def list_formatted(self) -> list[str]:
        """Return the volumes that the node's agent has formatted, each as often as it did."""
        events = self.workloads.node.agent.read_events("volume.formatted")
        return [str(event["volume_id"]) for event in events]

    def clear(self) -> None:
        """Take all away, and see that nothing is left of it: in Kubernetes, in AWS, and on the node."""
        self.workloads.end_pods()
        for kind, name in reversed(self._made):
            self.api.delete(kind, name)
        self.wait_attached(0)
        self.wait_leftovers()
        guest = self.workloads.node.guest
        mounts = guest.shell("cat /proc/self/mountinfo").splitlines()
        assert not [line for line in mounts if any(part in line for part in MOUNTED_BY_KUBELET)]
        assert "nvme" not in guest.shell("ls /sys/block")
        self.workloads.clear()

    @override
    def _create(self, version: str, kind: str, spec: Mapping[str, Any]) -> str:
        name = super()._create(version, kind, spec)
        self._made.append((kind, name))
        return name


@contextmanager
def run_controller_for(node: KubernetesNode) -> Iterator[tuple[InterruptedAws, ControllerPod]]:
    """Have claims of the cluster become volumes of the guest, whose agent has the name of AWS's driver."""
    api = node.api
    node.ebs.start()
    cloud = Cloud(GuestVolumes(node.ebs, INSTANCE))
    cloud.attachment_limit = ATTACH_LIMIT - RESERVED
    cloud.add_node(INSTANCE)
    declare_snapshots(api)
    grant_rights(api)
    grant_care(api)
    for manifest in make_classes():
        api.ensure(manifest)
    # As the cloud's own controller does; it cannot be changed afterwards.
    api.patch("Node", NODE_NAME, {"spec": {"providerID": name_provider(INSTANCE)}})
    try:
        change_csi(node, driver=DRIVER, zone=ZONE, attach_limit=ATTACH_LIMIT, reserved=RESERVED)
        wait_until(lambda: is_registered(node), "kubelet was to take the agent by AWS's name", WAIT_S)
        with InterruptedAws(cloud) as aws, ControllerPod(node.plane, DRIVER, aws.endpoint, cares=True) as pod:
            yield aws, pod
    finally:  # or all later tests of the cluster fail with those of this file
        give_name_back(node)
