"""A node in memory with a policy and a running engine, and what kubelet may ask of the policy's volumes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio

from agent.core.model import (
    Expected,
    FormatRule,
    FsType,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
)
from agent.csi.calls import AccessMode
from agent.csi.policy_volumes.calls import EntryName, PublishEntryCall
from agent.csi.policy_volumes.entries import Entries
from agent.csi.policy_volumes.entry_volumes import Kubelet, PolicyVolumes
from agent.csi.policy_volumes.records import PublishedRecords
from agent.csi.volumes.engine import Engine
from agent.loop.goals import Want
from agent.loop.reconcile import Reconciler
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from tests.fakes.world import FakeNode
from tests.unit.csi.volumes.kubelet_scene import describe_node, never_sample, resolve
from tests.unit.csi.volumes.test_staged_records import Notes

VOLUME = VolumeId("vol-0123456789abcdef0")
OTHER = VolumeId("vol-0123456789abcdef1")
CACHE = EntryName("cache")


def want(volume: VolumeId = VOLUME, name: str = CACHE) -> Wanted:
    """Return what an entry with a filesystem wants of a volume."""
    filesystem = WantedFilesystem(FsType.EXT4, FormatRule.IF_BLANK)
    return Wanted(volume, name, filesystem=filesystem, mount=WantedMount(f"/data/{name}"))


RAW = Wanted(VOLUME, CACHE, block=WantedBlock())


def call(
    pod: str = "a",
    entry: EntryName = CACHE,
    access: AccessMode = AccessMode.MULTI_NODE_MULTI_WRITER,
    *,
    is_read_only: bool = False,
    is_block: bool = False,
    fs_type: FsType | None = None,
) -> PublishEntryCall:
    """Return a call to publish an entry's volume to a pod."""
    target = f"/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/pv/mount"
    return PublishEntryCall(entry, target, access, is_block, is_read_only, fs_type)


@dataclass
class Scene:
    """The node half in memory, with kubelet's calls about the volumes of a policy."""

    node: FakeNode
    board: Board
    reconciler: Reconciler
    records: PublishedRecords
    entries: Entries
    policy: dict[VolumeId, Want] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    """Targets at which no volume is known to be."""
    volumes: PolicyVolumes = field(init=False)

    def refresh(self) -> None:
        """Work out what is wanted, as the daemon's survey does."""
        present = [one.volume_id for one in self.node.volumes.values() if one.is_attached]
        wants: dict[VolumeId, Want] = {volume: self.policy.get(volume) for volume in present}
        self.reconciler.set_wants(self.entries.see({**wants, **self.policy}, self.records.all))

    def put_policy(self, *wants: Wanted) -> None:
        """Have another policy in force."""
        self.policy = {want.volume_id: want for want in wants}
        self.board.expect(Expected(want.name, want.volume_id, is_required=False) for want in wants)
        self.refresh()

    async def remove_target(self, path: str) -> None:
        self.removed.append(path)


@asynccontextmanager
async def open_scene(
    node: FakeNode, state: Path, *wants: Wanted, limit_s: float = 60.0
) -> AsyncIterator[Scene]:
    """Run an engine over a node with a policy, and what is noted below ``state`` from before.

    ``limit_s``: how long a volume is waited for.
    """
    board = Board()
    reconciler = Reconciler(node, board, Counters())
    records = PublishedRecords(state, Notes(), "boot", "machine")
    await records.load()
    node.find_shown = partial(records.find_shown, resolve=resolve)
    scene = Scene(node, board, reconciler, records, Entries(board))
    known = anyio.Event()
    known.set()
    kubelet = Kubelet(resolve, scene.remove_target, never_sample, describe_node, known)
    engine = Engine(reconciler, board, scene.refresh)
    scene.volumes = PolicyVolumes(engine, scene.entries, records, kubelet, limit_s)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: reconciler.run(task_status=task_status))
        scene.put_policy(*(wants or (want(),)))
        yield scene
        tasks.cancel_scope.cancel()
