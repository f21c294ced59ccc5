"""A controller's pod without a node to run it: `ebs-agent csi-controller` and its sidecars as processes here.

As kubelet would it begins anew what ends: a sidecar ends itself when it loses the controller. Each sidecar
is a user of its own, with the rights that its release says it needs and no others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from typing_extensions import Self

from tests.aws.cloud import REGION
from tests.aws.world import CREDENTIALS
from tests.kubernetes.api import Api, Object
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.programs import SIDECARS, get_program, list_roles, list_snapshot_types
from tests.waiting import wait_until

CONTROLLER = "csi-controller"
RBAC = Path(__file__).parents[2] / "docs/controller-rbac.yaml"
RECONCILE_S = 10
"""How often the attacher looks whether what is attached still is; a minute by default."""
RETRIES = "--retry-interval-max=10s"
"""Or a test waits for what failed before: they double, up to minutes."""
ARGUMENTS: Mapping[str, Sequence[str]] = {
    "csi-provisioner": (
        *("--feature-gates=Topology=true", "--strict-topology", "--extra-create-metadata"),
        *("--default-fstype=ext4", "--timeout=60s", RETRIES),
    ),
    "csi-attacher": (
        *("--default-fstype=ext4", f"--reconcile-sync={RECONCILE_S}s", "--timeout=6m", RETRIES),
        "--feature-gates=MutableCSINodeAllocatableCount=true",
    ),
    "csi-resizer": (
        *("--extra-modify-metadata", "--handle-volume-inuse-error=false", "--timeout=60s", RETRIES),
    ),
    "csi-snapshotter": ("--extra-create-metadata", "--timeout=60s", RETRIES),
    "snapshot-controller": (RETRIES,),
}
AGAIN_S = 0.5
START_S = 120.0


def declare_snapshots(api: Api) -> None:
    """Declare snapshots to the API server, by the files of the snapshotter's release."""
    declared = [_read(path) for path in list_snapshot_types()]
    for (manifest,) in declared:
        api.ensure(manifest)
    for (manifest,) in declared:
        api.wait(manifest["kind"], manifest["metadata"]["name"], _is_established, "was to be known", START_S)


def grant_rights(api: Api, names: Sequence[str] = SIDECARS) -> None:
    """Grant each sidecar the cluster role that its release declares; it elects no leader, so no other."""
    for name in names:
        roles = [each for path in list_roles(name) for each in _read(path) if each["kind"] == "ClusterRole"]
        assert roles, f"{name} has no role"
        for role in roles:
            api.ensure(role)
            api.ensure(_bind(name, role["metadata"]["name"]))


def grant_care(api: Api) -> None:
    """Grant the controller's user what the documentation says that the care for a cluster needs."""
    for manifest in _read(RBAC):
        api.ensure(manifest)


@dataclass(frozen=True)
class Shipped:
    """What a chart has the pod's programs run with, and as whom, in place of what is usual here."""

    user: str
    arguments: Mapping[str, Sequence[str]]


