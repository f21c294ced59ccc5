"""Runs the care for a cluster: one replica at a time, and all of it ends with the lease.

What is only looked at, each replica looks at: which nodes there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from agent.base.error_barrier import supervise
from agent.cloud.aws.call import Make
from agent.controller.care.claim_events import ClaimEvents
from agent.controller.care.dead_nodes import DeadNodes
from agent.controller.care.follow_nodes import NoteNodes, follow_nodes
from agent.controller.care.orphans import NoteOrphans, Orphans
from agent.controller.care.proofs import Proofs
from agent.controller.care.settings import CareSettings
from agent.controller.care.start_up import StartUp
from agent.controller.care.tell_events import Teller
from agent.controller.cluster.api import ClusterApi, connect
from agent.controller.cluster.lease import Lease
from agent.controller.cluster.objects import CsiNode, Node, VolumeAttachment
from agent.controller.cluster.watched import Watched


async def run_care(
    settings: CareSettings, make: Make, note_nodes: NoteNodes, note_orphans: NoteOrphans
) -> None:
    """Care for the cluster until cancelled; InvalidValueError where it cannot be found."""
    async with connect(settings.kubeconfig) as api, anyio.create_task_group() as group:
        follow = partial(follow_nodes, api, settings.driver, note_nodes)
        group.start_soon(supervise, "follow which nodes there are", follow)
        await run_care_by(api, settings, make, note_orphans)


async def run_care_by(
    api: ClusterApi, settings: CareSettings, make: Make, note_orphans: NoteOrphans = lambda _: None
) -> None:
    """Care for the cluster whose API it is, whenever this replica has the lease."""
    while True:
        lease = Lease(api, settings.lease, settings.holder)
        await lease.acquire()
        try:
            async with anyio.create_task_group() as group:
                for doing, run in _list_tasks(api, lease, settings, make, note_orphans):
                    group.start_soon(partial(supervise, doing, run), name=doing)
                await lease.keep()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await lease.release()


def _list_tasks(
    api: ClusterApi, lease: Lease, settings: CareSettings, make: Make, note_orphans: NoteOrphans
) -> tuple[tuple[str, Callable[[], Awaitable[None]]], ...]:
    """Return what is done under the lease; each completes "the attempt to …"."""
    nodes, csi_nodes, attachments = Watched(api, Node), Watched(api, CsiNode), Watched(api, VolumeAttachment)
    start_up = StartUp(api, lease, settings.driver, nodes, csi_nodes)
    proofs = Proofs(make, settings.region) if settings.releases_dead_nodes else None
    teller = Teller(api, lease)
    claim_events = ClaimEvents(api, teller, settings.driver, attachments)
    orphans = Orphans(api, make, teller, settings, nodes, attachments, note_orphans)
    dead_nodes = DeadNodes(api, lease, settings.driver, nodes, attachments, proofs)
    return (
        ("watch the cluster's nodes", nodes.keep),
        ("watch the drivers of its nodes", csi_nodes.keep),
        ("watch its attachments", attachments.keep),
        ("let pods onto nodes", start_up.tend),
        ("release volumes of nodes that are gone", dead_nodes.tend),
        ("tell claims why their volumes are not attached", claim_events.tend),
        ("list what is left of volumes", orphans.tend),
    )
