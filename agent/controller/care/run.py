"""Runs the care for a cluster: one replica at a time, and all of it ends with the lease."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio

from agent.base.error_barrier import supervise
from agent.cloud.aws.call import Make
from agent.controller.care.cluster_api import ClusterApi, connect
from agent.controller.care.dead_nodes import DeadNodes
from agent.controller.care.lease import Lease
from agent.controller.care.objects import CsiNode, Node, VolumeAttachment
from agent.controller.care.proofs import Proofs
from agent.controller.care.start_up import StartUp
from agent.controller.care.watched import Watched


def _name_replica() -> str:
    """Return what tells this process from every other one, a former one in the same pod too."""
    return f"{os.uname().nodename}_{secrets.token_hex(4)}"


@dataclass(frozen=True)
class CareSettings:
    """What the care is for, and how far it goes."""

    driver: str
    """The driver's name, as the cluster's CSINodes have it."""
    region: str
    """AWS's, of the nodes."""
    kubeconfig: Path | None = None
    """None: the service account of the pod that the controller runs in."""
    releases_dead_nodes: bool = False
    """Volumes of an instance that is proven gone are released without Kubernetes' six minutes."""
    holder: str = field(default_factory=_name_replica)

    @property
    def lease(self) -> str:
        """The name of the Lease; the sidecars' are ``external-…-leader-<driver>``."""
        return f"ebs-agent-care-{self.driver.replace('/', '-')}"


async def run_care(settings: CareSettings, make: Make) -> None:
    """Care for the cluster until cancelled; InvalidValueError where it cannot be found."""
    async with connect(settings.kubeconfig) as api:
        await run_care_by(api, settings, make)


async def run_care_by(api: ClusterApi, settings: CareSettings, make: Make) -> None:
    """Care for the cluster whose API it is, whenever this replica has the lease."""
    while True:
        lease = Lease(api, settings.lease, settings.holder)
        await lease.acquire()
        try:
            async with anyio.create_task_group() as group:
                for doing, run in _list_tasks(api, lease, settings, make):
                    group.start_soon(partial(supervise, doing, run), name=doing)
                await lease.keep()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await lease.release()


def _list_tasks(
    api: ClusterApi, lease: Lease, settings: CareSettings, make: Make
) -> tuple[tuple[str, Callable[[], Awaitable[None]]], ...]:
    """Return what is done under the lease; each completes "the attempt to …"."""
    nodes, csi_nodes, attachments = Watched(api, Node), Watched(api, CsiNode), Watched(api, VolumeAttachment)
    start_up = StartUp(api, lease, settings.driver, nodes, csi_nodes)
    proofs = Proofs(make, settings.region) if settings.releases_dead_nodes else None
    dead_nodes = DeadNodes(api, lease, settings.driver, nodes, attachments, proofs)
    return (
        ("watch the cluster's nodes", nodes.keep),
        ("watch the drivers of its nodes", csi_nodes.keep),
        ("watch its attachments", attachments.keep),
        ("let pods onto nodes", start_up.tend),
        ("release volumes of nodes that are gone", dead_nodes.tend),
    )
