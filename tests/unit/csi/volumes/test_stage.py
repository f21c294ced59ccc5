"""Staging by the engine: what kubelet wants comes about, or it is told why not."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from agent.core.errors import AgentError, OvertakenError, RefusedError
from agent.core.model import (
    Condition,
    Foreign,
    FsType,
    Reason,
    VolumeId,
    Wanted,
    WantedFilesystem,
    WantedMount,
)
from agent.core.replace import replace
from agent.core.steps import Format, MountFilesystem
from agent.csi.calls import AccessMode, Capability, StageCall
from agent.csi.volumes import stage as stage_module
from tests.fakes.world import EXT4, AgentDiedError, FakeNode, FakeVolume, failing, is_death
from tests.unit.csi.volumes.kubelet_scene import (
    REAL_STAGING,
    STAGE,
    STAGING,
    VOLUME,
    open_scene,
    publish_call,
)

pytestmark = pytest.mark.anyio

OTHER = VolumeId("vol-0fedcba9876543210")
BY_POLICY = Wanted(
    VOLUME, "cache", filesystem=WantedFilesystem(FsType.EXT4), mount=WantedMount("/data/cache")
)


async def test_blank_volume_is_formatted_and_mounted_where_kubelets_path_leads(tmp_path: Path) -> None:
    """The call returns once it is mounted at the real path, formatted once."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.volumes.stage(STAGE)
        assert volume.mount is not None
        assert volume.mount.path == REAL_STAGING
        assert volume.formats == 1
        await scene.volumes.stage(STAGE)
        assert volume.formats == 1


async def test_call_waits_until_every_device_was_asked(tmp_path: Path) -> None:
    """A volume whose device was not met yet is not absent: nothing is done, or said, about it before."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path, are_devices_known=False) as scene:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.volumes.stage, STAGE)
            tasks.start_soon(scene.volumes.publish, publish_call())
            tasks.start_soon(scene.volumes.unstage, OTHER, STAGING)
            await anyio.wait_all_tasks_blocked()
            assert scene.records.all == {}
            assert volume.mount is None
            tasks.cancel_scope.cancel()
        scene.are_devices_known.set()
        await scene.volumes.stage(STAGE)
        assert volume.mount is not None


async def test_two_calls_at_once_are_one(tmp_path: Path) -> None:
    """Kubelet asks again while the first call is under way: both are answered by one format."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene, anyio.create_task_group() as tasks:
        tasks.start_soon(scene.volumes.stage, STAGE)
        tasks.start_soon(scene.volumes.stage, STAGE)
    assert volume.formats == 1


@pytest.mark.parametrize(
    ("call", "content", "reason"),
    [
        (STAGE, Foreign("an LVM member"), Reason.NOT_BLANK),
        (replace(STAGE, is_copy=True), None, Reason.FORMAT_NOT_ALLOWED),
        (replace(STAGE, is_format_allowed=False), None, Reason.FORMAT_NOT_ALLOWED),
        (
            replace(STAGE, capability=Capability(AccessMode.SINGLE_NODE_READER_ONLY)),
            None,
            Reason.FORMAT_NOT_ALLOWED,
        ),
    ],
)
async def test_refused_volume_is_untouched_and_says_so(
    tmp_path: Path, call: StageCall, content: Foreign | None, reason: Reason
) -> None:
    """The answer names the reason, the board goes on to show it, and no note keeps the volume wanted."""
    volume = FakeVolume(VOLUME)
    if content is not None:
        volume.content = content
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        with pytest.raises(RefusedError) as caught:
            await scene.volumes.stage(call)
        assert caught.value.reason is reason
        assert scene.records.find(VOLUME) is None
        await scene.reconciler.wait_settled([VOLUME], 10)
        status = scene.board.get(VOLUME)
        assert status is not None
        assert (status.condition, status.reason) == (Condition.REFUSED, reason)
    assert not [step for step in volume.executed if isinstance(step, (Format, MountFilesystem))]


