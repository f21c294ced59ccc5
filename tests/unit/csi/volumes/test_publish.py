"""Publishing and taking back by the engine: pods see what is staged, and kubelet is told why they do not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest

from agent.core.errors import AgentError, RefusedError
from agent.core.model import Reason
from agent.core.replace import replace
from agent.core.steps import Format, Publish, Relinquish
from agent.csi.calls import AccessMode
from tests.fakes.world import AgentDiedError, FakeNode, FakeVolume, is_death
from tests.unit.csi.volumes.kubelet_scene import STAGE, STAGING, VOLUME, open_scene, publish_call, resolve

pytestmark = pytest.mark.anyio

ALONE = AccessMode.SINGLE_NODE_SINGLE_WRITER


async def test_pod_sees_a_volume_and_leaves_it(tmp_path: Path) -> None:
    """Staged, published, and all of it taken back: nothing is mounted, nothing noted, the device flushed."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        call = publish_call()
        await scene.volumes.stage(STAGE)
        await scene.volumes.publish(call)
        assert [view.path for view in volume.views] == [resolve(call.target_path)]
        with pytest.raises(RefusedError, match="still published"):
            await scene.volumes.unstage(VOLUME, STAGING)
        assert scene.records.all[VOLUME].published
        assert not scene.records.all[VOLUME].is_leaving
        await scene.volumes.unpublish(VOLUME, call.target_path)
        await scene.volumes.unstage(VOLUME, STAGING)
        assert (volume.mount, volume.views) == (None, ())
        assert isinstance(volume.executed[-1], Relinquish)
        assert scene.records.all == {}
        await scene.reconciler.wait_settled([VOLUME], 10)
    assert volume.mount is None


async def test_fifty_pods_at_once(tmp_path: Path) -> None:
    """Each sees it, once, though each is asked for twice; all leave at once, too."""
    volume = FakeVolume(VOLUME)
    calls = [publish_call(str(pod)) for pod in range(50)]
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.volumes.stage(STAGE)
        async with anyio.create_task_group() as tasks:
            for call in (*calls, *calls):
                tasks.start_soon(scene.volumes.publish, call)
        assert sorted(view.path for view in volume.views) == sorted(resolve(c.target_path) for c in calls)
        assert len(scene.records.all[VOLUME].published) == len(calls)
        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(scene.volumes.unpublish, VOLUME, call.target_path)
        assert volume.views == ()
        assert scene.records.all[VOLUME].published == ()


async def test_nothing_is_published_that_is_not_staged(tmp_path: Path) -> None:
    """Neither where nothing is staged, nor at another path, nor as a device."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        call = publish_call()
        for wrong in (
            call,
            replace(call, staging_path="/var/lib/kubelet/else"),
            replace(call, capability=replace(call.capability, is_block=True)),
        ):
            with pytest.raises(RefusedError) as caught:
                await scene.volumes.publish(wrong)
            assert caught.value.reason is Reason.NOT_STAGED
            await scene.volumes.stage(STAGE) if scene.records.find(VOLUME) is None else None
        assert scene.records.all[VOLUME].published == ()


@pytest.mark.parametrize(("first", "second"), [(ALONE, ALONE), (AccessMode.SINGLE_NODE_WRITER, ALONE)])
async def test_volume_for_one_pod_has_no_second(
    tmp_path: Path, first: AccessMode, second: AccessMode
) -> None:
    """The same pod may be asked for again, and another once the first is gone."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        await scene.volumes.stage(STAGE)
        one, other = publish_call("a", first), publish_call("b", second)
        await scene.volumes.publish(one)
        await scene.volumes.publish(one)
        with pytest.raises(RefusedError, match="one pod at a time"):
            await scene.volumes.publish(other)
        await scene.volumes.unpublish(VOLUME, one.target_path)
        await scene.volumes.publish(other)


async def test_published_otherwise_is_refused_and_noted_as_it_was(tmp_path: Path) -> None:
    """Asked for read-only where it is writable, the pod keeps what it has."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.volumes.stage(STAGE)
        await scene.volumes.publish(publish_call())
        with pytest.raises(RefusedError) as caught:
            await scene.volumes.publish(publish_call(is_read_only=True))
        assert caught.value.reason is Reason.PATH_IN_USE
        (noted,) = scene.records.all[VOLUME].published
        assert not noted.is_read_only
        assert len(volume.views) == 1


async def test_unstage_while_it_is_formatted_waits_and_leaves_nothing(tmp_path: Path) -> None:
    """The format that is under way ends, and is not followed by a mount; the call then ends."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    reached, go_on = anyio.Event(), anyio.Event()

    async def reach(instant: str) -> None:
        if instant == "before format":
            reached.set()
            await go_on.wait()

    node.reach = reach
    async with open_scene(node, tmp_path) as scene, anyio.create_task_group() as tasks:

        async def stage() -> None:
            with pytest.raises(AgentError):
                await scene.volumes.stage(STAGE)

        tasks.start_soon(stage)
        await reached.wait()
        tasks.start_soon(partial(scene.volumes.unstage, VOLUME, STAGING))
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert volume.mount is None
    assert len([step for step in volume.executed if isinstance(step, Format)]) <= 1


@pytest.mark.parametrize("doing", ["publish", "unpublish", "unstage"])
async def test_killed_at_any_instant_the_same_call_ends_it(tmp_path: Path, doing: str) -> None:
    """Wherever the agent dies, kubelet's next call of the same kind brings about what it asked for."""
    call = publish_call()
    instant, volume = 0, FakeVolume(VOLUME)
    for instant in range(200):
        volume, state = FakeVolume(VOLUME), tmp_path / str(instant)
        left: list[int | None] = [None]

        def interrupt(_: str, left: list[int | None] = left) -> None:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    left[0] = None
                    raise AgentDiedError

        try:
            async with open_scene(FakeNode(volume, interrupt=interrupt), state) as scene:
                await scene.volumes.stage(STAGE)
                if doing == "unpublish":
                    await scene.volumes.publish(call)
                left[0] = instant
                await getattr(scene.volumes, doing)(*_arguments(doing))
        except BaseException as error:
            if not is_death(error):
                raise
        else:
            break
        async with open_scene(FakeNode(volume), state) as scene:
            await getattr(scene.volumes, doing)(*_arguments(doing))
        assert bool(volume.views) == (doing == "publish")
        assert (volume.mount is None) == (doing == "unstage")
        assert (scene.records.find(VOLUME) is None) == (doing == "unstage")
    assert instant > 2
    assert len([step for step in volume.executed if isinstance(step, Publish)]) == (doing != "unstage")


def _arguments(doing: str) -> tuple[object, ...]:
    call = publish_call()
    return {"publish": (call,), "unpublish": (VOLUME, call.target_path), "unstage": (VOLUME, STAGING)}[doing]
