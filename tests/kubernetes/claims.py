"""What the controller is tried on: claims, snapshots and pods on a node that only the API knows.

No kubelet runs there, so that a pod on it claims its volumes, has them attached, and never starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import count
from typing import Any

from agent.csi.volumes.node_info import AWS_DRIVER
from tests.aws.cloud import CLUSTER_ID, ZONE
from tests.kubernetes.api import Api, Object
from tests.kubernetes.interrupted_aws import InterruptedAws
from tests.kubernetes.manifests import Use, make_pod
from tests.kubernetes.sidecars import ControllerPod
from tests.waiting import wait_until

DRIVER = AWS_DRIVER
"""The controller takes the place of AWS's, so objects that name its driver are served."""
CLASS, FASTER, SNAPSHOTS = "provisioned", "faster", "snapshots"
FASTER_MIB_S = 250
LARGER = "2Gi"
WAIT_S = 120.0
NODE = "known-to-the-api"
INSTANCE = "i-0aaaaaaaaaaaaaaaa"
HOSTNAME = "kubernetes.io/hostname"
ZONE_KEYS = ("topology.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone")
_names = count(1)


class Claims:
    """The objects of one test, and the AWS where their volumes are."""

    def __init__(self, api: Api, aws: InterruptedAws, pod: ControllerPod) -> None:
        self.api = api
        self.aws = aws
        self.pod = pod

    def claim(
        self, size: str = "1Gi", source: Mapping[str, str] | None = None, *, is_block: bool = True
    ) -> str:
        """Ask for a volume, which is made when a pod asks for the claim; return the claim's name."""
        spec = {
            "storageClassName": CLASS,
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Block" if is_block else "Filesystem",
            "resources": {"requests": {"storage": size}},
            **({} if source is None else {"dataSource": dict(source)}),
        }
        return self._create("v1", "PersistentVolumeClaim", spec)

    def add_pod(self, claim: str, *, tolerated: str = "") -> str:
        """Have a pod that uses a claim, on the node that only the API knows; return the pod's name.

        ``tolerated``: the key of the only taint that it stays there in spite of; all, unless it is given.
        """
        manifest = make_pod(f"known-{next(_names)}", Use(claim, "/dev/raw", is_block=True))
        # Of a node that says nothing Kubernetes thinks ill after a while.
        toleration = {"operator": "Exists", **({"key": tolerated} if tolerated else {})}
        manifest["spec"].update(nodeSelector={HOSTNAME: NODE}, tolerations=[toleration])
        self.api.create(manifest)
        return str(manifest["metadata"]["name"])

    def end_pod(self, pod: str) -> None:
        """Have a pod gone at once, which nobody runs, on a node that says it has no volume in use."""
        report_node(self.api)
        self.api.delete("Pod", pod, grace_s=0)
        self.api.wait_gone("Pod", pod)

    def take_snapshot(self, claim: str) -> str:
        """Have a snapshot of a claim's volume taken; return its name once it can be used."""
        spec = {"volumeSnapshotClassName": SNAPSHOTS, "source": {"persistentVolumeClaimName": claim}}
        name = self._create("snapshot.storage.k8s.io/v1", "VolumeSnapshot", spec)
        self.api.wait("VolumeSnapshot", name, is_ready_to_use, "was to be complete")
        return name

    def make_larger_and_faster(self, claim: str, user: str = "") -> None:
        """Ask for 2 GiB and the faster class at once, and wait until the claim has both.

        ``user``: a pod that runs with the claim's filesystem, which is to grow, too.
        """
        wanted = {"resources": {"requests": {"storage": LARGER}}, "volumeAttributesClassName": FASTER}
        self.api.patch("PersistentVolumeClaim", claim, {"spec": wanted})
        if user:
            self.api.wait("PersistentVolumeClaim", claim, _is_left_to_node, "was to be grown by AWS")
            # kubelet sees it when it looks at the pod: at once when that changes, else after a minute or two.
            self.api.patch("Pod", user, {"metadata": {"labels": {"changed": "yes"}}})
        self.api.wait("PersistentVolumeClaim", claim, _has_changed, "was to have both")

    def wait_attached(self, number: int = 1) -> None:
        """Wait until so many volumes are attached, as Kubernetes has it, and no other is asked for."""
        wait_until(lambda: self._list_attached() == [True] * number, f"{number} were to be attached", WAIT_S)

    def wait_leftovers(self, *kept: str) -> None:
        """Wait until nothing is left of volumes and snapshots, here and in AWS, but what is kept."""
        wait_until(lambda: self._list_leftovers() == [*kept], f"only {kept} was to be left", WAIT_S)

    def wait_event(self, claim: str, words: str) -> None:
        """Wait until Kubernetes' events say this of a claim."""
        wait_until(lambda: words in self._read_events(claim), f"{claim} was to be told {words}", WAIT_S)

    def find_volume(self, claim: str) -> Any:
        """Return what AWS has of a bound claim's volume."""
        return self.aws.cloud.volumes[self.read_source(claim)["volumeHandle"]]

    def read_source(self, claim: str) -> Object:
        """Return what Kubernetes has the driver told of a bound claim's volume."""
        name = self.api.read("PersistentVolumeClaim", claim)["spec"]["volumeName"]
        source: Object = self.api.read("PersistentVolume", name)["spec"]["csi"]
        return source

    def _create(self, version: str, kind: str, spec: Mapping[str, Any]) -> str:
        name = f"{kind.lower()}-{next(_names)}"
        self.api.create({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})
        return name

    def _list_attached(self) -> list[bool]:
        found = self.api.list("VolumeAttachment")
        return [bool(each.get("status", {}).get("attached")) for each in found]

    def _list_leftovers(self) -> list[str]:
        kinds = ("PersistentVolume", "VolumeSnapshotContent")
        objects = [each["metadata"]["name"] for kind in kinds for each in self.api.list(kind)]
        # Those of images every account has.
        snapshots = [name for name, snapshot in self.aws.cloud.ec2.snapshots.items() if not snapshot.from_ami]
        return [*objects, *self.aws.cloud.volumes, *snapshots]

    def _read_events(self, name: str) -> str:
        events = [each for each in self.api.list("Event") if each["involvedObject"]["name"] == name]
        return "\n".join(f"{each['reason']}: {each['message']}" for each in events)