async def test_failing_step_is_told_and_tried_again_by_the_next_call(tmp_path: Path) -> None:
    """A failure is answered at once; the call after it succeeds."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    node.refuse_step = lambda step: failing() if isinstance(step, Format) else None
    async with open_scene(node, tmp_path) as scene:
        with pytest.raises(AgentError, match=r"mkfs\.ext4"):
            await scene.volumes.stage(STAGE)
        node.refuse_step = lambda _: None
        await scene.volumes.stage(STAGE)
    assert volume.mount is not None


async def test_volume_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    """EC2 says that it is attached before the kernel has it."""
    volume = FakeVolume(VOLUME, is_attached=False)
    async with open_scene(FakeNode(volume), tmp_path) as scene, anyio.create_task_group() as tasks:
        tasks.start_soon(scene.volumes.stage, STAGE)
        await anyio.wait_all_tasks_blocked()
        assert volume.mount is None
        volume.is_attached = True
        scene.reconciler.announce(VOLUME)
        scene.refresh()
    assert volume.mount is not None


async def test_volume_that_does_not_come_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is to be asked again: the answer names no fault of the volume's."""
    monkeypatch.setattr(stage_module, "ATTACH_PATIENCE_S", 0.0)
    async with open_scene(FakeNode(), tmp_path) as scene:
        with pytest.raises(AgentError, match="is not attached") as caught:
            await scene.volumes.stage(STAGE)
        assert caught.value.reason is Reason.NOT_ATTACHED
        assert not isinstance(caught.value, RefusedError)


async def test_volume_of_the_policys_is_nobodys_else(tmp_path: Path) -> None:
    """Where the policy names it too, both are refused by name, and what is mounted stays."""
    volume = FakeVolume(VOLUME, content=EXT4)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        scene.policy[VOLUME] = BY_POLICY
        scene.refresh()
        await scene.reconciler.wait_settled([VOLUME], 10)
        with pytest.raises(RefusedError, match="'cache'") as caught:
            await scene.volumes.stage(STAGE)
        assert caught.value.reason is Reason.SEVERAL_ENTRIES
        assert volume.mount is not None
        assert volume.mount.path == "/data/cache"
        await scene.reconciler.wait_settled([VOLUME], 10)
        status = scene.board.get(VOLUME)
        assert status is not None
        assert status.condition is Condition.READY


async def test_staged_elsewhere_is_refused(tmp_path: Path) -> None:
    """One volume has one staging path, and is a device or a filesystem."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.volumes.stage(STAGE)
        with pytest.raises(RefusedError, match=STAGING) as caught:
            await scene.volumes.stage(replace(STAGE, staging_path="/var/lib/kubelet/other"))
        assert caught.value.reason is Reason.PATH_IN_USE
        with pytest.raises(RefusedError, match="with a filesystem"):
            await scene.volumes.stage(
                replace(STAGE, capability=Capability(AccessMode.SINGLE_NODE_WRITER, is_block=True))
            )


async def test_restart_keeps_what_was_staged_in_use(tmp_path: Path) -> None:
    """The next agent goes on with it before kubelet says anything."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.volumes.stage(STAGE)
    volume = replace(volume, mount=None)  # took the mount away meanwhile
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.reconciler.wait_settled([VOLUME], 10)
        assert volume.mount is not None
        assert volume.mount.path == REAL_STAGING
    assert volume.formats == 1


async def test_killed_at_any_instant_it_converges(tmp_path: Path) -> None:
    """Wherever the agent dies while a volume is staged, the next one ends what was begun, formatting once."""
    instants = 0
    while True:
        volume, state = FakeVolume(VOLUME), tmp_path / str(instants)
        left = [instants]

        def interrupt(_: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise AgentDiedError
            left[0] -= 1

        node = FakeNode(volume, interrupt=interrupt)
        try:
            async with open_scene(node, state) as scene:
                await scene.volumes.stage(STAGE)
        except BaseException as error:
            if not is_death(error):
                raise
        else:
            break
        node = FakeNode(volume)
        async with open_scene(node, state) as scene:
            await scene.volumes.stage(STAGE)
        assert volume.mount is not None
        assert volume.mount.path == REAL_STAGING
        instants += 1
    assert instants > 10


async def test_taken_back_while_it_is_waited_for(tmp_path: Path) -> None:
    """The call that waits ends when kubelet wants the volume no more, to be asked again if it ever does."""
    volume = FakeVolume(VOLUME, is_attached=False)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        ended = anyio.Event()

        async def stage() -> None:
            with pytest.raises(OvertakenError):
                await scene.volumes.stage(STAGE)
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage)
            await anyio.wait_all_tasks_blocked()
            await scene.volumes.unstage(VOLUME, STAGING)
            with anyio.fail_after(30):
                await ended.wait()
        assert scene.records.find(VOLUME) is None
