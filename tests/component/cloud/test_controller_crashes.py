"""The controller dies around every change it makes to a volume, from its making to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest

from agent.controller.calls import GIB, AttachCall, CreateCall, ExpandCall, NodeId, SizeRange, SnapshotCall
from agent.controller.describing.describing import Describing
from agent.controller.patience import Patience
from agent.controller.snapshots.cluster_snapshots import ClusterSnapshots
from agent.controller.turns import Turns
from agent.controller.volumes.cluster_volumes import ClusterVolumes
from agent.core.errors import AgentError
from tests.aws.cloud import CLUSTER_ID, REGION, ZONE
from tests.aws.world import Crash, World, is_crash
from tests.component.cloud.test_snapshots import list_snapshots

T = TypeVar("T")

CALL = CreateCall("pvc-1", SizeRange(5 * GIB), requisite=((("topology.kubernetes.io/zone", ZONE),),))
CHANGES = (
    "CreateVolume",
    "AttachClusterNodeVolume",
    "ModifyVolume",
    "CreateSnapshot",
    "DetachClusterNodeVolume",
    "DeleteVolume",
    "DeleteSnapshot",
)
MOST_ATTEMPTS = 8
LAG_S = 4.0
"""What was done before a crash is not described when the next controller looks."""


@dataclass
class Replica:
    """One controller process, and all that it forgets when it dies."""

    volumes: ClusterVolumes
    snapshots: ClusterSnapshots


class Story:
    """What the sidecars ask of one claim, each again until it is done, of whichever controller there is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = NodeId(str(world.add_node(1).identity.instance_id), CLUSTER_ID)
        self.asking = world.add_node(99)
        self.replica = self.start()

    def start(self) -> Replica:
        async def sleep(pause_s: float) -> None:
            self.world.time_s += pause_s
            await asyncio.sleep(0)

        patience = Patience(lambda: self.world.time_s, sleep)
        make = self.asking.make
        describing, turns = Describing(make, window_s=0.001), Turns()
        return Replica(
            ClusterVolumes(make, describing, turns, REGION, "prod", patience=patience),
            ClusterSnapshots(make, describing, turns.take, "prod", patience),
        )

    async def ask(self, begin: Callable[[Replica], Awaitable[T]]) -> T:
        """Return what is answered at last; a controller that dies is followed by another at once."""
        for _ in range(MOST_ATTEMPTS):
            try:
                return await begin(self.replica)
            except AgentError:  # noqa: PERF203 -- it is asked again
                continue
            except BaseException as error:
                if not is_crash(error):
                    raise
                self.replica = self.start()
        raise AssertionError("it never became so")


@pytest.mark.parametrize("is_after", [False, True], ids=["before AWS hears of it", "after"])
@pytest.mark.parametrize("operation", CHANGES)
async def test_killed_between_any_two_changes_nothing_is_twice_or_left(
    world: World, operation: str, *, is_after: bool
) -> None:
    """Though the next controller does not see what the last one did."""
    world.cloud.pace.clock = lambda: world.time_s
    world.cloud.pace.lag_s = LAG_S
    world.cloud.pace.optimize_s = 60.0  # meanwhile AWS takes no second modification
    story = Story(world)
    crash = story.asking.crash = Crash(operation, 1, is_after=is_after)
    volume_id = (await story.ask(lambda one: one.volumes.create(CALL))).volume.volume_id
    assert list(world.cloud.volumes) == [volume_id]
    await story.ask(lambda one: one.volumes.attach(AttachCall(volume_id, story.node)))
    volume = world.cloud.volumes[volume_id]
    assert [(one.holder, one.state) for one in volume.emulated] == [(story.node.instance_id, "attached")]
    size = await story.ask(lambda one: one.volumes.expand(ExpandCall(volume_id, SizeRange(9 * GIB))))
    assert (size, len(volume.modifications)) == (9 * GIB, 1)
    taken = await story.ask(lambda one: one.snapshots.take(SnapshotCall("snap-1", volume_id)))
    assert list_snapshots(world) == [taken.snapshot_id]
    await story.ask(lambda one: one.volumes.detach(volume_id, story.node))
    assert not volume.emulated
    await story.ask(lambda one: one.volumes.delete(volume_id))
    await story.ask(lambda one: one.snapshots.delete(taken.snapshot_id))
    assert crash.has_happened
    assert not world.cloud.volumes
    assert not list_snapshots(world)
    assert len(world.cloud.made) == 1