def declare_node(api: Api) -> None:
    """Have a node, as kubelet and a driver there would make it known."""
    labels = {HOSTNAME: NODE, **dict.fromkeys(ZONE_KEYS, ZONE)}
    attaches = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
    metadata = _name(NODE, labels=labels, annotations=attaches)
    spec = {"providerID": name_provider(INSTANCE)}
    made = api.create({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
    report_node(api)
    owner = {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": made["metadata"]["uid"]}
    driver = {
        "name": DRIVER,
        "nodeID": f"hyperpod-{CLUSTER_ID}-{INSTANCE}",
        "topologyKeys": list(ZONE_KEYS),
        "allocatable": {"count": 20},
    }
    api.create(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": _name(NODE, ownerReferences=[owner]),
            "spec": {"drivers": [driver]},
        }
    )


def report_node(api: Api) -> None:
    """Have the node's status told, as kubelet does again and again: until then what is attached is in use."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}
    room = {"cpu": "4", "memory": "8Gi", "pods": "100"}
    status = {"capacity": room, "allocatable": room, "conditions": [ready], "volumesInUse": []}
    api.patch("Node", NODE, {"status": status}, subresource="status")


def make_classes() -> list[Object]:
    """Return the driver as AWS's chart has it, and the classes."""
    storage = {"apiVersion": "storage.k8s.io/v1"}
    spec = {"attachRequired": True, "podInfoOnMount": False, "fsGroupPolicy": "File"}
    provisioned = {
        "provisioner": DRIVER,
        "parameters": {"type": "gp3"},
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }
    faster = {"driverName": DRIVER, "parameters": {"throughput": str(FASTER_MIB_S)}}
    return [
        {**storage, "kind": "CSIDriver", "metadata": _name(DRIVER), "spec": spec},
        {**storage, "kind": "StorageClass", "metadata": _name(CLASS), **provisioned},
        {**storage, "kind": "VolumeAttributesClass", "metadata": _name(FASTER), **faster},
        {
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshotClass",
            "metadata": _name(SNAPSHOTS),
            "driver": DRIVER,
            "deletionPolicy": "Delete",
        },
    ]


def name_provider(instance_id: str) -> str:
    """Return a node's providerID, as EKS has it of a node of the HyperPod cluster."""
    return f"aws:///{ZONE}/sagemaker/cluster/hyperpod-{CLUSTER_ID}-{instance_id}"


def is_ready_to_use(snapshot: Object) -> bool:
    return bool(snapshot.get("status", {}).get("readyToUse"))


def _has_changed(claim: Object) -> bool:
    status = claim["status"]
    found = (status["capacity"]["storage"], status.get("currentVolumeAttributesClassName"))
    return found == (LARGER, FASTER)


def _is_left_to_node(claim: Object) -> bool:
    """Tell whether AWS has done its part; the node may have done its own by now."""
    status = claim["status"]
    conditions = status.get("conditions") or ()
    step = (status.get("allocatedResourceStatuses") or {}).get("storage", "")
    is_pending = any(each["type"] == "FileSystemResizePending" for each in conditions)
    return is_pending or step.startswith("Node") or status["capacity"]["storage"] == LARGER


def _name(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}
