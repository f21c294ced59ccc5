"""Runs the care for a cluster: one replica at a time, and all of it ends with the lease."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio

from agent.base.error_barrier import supervise
from agent.controller.care.cluster_api import ClusterApi, connect
from agent.controller.care.lease import Lease
from agent.controller.care.objects import CsiNode, Node
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
    kubeconfig: Path | None = None
    """None: the service account of the pod that the controller runs in."""
    holder: str = field(default_factory=_name_replica)

    @property
    def lease(self) -> str:
        """The name of the Lease; the sidecars' are ``external-…-leader-<driver>``."""
        return f"ebs-agent-care-{self.driver.replace('/', '-')}"


async def run_care(settings: CareSettings) -> None:
    """Care for the cluster until cancelled; InvalidValueError where it cannot be found."""
    async with connect(settings.kubeconfig) as api:
        await run_care_by(api, settings)


async def run_care_by(api: ClusterApi, settings: CareSettings) -> None:
    """Care for the cluster whose API it is, whenever this replica has the lease."""
    while True:
        lease = Lease(api, settings.lease, settings.holder)
        await lease.acquire()
        try:
            async with anyio.create_task_group() as group:
                _begin(group, api, lease, settings)
                await lease.keep()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await lease.release()


def _begin(group: anyio.abc.TaskGroup, api: ClusterApi, lease: Lease, settings: CareSettings) -> None:
    nodes, csi_nodes = Watched(api, Node), Watched(api, CsiNode)
    start_up = StartUp(api, lease, settings.driver, nodes, csi_nodes)
    for doing, run in (
        ("watch the cluster's nodes", nodes.keep),
        ("watch the drivers of its nodes", csi_nodes.keep),
        ("let pods onto nodes", start_up.tend),
    ):
        group.start_soon(partial(supervise, doing, run), name=doing)
