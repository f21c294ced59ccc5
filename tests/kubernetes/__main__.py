"""A cluster by hand: ``python -m tests.kubernetes`` boots one and keeps it until it is interrupted.

``EBS_AGENT_CLUSTER=DIRECTORY`` has the tests use it, its agent replaced by the working tree's.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.kubernetes.control_plane import run_control_plane
from tests.kubernetes.kept_cluster import BUNDLE, note_cluster
from tests.kubernetes.node import KubernetesNode, boot_options
from tests.vm.bundles import make_folder
from tests.vm.guest import Guest
from tests.vm.guest.agent_disk import GUEST_PYTHON


def main() -> int:
    """Boot a cluster, tell where it is, and end it when interrupted."""
    with tempfile.TemporaryDirectory(prefix="ebs-cluster-") as name:
        directory = Path(name)
        with run_control_plane(directory) as plane:
            # A test that takes its power starts it again, and then it has to outlive that test.
            guest = Guest.boot(replace(boot_options(), outlives_us=True), directory=directory / "guest")
            try:
                folder = make_folder(directory / BUNDLE, pythons=[GUEST_PYTHON])
                node = KubernetesNode(guest, plane, folder)
                node.prepare()
                node.install_agent()
                node.join()
                guest.detach()
                note_cluster(plane)
                print(f"EBS_AGENT_CLUSTER={directory}", flush=True)  # noqa: T201 -- a program's own output
                # Nobody waits here for a machine that a test has ended.
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
            finally:
                (Guest.find(directory / "guest") or guest).close()
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    sys.exit(main())
