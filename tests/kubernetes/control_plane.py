"""A control plane: etcd and Kubernetes' programs as processes of this machine, which end with the tests."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.agent_process import reserve_port
from tests.kubernetes.api import Api
from tests.kubernetes.programs import SIDECARS, get_program
from tests.vm.guest.tools import run_tool
from tests.waiting import wait_until

START_S = 180.0
HOST_AS_SEEN_BY_GUESTS = "10.0.2.2"
"""QEMU's address for the machine that it runs on; what is sent there arrives on that one's loopback."""
NODE_NAME = "guest"
# Users by token, with their groups. What runs on this machine may do anything, a node only what is a node's,
# the controller what docs/controller-rbac.yaml allows, who moves claims what docs/migrate-rbac.yaml
# allows, once a test has applied it, and each sidecar what its release asks for.
USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("controllers", "system:masters"),
    "node": (f"system:node:{NODE_NAME}", "system:nodes"),
    "controller": ("system:serviceaccount:default:ebs-agent-controller", "system:authenticated"),
    "migrator": ("migrator", "system:authenticated"),
    **{name: (name, "sidecars") for name in SIDECARS},
}
# Those that a node and volumes need; the others would only take processor time.
CONTROLLERS = (
    *("node-lifecycle-controller", "taint-eviction-controller", "pod-garbage-collector-controller"),
    *("persistentvolume-binder-controller", "persistentvolume-attach-detach-controller"),
    *("persistentvolume-expander-controller", "persistentvolume-protection-controller"),
    *("persistentvolumeclaim-protection-controller", "serviceaccount-controller"),
    # Those that a chart needs.
    *("deployment-controller", "replicaset-controller", "daemonset-controller"),
    "root-ca-certificate-publisher-controller",
)


@dataclass(frozen=True)
class ControlPlane:
    """A running one: where its API is, and what its users need."""

    directory: Path
    port: int

    @property
    def certificate(self) -> Path:
        """The API server's, which is its own authority."""
        return self.directory / "server.crt"

    @property
    def api(self) -> Api:
        """The API as its administrator."""
        return Api(f"https://127.0.0.1:{self.port}", self.certificate, "admin")

    def write_kubeconfig(self, user: str, host: str) -> str:
        """Return the file that a program finds the API by, with the certificate in it."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "it",
                    "cluster": {
                        "server": f"https://{host}:{self.port}",
                        "certificate-authority-data": _encode(self.certificate.read_bytes()),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": user}}],
            "current-context": "it",
        }
        return json.dumps(config)


@contextmanager
def run_control_plane(directory: Path) -> Iterator[ControlPlane]:
    """Have a new cluster without nodes, in a directory that keeps its data and logs."""
    plane = declare_control_plane(directory)
    kubeconfig = directory / "controllers.kubeconfig"
    kubeconfig.write_text(plane.write_kubeconfig("controllers", "127.0.0.1"))
    common = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]
    with ExitStack() as stack:
        etcd_port = stack.enter_context(run_etcd(directory))
        stack.enter_context(run_api_server(plane, etcd_port))
        # Or it makes a directory for plug-ins among the machine's own.
        controllers = [f"--controllers={','.join(CONTROLLERS)}", f"--flex-volume-plugin-dir={directory}/flex"]
        controllers.append(f"--root-ca-file={plane.certificate}")
        stack.enter_context(_run("kube-controller-manager", [*common, *controllers], directory))
        stack.enter_context(_run("kube-scheduler", common, directory))
        yield plane


def declare_control_plane(directory: Path) -> ControlPlane:
    """Return one that does not run yet, with the keys and users that it needs."""
    _make_secrets(directory)
    return ControlPlane(directory, reserve_port())


@contextmanager
def run_etcd(directory: Path) -> Iterator[int]:
    """Have what keeps the objects run, and tell its port."""
    client_port, peer_port = reserve_port(), reserve_port()
    with _run("etcd", _etcd_arguments(directory, client_port, peer_port), directory):
        yield client_port


@contextmanager
def run_api_server(plane: ControlPlane, etcd_port: int) -> Iterator[None]:
    """Have the API server run, until it is ready and from then on; it may be run again after it."""
    with _run("kube-apiserver", _api_arguments(plane, etcd_port), plane.directory):
        wait_until(plane.api.is_ready, f"the API server was to be ready: see {plane.directory}", START_S)
        yield


def read_logs(directory: Path, tail_bytes: int = 4000) -> str:
    """Return the end of what each program had to say."""
    return "\n".join(
        f"--- {log.name}\n{log.read_bytes()[-tail_bytes:].decode(errors='replace')}"
        for log in sorted(directory.glob("*.log"))
    )


@contextmanager
def _run(name: str, arguments: Sequence[str], directory: Path) -> Iterator[None]:
    """Have a program run, which the kernel ends should this process end first."""
    program = name if name == "etcd" else str(get_program(name))
    argv = ["setpriv", "--pdeathsig", "KILL", program, *arguments]
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _etcd_arguments(directory: Path, client_port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        *("--name", "it", "--data-dir", str(directory / "etcd"), "--initial-cluster", f"it={peer}"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
    ]


def _api_arguments(plane: ControlPlane, etcd_port: int) -> list[str]:
    directory = plane.directory
    return [
        *(f"--etcd-servers=http://127.0.0.1:{etcd_port}", "--allow-privileged=true"),
        *("--bind-address=127.0.0.1", f"--secure-port={plane.port}"),
        *(f"--advertise-address={HOST_AS_SEEN_BY_GUESTS}", "--endpoint-reconciler-type=none"),
        *(f"--tls-cert-file={plane.certificate}", f"--tls-private-key-file={directory / 'server.key'}"),
        *(f"--token-auth-file={directory / 'tokens.csv'}", "--authorization-mode=Node,RBAC"),
        # Pods have nothing to say to the API, so none of them gets a token.
        *("--enable-admission-plugins=NodeRestriction", "--disable-admission-plugins=ServiceAccount"),
        *("--service-account-issuer=https://kubernetes.test", "--service-cluster-ip-range=10.96.0.0/24"),
        f"--service-account-key-file={directory / 'accounts.key'}",
        f"--service-account-signing-key-file={directory / 'accounts.key'}",
    ]


def _make_secrets(directory: Path) -> None:
    """Make keys, certificate and tokens; a user's token is its name here."""
    names = f"subjectAltName=IP:127.0.0.1,IP:{HOST_AS_SEEN_BY_GUESTS}"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    files: list[str | Path] = ["-keyout", directory / "server.key", "-out", directory / "server.crt"]
    run_tool([*request, "-subj", "/CN=kubernetes", "-addext", names, *files], timeout_s=60)
    run_tool(["openssl", "genrsa", "-out", directory / "accounts.key", "2048"], timeout_s=60)
    lines = [f'{user},{name},{user},"{group}"\n' for user, (name, group) in USERS.items()]
    (directory / "tokens.csv").write_text("".join(lines))


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()
