"""A cluster that somebody keeps running by hand, for tests to use in place of one of their own."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.node import KubernetesNode
from tests.vm.guest import Guest, GuestError
from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest_agent import UNIT

# Read on import: tests run with the agent's variables removed.
KEPT = os.environ.get("EBS_AGENT_CLUSTER")
BUNDLE = "bundle"
"""Below a cluster's directory."""
_PORT = "port"


def note_cluster(plane: ControlPlane) -> None:
    """Leave in a cluster's directory what others need to find it."""
    (plane.directory / _PORT).write_text(str(plane.port))


def find_kept_cluster() -> KubernetesNode | None:
    """Return the node of the cluster that is kept, its agent the working tree's; None: there is none."""
    if KEPT is None:
        return None
    directory = Path(KEPT)
    guest = Guest.find(directory / "guest")
    if guest is None:
        raise GuestError(f"no cluster is running in {directory}")
    plane = ControlPlane(directory, int((directory / _PORT).read_text()))
    guest.refresh_agent()
    for unit in (REPOSITORY / "systemd").glob("ebs-*"):
        guest.put(f"/etc/systemd/system/{unit.name}", unit.read_bytes())
    guest.run(["systemctl", "daemon-reload"])
    guest.run(["systemctl", "restart", UNIT], timeout_s=240)
    return KubernetesNode(guest, plane, directory / BUNDLE / "lifecycle_scripts")
