"""A cluster in memory: the API server's rules, and what Kubernetes' controllers do to volumes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import count
from typing import Any

from lightkube.core.resource import api_info

from agent.cloud.aws.models import CloudSnapshot
from agent.controller.calls import SnapshotCall
from agent.controller.cluster.api import CONFLICT, NOT_FOUND, UNPROCESSABLE, ClusterError, Operations

AWS, OURS = "ebs.csi.aws.com", "ebs.csi.hyperpod-agent"
VOLUME_ID = "vol-0123456789abcdef0"
Thing = dict[str, Any]


class Cut(BaseException):
    """The process ends here."""


class StandInCluster:
    """Objects by kind, namespace and name. What others do, they do before the next call."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Thing] = {}
        self.calls: list[tuple[str, str]] = []
        self.destroyed: list[str] = []
        """Volumes that were deleted with their PersistentVolume."""
        self.cut_at: int | None = None
        self.cut_after = False
        """Whether the last call was done before the process ended."""
        self.has_snapshot_types = True
        self.before_call: Callable[[str, str], None] = lambda _verb, _kind: None
        self.admit: Callable[[Any], None] = lambda _made: None
        """What the cluster asks of new objects; raises ClusterError."""
        self._numbers = count(1)

    def add(self, thing: Thing) -> Thing:
        """Have an object that somebody else made."""
        metadata = thing["metadata"]
        metadata.setdefault("uid", f"uid-{next(self._numbers)}")
        metadata["resourceVersion"] = str(next(self._numbers))
        self.objects[thing["kind"], metadata.get("namespace", ""), metadata["name"]] = thing
        return thing

    def read(self, kind: str, name: str, namespace: str = "") -> Thing:
        """Return an object, which there is."""
        return self.objects[kind, namespace, name]

    def list_kind(self, kind: str, namespace: str | None = None) -> list[Thing]:
        """Return the objects of a kind."""
        return [
            thing
            for (its, where, _), thing in sorted(self.objects.items())
            if its == kind and namespace in {None, where}
        ]

    async def list_all(self, kind: type[Any]) -> tuple[str, list[Any]]:
        """Return all of a kind."""
        return "1", await self._list(kind, None)

    async def list_in(self, kind: type[Any], namespace: str) -> list[Any]:
        """Return all of a namespace."""
        return await self._list(kind, namespace)

    async def find(self, kind: type[Any], name: str) -> Any:
        """Return one that is in no namespace."""
        return await self.find_in(kind, name, "")

    async def find_in(self, kind: type[Any], name: str, namespace: str) -> Any:
        """Return one of a namespace."""
        with self._called("get", kind) as named:
            return copy.deepcopy(self.objects.get((named, namespace, name)))

    async def create(self, made: Any, name: str) -> None:
        """Make one."""
        with self._called("create", type(made)) as kind:
            if (kind, made["metadata"].get("namespace", ""), name) in self.objects:
                raise ClusterError(f"{kind} {name} exists.", status=CONFLICT)
            made = copy.deepcopy({**made, "kind": kind})
            self.admit(made)
            self.add(made)

    async def try_to_create(self, made: Any, name: str) -> None:
        """Admit one, and make none."""
        with self._called("try", type(made)) as kind:
            self.admit(made)
            if (kind, made["metadata"].get("namespace", ""), name) in self.objects:
                raise ClusterError(f"{kind} {name} exists.", status=CONFLICT)

    async def create_global(self, made: Any, name: str) -> None:
        """Make one that is in no namespace."""
        await self.create(made, name)

    async def change(self, kind: type[Any], name: str, operations: Operations) -> None:
        """Change one, by the operations that are used."""
        with self._called("patch", kind) as named:
            changed = copy.deepcopy(self._get(named, "", name))
            for operation in operations:
                apply(changed, **operation)
            self.add(changed)

    async def delete(
        self, kind: type[Any], name: str, uid: str, version: str, namespace: str | None = None
    ) -> None:
        """Ask for its end."""
        with self._called("delete", kind) as named:
            thing = self._get(named, namespace or "", name)
            metadata = thing["metadata"]
            if (metadata["uid"], metadata["resourceVersion"]) != (uid, version):
                raise ClusterError(f"{named} {name} is another.", status=CONFLICT)
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.add(thing)

    def settle(self) -> None:
        """Do what Kubernetes' controllers have to do."""
        for claim in self.list_kind("PersistentVolumeClaim"):
            self._serve_claim(claim)
        for volume in self.list_kind("PersistentVolume"):
            self._serve_volume(volume)
        for snapshot in self.list_kind("VolumeSnapshot"):
            snapshot.setdefault("status", {"readyToUse": True})

    async def _list(self, kind: type[Any], namespace: str | None) -> list[Any]:
        with self._called("list", kind) as named:
            if named == "VolumeSnapshotClass" and not self.has_snapshot_types:
                raise ClusterError("There is no such type.", status=NOT_FOUND)
            return copy.deepcopy(self.list_kind(named, namespace))

    def _called(self, verb: str, kind: type[Any]) -> _Call:
        named = str(api_info(kind).resource.kind)
        self.settle()
        self.before_call(verb, named)
        self.settle()
        is_last = self.cut_at == len(self.calls)
        self.calls.append((verb, named))
        if is_last and not self.cut_after:
            raise Cut
        return _Call(named, is_last=is_last)

    def _get(self, kind: str, namespace: str, name: str) -> Thing:
        if (kind, namespace, name) not in self.objects:
            raise ClusterError(f"There is no {kind} {name}.", status=NOT_FOUND)
        return self.objects[kind, namespace, name]

    def _serve_claim(self, claim: Thing) -> None:
        metadata = claim["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        users = [
            pod
            for pod in self.list_kind("Pod", namespace)
            for volume in pod["spec"]["volumes"]
            if volume["persistentVolumeClaim"]["claimName"] == name
        ]
        if "deletionTimestamp" in metadata and not users:
            del self.objects["PersistentVolumeClaim", namespace, name]
            return
        volume = self.objects.get(("PersistentVolume", "", claim["spec"].get("volumeName", "")))
        if volume is None or "status" in claim:
            return
        reference = volume["spec"].get("claimRef", {})
        if claim["spec"].get("storageClassName", "standard") != volume["spec"].get("storageClassName", ""):
            return  # where none is said, the cluster's default is
        if reference.get("uid") is None and (reference.get("namespace"), reference.get("name")) == (
            namespace,
            name,
        ):
            reference["uid"] = metadata["uid"]
            volume["status"] = {"phase": "Bound"}
            self.add(volume)
            claim["status"] = {"phase": "Bound", "capacity": dict(volume["spec"]["capacity"])}
            metadata.setdefault("annotations", {})["pv.kubernetes.io/bind-completed"] = "yes"
            self.add(claim)

    def _serve_volume(self, volume: Thing) -> None:
        volume.setdefault("status", {"phase": "Available"})
        name, reference = volume["metadata"]["name"], volume["spec"].get("claimRef")
        if reference is None:
            return
        claim = self.objects.get(("PersistentVolumeClaim", reference["namespace"], reference["name"]))
        has_claim = claim is not None and claim["metadata"]["uid"] == reference.get("uid")
        if "uid" in reference and not has_claim:
            volume["status"] = {"phase": "Released"}
        if not has_claim and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            self.destroyed.append(volume["spec"]["csi"]["volumeHandle"])
        if "deletionTimestamp" in volume["metadata"] and not has_claim:
            del self.objects["PersistentVolume", "", name]


