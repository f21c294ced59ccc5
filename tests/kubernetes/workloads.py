"""What a test puts into the cluster, and what ends with it: EBS volumes, their claims, and pods."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.kubernetes.api import WAIT_S, Object
from tests.kubernetes.manifests import (
    CLASS,
    DRIVER,
    Use,
    make_claim,
    make_class,
    make_driver,
    make_pod,
    make_volume,
)
from tests.kubernetes.node import KubernetesNode, is_ready
from tests.waiting import wait_until

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
"""What ext4 fits in; all of a blank volume is read before it is formatted."""
_names = count(1)


@dataclass(frozen=True)
class Claim:
    """A volume that pods can claim, by its name in Kubernetes, and its ID in EBS."""

    name: str
    volume_id: str


class Workloads:
    """The objects of one test."""

    def __init__(self, node: KubernetesNode) -> None:
        self.node = node
        self.api = node.api
        self._made: list[tuple[str, str]] = []
        self._claims: list[Claim] = []

    def declare_driver(self) -> None:
        """Declare driver and storage class, once for the cluster."""
        if not self.api.read("CSIDriver", DRIVER):
            self.api.create(make_driver())
        if not self.api.read("StorageClass", CLASS):
            self.api.create(make_class())

    def add_volume(self, size_bytes: int = SIZE_BYTES, **fields: Any) -> Claim:
        """Attach a new volume of zeros and make it known to Kubernetes."""
        volume_id = choose_volume_id()
        self.node.ebs.attach(volume_id, size_bytes)
        return self.add_claim(volume_id, size_bytes, **fields)

    def add_claim(self, volume_id: str, size_bytes: int = SIZE_BYTES, **fields: Any) -> Claim:
        """Make a volume known to Kubernetes that exists, and wait until its claim is bound."""
        name = f"volume-{next(_names)}"
        volume = make_volume(name, volume_id, size_bytes, **fields)
        for manifest in (volume, make_claim(volume)):
            self.create(manifest)
        self.api.wait("PersistentVolumeClaim", name, has_phase("Bound"), "was to be bound")
        claim = Claim(name, volume_id)
        self._claims.append(claim)
        return claim

    def create(self, manifest: Object) -> str:
        """Make an object that ends with the test; return its name."""
        self.api.create(manifest)
        self._made.append((manifest["kind"], manifest["metadata"]["name"]))
        return str(manifest["metadata"]["name"])

    def add_pod(self, *uses: Use, **fields: Any) -> str:
        """Ask for a pod and return its name."""
        return self.create(make_pod(f"pod-{next(_names)}", *uses, **fields))

    def start_pod(self, *uses: Use, **fields: Any) -> str:
        """Return the name of a pod that runs and waits for commands."""
        return self.wait_running(self.add_pod(*uses, **fields))

    def wait_running(self, pod: str) -> str:
        """Return the pod's name once it runs."""
        self.api.wait("Pod", pod, is_ready, "was to run")
        return pod

    def run_pod(self, script: str, *uses: Use, **fields: Any) -> None:
        """Run a shell script in a pod of its own, which has to succeed, and wait until the pod is gone."""
        pod = self.add_pod(*uses, script=script, **fields)
        ended = self.api.wait("Pod", pod, has_phase("Succeeded", "Failed"), "was to end")
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        self.end_pod(pod)

    def run_in(self, pod: str, script: str) -> str:
        """Run a shell script in a running pod; return what it printed."""
        return self.node.run_in_pod(pod, script)

    def end_pod(self, pod: str) -> None:
        """Have a pod ended and wait until it is gone; kubelet may be about to unpublish its volumes yet."""
        self.api.delete("Pod", pod)
        self.api.wait_gone("Pod", pod)

    def end_pods(self) -> None:
        """Have all pods ended and wait until they are gone."""
        self._end_all("Pod")

    def resize(self, claim: Claim, size_bytes: int) -> None:
        """Ask for more, and say that the volume has it, as the sidecar does that has AWS make it larger."""
        wanted = {"storage": str(size_bytes)}
        self.api.patch("PersistentVolumeClaim", claim.name, {"spec": {"resources": {"requests": wanted}}})
        self.api.patch("PersistentVolume", claim.name, {"spec": {"capacity": wanted}})

    def find_mounts(self, claim: Claim) -> list[str]:
        """Return where a volume is mounted on the node, for pods too, also when its device is gone."""
        lines = self.node.guest.shell("cat /proc/self/mountinfo").splitlines()
        fields = [line.split() for line in lines]
        # The fifth is the mount point: kubelet stages at a hash of the ID, and a pod has the claim's name.
        staged = f"/{hashlib.sha256(claim.volume_id.encode()).hexdigest()}/globalmount"
        return [words[4] for words in fields if words[4].endswith((staged, f"~csi/{claim.name}/mount"))]

    def wait_unstaged(self, claim: Claim) -> None:
        """Wait until kubelet has given a volume back, and nothing of it is mounted on the node."""
        wait_until(lambda: not self.find_mounts(claim), f"{claim.volume_id} was to be unmounted", WAIT_S)

    def list_events(self, name: str) -> list[str]:
        """Return what Kubernetes' events say of an object, with their reasons."""
        return [
            f"{event['reason']}: {event['message']}"
            for event in self.api.list("Event")
            if event["involvedObject"]["name"] == name
        ]

    def end_objects(self) -> None:
        """Take all objects away, pods first."""
        self.end_pods()
        for kind in ("PersistentVolumeClaim", "PersistentVolume"):
            self._end_all(kind)

    def clear(self) -> None:
        """Take all away; a volume goes when nothing of it is mounted any more."""
        self.end_objects()
        for claim in self._claims:
            self.wait_unstaged(claim)
        self.node.ebs.clear()

    def _end_all(self, kind: str) -> None:
        names = [name for made, name in self._made if made == kind]
        for name in names:
            self.api.delete(kind, name)
        for name in names:
            self.api.wait_gone(kind, name)


def has_phase(*phases: str) -> Callable[[Object], bool]:
    """Return what tells whether an object is in one of these phases."""
    return lambda found: found.get("status", {}).get("phase") in phases


def find_container(pod: Object) -> str:
    """Return the ID of a pod's only container."""
    (status,) = pod["status"]["containerStatuses"]
    return str(status["containerID"])


def choose_volume_id() -> str:
    """Return an ID that no volume has had: the agent of a kept cluster remembers earlier runs."""
    return f"vol-0{secrets.token_hex(8)}"
