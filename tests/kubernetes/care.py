"""What the controller's care is tried on: an API server with nodes that only the API knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio

from agent.cloud.aws.call import Call, Make, Within
from agent.controller.care.run import run_care_by
from agent.controller.care.settings import CareSettings
from agent.controller.cluster.api import ClusterApi, connect
from tests.aws.cloud import REGION
from tests.kubernetes.api import Api, Object
from tests.kubernetes.control_plane import (
    ControlPlane,
    declare_control_plane,
    run_api_server,
    run_etcd,
)
from tests.kubernetes.sidecars import grant_care

DRIVER = "ebs.csi.aws.com"
START_UP = {"key": f"{DRIVER}/agent-not-ready", "effect": "NoExecute"}
OTHER = {"key": "example.com/other", "value": "yes", "effect": "NoSchedule"}


async def fail_to_ask(call: Call[Any], *, within: Within = nullcontext) -> Any:
    """Stand in for AWS where nothing is to be asked of it."""
    del within
    raise AssertionError(f"nobody was to ask for {call}")


class CareCluster:
    """An API server without controllers, so that nodes are what a test says they are."""

    def __init__(self, plane: ControlPlane, etcd_port: int) -> None:
        self.plane = plane
        self.api: Api = plane.api
        self._etcd_port = etcd_port
        self._server = ExitStack()
        self.kubeconfig = plane.directory / "controller.kubeconfig"
        self.kubeconfig.write_text(plane.write_kubeconfig("controller", "127.0.0.1"))

    def start(self) -> None:
        self._server.enter_context(run_api_server(self.plane, self._etcd_port))

    def stop(self) -> None:
        self._server.close()

    def allow_controller(self) -> None:
        """Give the controller's user what the documentation says that it needs."""
        grant_care(self.api)

    def clear(self) -> None:
        """Take away what tests made."""
        for kind in ("VolumeAttachment", "CSINode", "Node", "PersistentVolume", "Event", "Lease"):
            for found in self.api.list(kind):
                self.api.delete(kind, found["metadata"]["name"])

    def add_node(
        self, name: str, *taints: dict[str, str], provider_id: str = "", is_ready: bool = True
    ) -> Object:
        """Have a node, as its kubelet would register it."""
        spec = {"providerID": provider_id or f"aws:///z/{name}", "taints": list(taints)}
        node = self.api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec})
        self.set_ready(name, is_ready=is_ready)
        return node

    def set_ready(self, name: str, *, is_ready: bool) -> None:
        """Have a node heard of, or not."""
        condition = {"type": "Ready", "status": "True" if is_ready else "Unknown", "reason": "Test"}
        self.api.patch("Node", name, {"status": {"conditions": [condition]}}, subresource="status")

    def register_driver(self, node: Object, count: int | None = 27) -> None:
        """Have a node's driver there, as kubelet writes it."""
        name, uid = node["metadata"]["name"], node["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
        driver: dict[str, Any] = {"name": DRIVER, "nodeID": name}
        if count is not None:
            driver["allocatable"] = {"count": count}
        self.api.create(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "CSINode",
                "metadata": {"name": name, "ownerReferences": [owner]},
                "spec": {"drivers": [driver]},
            }
        )

    def attach(self, node: str, volume: str = "pv-1", driver: str = DRIVER) -> None:
        """Have a volume of the driver attached to a node, as far as Kubernetes knows."""
        self.api.create(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "VolumeAttachment",
                "metadata": {"name": f"{volume}-{node}"},
                "spec": {
                    "attacher": driver,
                    "nodeName": node,
                    "source": {"persistentVolumeName": volume},
                },
            }
        )

    def read_taints(self, name: str) -> set[str]:
        """Return their keys, without the one that the API server puts on each new node itself."""
        taints = self.api.read("Node", name)["spec"].get("taints", [])
        return {taint["key"] for taint in taints} - {"node.kubernetes.io/not-ready"}

    def read_holder(self, settings: CareSettings) -> str:
        """Return who has the lease; empty: nobody."""
        found = self.api.read("Lease", settings.lease)
        return str(found.get("spec", {}).get("holderIdentity") or "")

    @asynccontextmanager
    async def care(
        self, holder: str = "one", make: Make = fail_to_ask, **settings: Any
    ) -> AsyncIterator[Replica]:
        """Have a replica care for the cluster meanwhile."""
        said = CareSettings(DRIVER, REGION, self.kubeconfig, holder=holder, **settings)
        async with connect(self.kubeconfig) as api, anyio.create_task_group() as group:
            group.start_soon(run_care_by, api, said, make)
            yield Replica(api, said)
            group.cancel_scope.cancel()


class Replica:
    """One running replica."""

    def __init__(self, api: ClusterApi, settings: CareSettings) -> None:
        self.api = api
        self.settings = settings


@contextmanager
def run_care_cluster(directory: Path) -> Iterator[CareCluster]:
    """Have one, which the controller may ask what the documentation says."""
    plane = declare_control_plane(directory)
    with run_etcd(directory) as etcd_port:
        cluster = CareCluster(plane, etcd_port)
        cluster.start()
        try:
            cluster.allow_controller()
            yield cluster
        finally:
            cluster.stop()
