"""What the pod on each node runs: has the node install the agent, or remove it, and then only waits.

``node_pod.py install|remove`` is for a privileged container that sees the node's processes. The bundle beside
this file goes to the node, whose own systemd runs on_host.sh with it: what is under way is not cut off when
the pod is ended. Exit status: that of on_host.sh. ``node_pod.py wait`` needs no rights.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
BUNDLE, SCRIPT = HERE / "bundle.tar.gz", HERE / "on_host.sh"
POLICY = Path("/policy/policy.yaml")
NAMESPACES = ("net", "uts", "ipc", "mnt")
"""Those of the node's first process that are entered, the one with the files last."""
SETTING = "EBS_AGENT_"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
RUN_BY_SYSTEMD = ("systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec")
UNPACK_AND_RUN = """
scratch=$(mktemp --directory /var/tmp/ebs-agent.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 143' TERM
tar --extract --no-same-owner --directory "$scratch"
bash "$scratch/on_host.sh" "$1"
"""


def main() -> int:
    """Do what the argument says."""
    match sys.argv[1:]:
        case ["install" | "remove" as what]:
            return run_on_node(what)
        case ["wait"]:
            signal.pause()
            return 0
    sys.stderr.write("usage: node_pod.py install|remove|wait\n")
    return 2


def run_on_node(what: str) -> int:
    """Send the node what it needs and have it do its part; return that one's exit status."""
    settings = [f"--setenv={name}" for name in os.environ if name.startswith(SETTING)]
    argv = [*RUN_BY_SYSTEMD, *settings, "bash", "-euc", UNPACK_AND_RUN, "ebs-agent-pod", what]
    namespaces = [os.open(f"/proc/1/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES]

    def enter_node() -> None:
        for namespace in namespaces:
            os.setns(namespace)

    values = {name: value for name, value in os.environ.items() if name.startswith(SETTING)}
    running = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        env={**ENVIRONMENT, **values},
        preexec_fn=enter_node,  # noqa: PLW1509 -- there is one thread
    )
    assert running.stdin is not None  # noqa: S101
    try:
        with running.stdin, tarfile.open(fileobj=running.stdin, mode="w|") as archive:
            for path in (BUNDLE, SCRIPT, POLICY):
                if path.exists():
                    archive.add(path.resolve(), path.name)
    except BrokenPipeError:
        sys.stderr.write("the node took no bundle\n")
    return running.wait()


if __name__ == "__main__":
    sys.exit(main())
