"""The objects that the tests make: the driver, volumes with their claims, and pods that use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.images import BUSYBOX

DRIVER = "ebs.csi.hyperpod-agent"
POLICY_DRIVER = "policy.ebs.csi.hyperpod-agent"
CLASS = "ebs"
"""The storage class of all volumes here: it lets them grow, and nobody provisions for it."""
MIB = 1 << 20
SLEEP = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"
"""What a pod does that is there to run commands in; it ends at once when it is to end."""


@dataclass(frozen=True)
class Use:
    """How a pod uses one claim: mounted at ``path``, or as a device there where it is a block volume."""

    claim: str
    path: str = "/data"
    is_block: bool = False
    is_read_only: bool = False
    sub_path: str = ""


def make_driver(name: str = DRIVER, *, is_attaching: bool = False) -> dict[str, Any]:
    """Return a driver, whose volumes Kubernetes has attached where ``is_attaching``, and else others."""
    spec = {"attachRequired": is_attaching, "podInfoOnMount": False, "fsGroupPolicy": "File"}
    return {**_make("CSIDriver", name), "spec": {**spec, "volumeLifecycleModes": ["Persistent"]}}


def make_class() -> dict[str, Any]:
    """Return the storage class."""
    return {**_make("StorageClass", CLASS), "provisioner": DRIVER, "allowVolumeExpansion": True}


def make_volume(
    name: str,
    volume_id: str,
    size_bytes: int,
    *,
    fs_type: str = "ext4",
    is_block: bool = False,
    is_read_only: bool = False,
    access: str = "ReadWriteOnce",
    context: Mapping[str, str] | None = None,
    mount_options: Sequence[str] = (),
    driver: str = DRIVER,
    topology: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a persistent volume that is an EBS volume, and for the claim of the same name.

    ``topology``: labels of the nodes that it can be used on; None: on all.
    """
    source = {
        "driver": driver,
        "volumeHandle": volume_id,
        "volumeAttributes": dict(context or {}),
        "readOnly": is_read_only,
        **({} if is_block else {"fsType": fs_type}),
    }
    spec = {
        "storageClassName": CLASS,
        "accessModes": [access],
        "capacity": {"storage": str(size_bytes)},
        "volumeMode": "Block" if is_block else "Filesystem",
        "persistentVolumeReclaimPolicy": "Retain",
        "mountOptions": list(mount_options),
        "claimRef": {"namespace": "default", "name": name},
        "csi": source,
    }
    if topology is not None:
        labels = [{"key": key, "operator": "In", "values": [value]} for key, value in topology.items()]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": labels}]}}
    return {**_make("PersistentVolume", name), "spec": spec}


def make_claim(volume: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claim that a persistent volume is for."""
    name, spec = volume["metadata"]["name"], volume["spec"]
    wanted = {key: spec[key] for key in ("storageClassName", "accessModes", "volumeMode")}
    resources = {"requests": dict(spec["capacity"])}
    return {
        **_make("PersistentVolumeClaim", name),
        "spec": {**wanted, "volumeName": name, "resources": resources},
    }


def make_pod(
    name: str,
    *uses: Use,
    script: str = SLEEP,
    fs_group: int | None = None,
    user: int | None = None,
    restart: str = "Never",
) -> dict[str, Any]:
    """Return a pod that runs a shell script once, in the network of its node."""
    claims = dict.fromkeys(use.claim for use in uses)
    read_only = {use.claim for use in uses if use.is_read_only}
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-euc", script],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_make_mount(use) for use in uses if not use.is_block],
        "volumeDevices": [{"name": use.claim, "devicePath": use.path} for use in uses if use.is_block],
    }
    security = {"fsGroup": fs_group, "runAsUser": user, "runAsGroup": user}
    spec = {
        "containers": [container],
        "volumes": [
            {
                "name": claim,
                "persistentVolumeClaim": {"claimName": claim, "readOnly": claim in read_only},
            }
            for claim in claims
        ],
        "hostNetwork": True,
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": 10,
        "enableServiceLinks": False,
        "securityContext": {key: value for key, value in security.items() if value is not None},
    }
    return {**_make("Pod", name), "spec": spec}


def _make(kind: str, name: str) -> dict[str, Any]:
    group = "storage.k8s.io/" if kind in {"CSIDriver", "StorageClass"} else ""
    return {"apiVersion": f"{group}v1", "kind": kind, "metadata": {"name": name}}


def _make_mount(use: Use) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": use.claim, "mountPath": use.path}
    if use.sub_path:
        mount["subPath"] = use.sub_path
    return mount