class StandInEc2:
    """EC2's snapshots by name; each is complete when it is looked at for the second time."""

    def __init__(self) -> None:
        self.taken: dict[str, SnapshotCall] = {}
        self.takes: list[str] = []
        """The name of each call that asked for one."""
        self.looks: list[str] = []
        self.state = "completed"
        """What they come to."""
        self.before_take: Callable[[], None] = lambda: None
        self.after_take: Callable[[], None] = lambda: None

    async def find(self, call: SnapshotCall) -> CloudSnapshot | None:
        """Return that of the name."""
        if call.name not in self.taken:
            return None
        self.looks.append(call.name)
        is_complete = self.looks.count(call.name) > 1
        return self._describe(call.name, self.state if is_complete else "pending")

    async def take(self, call: SnapshotCall) -> CloudSnapshot:
        """Begin it, once under its name."""
        self.before_take()
        self.takes.append(call.name)
        self.taken.setdefault(call.name, call)
        self.after_take()
        return self._describe(call.name, "pending")

    def _describe(self, name: str, state: str) -> CloudSnapshot:
        number, volume_id = [*self.taken].index(name), self.taken[name].volume_id
        return CloudSnapshot(f"snap-{number:017x}", volume_id, state, "2026-01-01T00:00:00Z", 40)


