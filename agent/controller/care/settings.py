"""What the care for a cluster is told on the command line; imports nothing of Kubernetes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field


def _name_replica() -> str:
    """Return what tells this process from every other one, a former one in the same pod too."""
    return f"{os.uname().nodename}_{secrets.token_hex(4)}"


class CareSettings(Struct, frozen=True):
    """What the care is for, and how far it goes."""

    driver: str
    """The driver's name, as the cluster's CSINodes have it."""
    region: str
    """AWS's, of the nodes."""
    kubeconfig: Path | None = None
    """None: the service account of the pod that the controller runs in."""
    cluster_id: str | None = None
    """In the tag ``kubernetes.io/cluster/<ID>`` of the cluster's volumes; None: they have none."""
    releases_dead_nodes: bool = False
    """Volumes of an instance that is proven gone are released without Kubernetes' six minutes."""
    holder: str = field(default_factory=_name_replica)

    @property
    def lease(self) -> str:
        """The name of the Lease; the sidecars' are ``external-…-leader-<driver>``."""
        return f"ebs-agent-care-{self.driver.replace('/', '-')}"


def is_in_cluster(environment: Mapping[str, str]) -> bool:
    """Return whether this process runs in a pod, whose service account leads to the cluster's API."""
    return bool(environment.get("KUBERNETES_SERVICE_HOST") and environment.get("KUBERNETES_SERVICE_PORT"))
