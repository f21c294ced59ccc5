"""A node in memory with a running engine, and what kubelet may ask of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from agent.core.model import VolumeId
from agent.csi.calls import AccessMode, Capability, NodeInfo, PublishCall, StageCall
from agent.csi.volumes.engine import Engine
from agent.csi.volumes.kubelet_volumes import KubeletVolumes
from agent.csi.volumes.kubelet_wants import KubeletWants
from agent.csi.volumes.staged_records import StagedRecords
from agent.loop.goals import Want
from agent.loop.reconcile import Reconciler
from agent.node.sampling.values import Sample, SampleRequest
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from tests.fakes.world import FakeNode
from tests.unit.csi.volumes.test_staged_records import Notes

VOLUME = VolumeId("vol-0123456789abcdef0")
STAGING = "/var/lib/kubelet/plugins/kubernetes.io/csi/d/hash/globalmount"
REAL_STAGING = STAGING.replace("/var/lib", "/opt/sagemaker")
WRITER = Capability(AccessMode.SINGLE_NODE_WRITER)
STAGE = StageCall(VOLUME, STAGING, WRITER)


def resolve(path: str) -> str:
    """Return where a path of kubelet's leads: its root is a link."""
    return path.replace("/var/lib/kubelet", "/opt/sagemaker/kubelet", 1)


def publish_call(
    pod: str = "a", access: AccessMode = WRITER.access, *, is_read_only: bool = False
) -> PublishCall:
    """Return a call to publish the volume to a pod."""
    target = f"/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/pv/mount"
    return PublishCall(VOLUME, STAGING, target, Capability(access), is_read_only)


@dataclass
class Scene:
    """The node half in memory, with kubelet's calls at the side of a policy."""

    node: FakeNode
    board: Board
    reconciler: Reconciler
    records: StagedRecords
    wants: KubeletWants
    policy: dict[VolumeId, Want] = field(default_factory=dict)
    volumes: KubeletVolumes = field(init=False)
    are_devices_known: anyio.Event = field(default_factory=anyio.Event)

    def refresh(self) -> None:
        """Work out what is wanted, as the daemon's survey does."""
        present = [one.volume_id for one in self.node.volumes.values() if one.is_attached]
        wants: Mapping[VolumeId, Want] = {volume: self.policy.get(volume) for volume in present}
        self.reconciler.set_wants(self.wants.merge({**self.policy, **wants}, present))


async def describe_node() -> NodeInfo:
    """Say who the node is."""
    return NodeInfo("node")


async def never_sample(request: SampleRequest, timeout_s: float) -> Sample:
    """Fail: nothing is to be sampled."""
    raise AssertionError(f"{request.volume} was sampled within {timeout_s} s")


@asynccontextmanager
async def open_scene(node: FakeNode, state: Path, *, are_devices_known: bool = True) -> AsyncIterator[Scene]:
    """Run an engine over a node, with what is noted below ``state`` from before."""
    board = Board()
    reconciler = Reconciler(node, board, Counters())
    records = StagedRecords(state, Notes(), "boot", "machine")
    await records.load()
    wants = KubeletWants(records.all, resolve, records.faults)
    scene = Scene(node, board, reconciler, records, wants)
    engine = Engine(reconciler, board, scene.refresh)
    scene.volumes = KubeletVolumes(
        engine, records, wants, never_sample, describe_node, scene.are_devices_known
    )
    if are_devices_known:
        scene.are_devices_known.set()
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: reconciler.run(task_status=task_status))
        scene.refresh()
        yield scene
        tasks.cancel_scope.cancel()