class _Call:
    """One call, after which the process may end."""

    def __init__(self, kind: str, *, is_last: bool) -> None:
        self._kind = kind
        self._is_last = is_last

    def __enter__(self) -> str:
        return self._kind

    def __exit__(self, *failed: object) -> None:
        if self._is_last:
            raise Cut


def apply(thing: Thing, *, op: str, path: str, value: Any = None) -> None:
    """Apply one operation of a JSON patch, or raise what the API server answers."""
    *way, last = (part.replace("~1", "/") for part in path.removeprefix("/").split("/"))
    for part in way:
        thing = thing[part]
    if op == "test" and thing.get(last) != value:
        raise ClusterError("It is not as it was.", status=UNPROCESSABLE)
    if op == "replace":
        thing[last] = value
    if op == "remove":
        del thing[last]


def make_claim(name: str = "data", **spec: Any) -> Thing:
    """Return a claim that is bound to ``pv-<name>``."""
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "namespace": "training",
            "uid": f"uid-of-{name}",
            "labels": {"app": "trainer"},
            "annotations": {
                "note": "mine",
                "pv.kubernetes.io/bind-completed": "yes",
                "volume.kubernetes.io/storage-provisioner": AWS,
            },
            "finalizers": ["kubernetes.io/pvc-protection"],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "100Gi"}},
            "storageClassName": "gp3",
            "volumeMode": "Filesystem",
            "volumeName": f"pv-{name}",
            **spec,
        },
        "status": {"phase": "Bound", "capacity": {"storage": "100Gi"}},
    }


def make_volume(name: str = "data", policy: str = "Delete") -> Thing:
    """Return the PersistentVolume of a claim, as AWS's driver makes it."""
    zones = [
        {"key": "topology.ebs.csi.aws.com/zone", "operator": "In", "values": ["us-west-2a"]},
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-west-2a"]},
    ]
    return {
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pv-{name}",
            "labels": {"team": "a"},
            "annotations": {"pv.kubernetes.io/provisioned-by": AWS},
            "finalizers": ["kubernetes.io/pv-protection", f"external-attacher/{AWS.replace('.', '-')}"],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "100Gi"},
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "training", "name": name}
            | {"uid": f"uid-of-{name}", "resourceVersion": "7"},
            "csi": {
                "driver": AWS,
                "volumeHandle": VOLUME_ID,
                "fsType": "xfs",
                "volumeAttributes": {
                    "storage.kubernetes.io/csiProvisionerIdentity": f"1-2-{AWS}",
                    "blockSize": "4096",
                },
            },
            "mountOptions": ["noatime"],
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": zones}]}},
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": "gp3",
            "volumeMode": "Filesystem",
        },
        "status": {"phase": "Bound"},
    }


def make_cluster(
    policy: str = "Delete", *, names: tuple[str, ...] = ("data",), **spec: Any
) -> StandInCluster:
    """Return a cluster with both drivers, and claims that AWS's has."""
    cluster = StandInCluster()
    for driver in (AWS, OURS):
        cluster.add({"kind": "CSIDriver", "metadata": {"name": driver}})
        cluster.add({"kind": "VolumeSnapshotClass", "metadata": {"name": f"of-{driver}"}, "driver": driver})
    drivers = [{"name": AWS}, {"name": OURS}]
    cluster.add({"kind": "CSINode", "metadata": {"name": "node"}, "spec": {"drivers": drivers}})
    for name in names:
        cluster.add(make_volume(name, policy))
        cluster.add(make_claim(name, **spec))
    return cluster


def make_pod(claim: str = "data", phase: str = "Running") -> Thing:
    """Return a pod that uses a claim."""
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return {
        "kind": "Pod",
        "metadata": {"name": "trainer", "namespace": "training"},
        "spec": {"volumes": volumes},
        "status": {"phase": phase},
    }