class ControllerPod:
    """``with ControllerPod(plane, driver, aws_endpoint) as pod: …``.

    ``cares``: it cares for the cluster, too, and releases the volumes of nodes that are gone. What is shipped
    cares for it by itself. ``host``: what the pod takes its host's name to be, by which replicas that elect a
    leader are told from each other; what is there once in a cluster is not in such a pod.
    """

    def __init__(
        self,
        plane: ControlPlane,
        driver: str,
        aws_endpoint: str,
        *,
        cares: bool = False,
        shipped: Shipped | None = None,
        host: str = "",
    ) -> None:
        self.plane = plane
        directory = plane.directory / host
        directory.mkdir(exist_ok=True)
        self.socket = directory / "csi.sock"
        self.socket.unlink(missing_ok=True)
        ours = [sys.executable, "-m", "agent", CONTROLLER]
        said = ["--driver", driver, "--region", REGION] if shipped is None else shipped.arguments[CONTROLLER]
        ours += [*said, "--endpoint", f"unix://{self.socket}"]
        if cares:
            ours += ["--kubeconfig", str(_write_kubeconfig(plane, "controller")), "--release-dead-nodes"]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            **CREDENTIALS,
            "AWS_EC2_METADATA_DISABLED": "true",
            "EBS_AGENT_CLOUD_ENDPOINT": aws_endpoint,
        }
        self._containers = {CONTROLLER: _Container(CONTROLLER, ours, directory, environment, host)}
        if shipped is not None:
            ours.append(f"--kubeconfig={_write_kubeconfig(plane, shipped.user)}")
        for name, tried in ARGUMENTS.items():
            if host and name == "snapshot-controller":
                continue
            user, arguments = name, tried
            if shipped is not None and name in shipped.arguments:
                user, arguments = shipped.user, [*shipped.arguments[name], RETRIES]
            kubeconfig = _write_kubeconfig(plane, user)
            argv = [str(get_program(name)), f"--kubeconfig={kubeconfig}", "--v=4", *arguments]
            if name != "snapshot-controller":
                argv.append(f"--csi-address={self.socket}")
            self._containers[name] = _Container(name, argv, directory, environment, host)

    def __enter__(self) -> Self:
        for container in self._containers.values():
            container.start()
        try:
            wait_until(self.socket.exists, f"the controller was to listen at {self.socket}", START_S)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for container in self._containers.values():
            container.end()

    def kill_controller(self) -> None:
        """Kill the controller, without a word to it; it is begun anew."""
        self._containers[CONTROLLER].kill()

    def replace_controller(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Kill the controller, and have another program be it from then on, at the same socket."""
        container = self._containers[CONTROLLER]
        container.argv, container.environment = argv, environment
        self.socket.unlink()
        container.kill()
        wait_until(self.socket.exists, f"another controller was to listen at {self.socket}", START_S)

    def kill(self) -> None:
        """Kill all its programs at once, without a word to them; none is begun anew, as on a dead node."""
        for container in self._containers.values():
            container.end_soon()

    def pause(self) -> None:
        """Have all its programs stand still in whatever they do, until they are resumed."""
        for container in self._containers.values():
            container.signal(signal.SIGSTOP)

    def resume(self) -> None:
        for container in self._containers.values():
            container.signal(signal.SIGCONT)


@dataclass
class _Container:
    """One program, begun anew whenever it ends, in a session of its own."""

    name: str
    argv: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    host: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _is_over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep_running, name=self.name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Have it end for good."""
        assert self._thread is not None
        self.end_soon()
        self._thread.join()

    def end_soon(self) -> None:
        """Kill it, and have it not begun anew."""
        self._is_over.set()
        self.kill()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def _keep_running(self) -> None:
        while not self._is_over.is_set():
            # The kernel ends it with the thread that began it, as with the tests.
            bonded = ["setpriv", "--pdeathsig", "KILL", *self.argv]
            if self.host:
                named = 'hostname "$0" && exec "$@"'
                bonded = ["unshare", "--uts", "sh", "-c", named, self.host, *bonded]
            with (self.directory / f"{self.name}.log").open("ab") as log:
                self._process = subprocess.Popen(
                    bonded,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    env=dict(self.environment),
                )
            while self._process.poll() is None and not self._is_over.wait(AGAIN_S):
                pass
            self.kill()
            self._process.wait()
            self._is_over.wait(AGAIN_S)


def _write_kubeconfig(plane: ControlPlane, user: str) -> Path:
    path = plane.directory / f"{user}.kubeconfig"
    path.write_text(plane.write_kubeconfig(user, "127.0.0.1"))
    return path


def _read(path: Path) -> list[Object]:
    """Return the objects of a file."""
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def _bind(user: str, role: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": user},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"},
    }


def _is_established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
