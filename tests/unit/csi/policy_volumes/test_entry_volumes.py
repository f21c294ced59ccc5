"""Volumes of the policy in pods, by the engine: each pod sees its node's, or is told why not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from agent.core.errors import AgentError, OvertakenError, RefusedError
from agent.core.model import Condition, Expected, FsType, Mount, Reason, Released, VolumeId
from agent.core.replace import replace
from agent.core.steps import Format, Publish
from agent.csi.calls import AccessMode
from agent.csi.policy_volumes.calls import EntryName, PublishEntryCall
from agent.loop.wake_causes import Cause
from tests.fakes.world import AgentDiedError, FakeNode, FakeVolume, is_death
from tests.unit.csi.policy_volumes.policy_scene import (
    CACHE,
    OTHER,
    RAW,
    VOLUME,
    Scene,
    call,
    open_scene,
    want,
)
from tests.unit.csi.volumes.kubelet_scene import resolve

pytestmark = pytest.mark.anyio

ALONE = AccessMode.SINGLE_NODE_SINGLE_WRITER
TARGET = call().target_path


def list_views(volume: FakeVolume) -> list[str]:
    return [view.path for view in volume.views]


async def settle(scene: Scene, volume: VolumeId = VOLUME) -> None:
    scene.reconciler.wake(volume, Cause.ORDER)
    assert await scene.reconciler.wait_settled([volume], 10)


async def test_pods_see_the_volume_and_leave_it(tmp_path: Path) -> None:
    """Fifty at once, each twice; the volume is ready all the while, and mounted when all have gone."""
    volume = FakeVolume(VOLUME)
    calls = [call(str(pod)) for pod in range(50)]
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        async with anyio.create_task_group() as tasks:
            for one in (*calls, *calls):
                tasks.start_soon(publish_or_be_overtaken, scene, one)
        assert sorted(list_views(volume)) == sorted(resolve(one.target_path) for one in calls)
        await settle(scene)
        status = scene.board.get(VOLUME)
        assert status is not None
        assert status.condition is Condition.READY
        async with anyio.create_task_group() as tasks:
            for one in calls:
                tasks.start_soon(scene.volumes.unpublish, CACHE, one.target_path)
        assert volume.views == ()
        assert scene.records.all == {}
        assert volume.mount is not None
    assert len([step for step in volume.executed if isinstance(step, Format)]) == 1


async def publish_or_be_overtaken(scene: Scene, one: PublishEntryCall) -> None:
    """The layer above makes identical calls one; here the later one takes the place of the earlier."""
    with suppress(OvertakenError):
        await scene.volumes.publish(one)


async def test_volume_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    """And a filesystem as a directory: what the PersistentVolume says else is refused with the way out."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path, RAW) as scene:
        with pytest.raises(RefusedError, match="volumeMode: Block"):
            await scene.volumes.publish(call())
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        for wrong, way_out in (
            (call(is_block=True), "volumeMode: Filesystem"),
            (call(fs_type=FsType.XFS), "fsType"),
        ):
            with pytest.raises(RefusedError, match=way_out) as caught:
                await scene.volumes.publish(wrong)
            assert caught.value.reason is Reason.FILESYSTEM_MISMATCH
        assert scene.records.all == {}


async def test_entry_that_is_not_this_nodes_is_refused_by_those_that_are(tmp_path: Path) -> None:
    """At once, and so that a person sees the mistake."""
    wants = (want(), want(OTHER, "datasets"))
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path, *wants) as scene:
        with pytest.raises(RefusedError, match=r"cache, datasets") as caught:
            await scene.volumes.publish(call(entry=EntryName("dataset")))
        assert caught.value.reason is Reason.NOT_IN_POLICY


async def test_volume_that_does_not_come_is_waited_for_and_then_told(tmp_path: Path) -> None:
    """Up to the limit; the answer says what is missing, and is none that kubelet takes for the last word."""
    volume = FakeVolume(VOLUME, is_attached=False)
    async with open_scene(FakeNode(volume), tmp_path, limit_s=0.1) as scene:
        with pytest.raises(AgentError, match=r"not attached|waits for") as caught:
            await scene.volumes.publish(call())
        assert not isinstance(caught.value, RefusedError)
        assert scene.records.all == {}


async def test_volume_that_comes_is_waited_for(tmp_path: Path) -> None:
    """Attached, formatted and mounted first."""
    volume = FakeVolume(VOLUME, is_attached=False)
    async with open_scene(FakeNode(volume), tmp_path) as scene, anyio.create_task_group() as tasks:
        tasks.start_soon(scene.volumes.publish, call())
        await anyio.wait_all_tasks_blocked()
        assert volume.views == ()
        volume.is_attached = True
        scene.refresh()
        scene.reconciler.wake(VOLUME, Cause.HINT)
    assert list_views(volume) == [resolve(TARGET)]


async def test_pod_that_has_gone_is_shown_nothing(tmp_path: Path) -> None:
    """What was waited for when kubelet took it back is not shown once the volume comes."""
    volume = FakeVolume(VOLUME, is_attached=False)
    async with open_scene(FakeNode(volume), tmp_path) as scene, anyio.create_task_group() as tasks:

        async def publish() -> None:
            with pytest.raises(OvertakenError):
                await scene.volumes.publish(call())

        tasks.start_soon(publish)
        await anyio.wait_all_tasks_blocked()
        await scene.volumes.unpublish(CACHE, TARGET)
        volume.is_attached = True
        scene.refresh()
        scene.reconciler.wake(VOLUME, Cause.HINT)
    assert volume.views == ()
    assert scene.records.all == {}


def make_read_only(mount: Mount) -> Mount:
    return replace(mount, super_options=frozenset({"ro"}))


async def test_what_the_board_says_is_the_answer(tmp_path: Path) -> None:
    """A filesystem that an error made read-only is for readers, and who would write is told why not."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await settle(scene)
        assert volume.mount is not None
        volume.mount = make_read_only(volume.mount)
        await settle(scene)
        status = scene.board.get(VOLUME)
        assert status is not None
        assert status.reason is Reason.READ_ONLY
        with pytest.raises(AgentError, match=status.message) as caught:
            await scene.volumes.publish(call())
        assert caught.value.reason is Reason.READ_ONLY
        await scene.volumes.publish(call(is_read_only=True))
        assert list_views(volume) == [resolve(TARGET)]


async def test_volume_that_was_taken_away_by_hand_is_not_waited_for(tmp_path: Path) -> None:
    """It does not come back by itself."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        scene.policy[VOLUME] = Released(want())
        scene.refresh()
        await settle(scene)
        with pytest.raises(RefusedError) as caught:
            await scene.volumes.publish(call())
        assert caught.value.reason is Reason.RELEASED


async def test_volume_that_its_entry_does_not_get_is_not_waited_for(tmp_path: Path) -> None:
    """An entry that asks more of the volume it names than is so gets it once somebody has changed that."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        scene.policy = {}
        scene.refresh()
        await settle(scene)
        scene.board.expect([Expected(want().name, VOLUME, is_required=False)])
        with anyio.fail_after(30), pytest.raises(AgentError, match="asks more") as caught:
            await scene.volumes.publish(call())
        assert caught.value.reason is Reason.NOT_IN_POLICY


async def test_entry_that_goes_is_told_and_left_until_the_last_pod_has_gone(tmp_path: Path) -> None:
    """Nothing of the volume changes; it is nobody's from then on."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.volumes.publish(call())
        scene.put_policy(want(OTHER, "datasets"))
        await settle(scene)
        status = scene.board.get(VOLUME)
        assert status is not None
        assert (status.condition, status.reason) == (Condition.REFUSED, Reason.NOT_IN_POLICY)
        assert TARGET in status.message
        assert list_views(volume) == [resolve(TARGET)]
        await scene.volumes.unpublish(CACHE, TARGET)
        await settle(scene)
        status = scene.board.get(VOLUME)
        assert status is not None
        assert status.condition is Condition.UNMANAGED
        assert volume.mount is not None


async def test_entry_that_means_another_volume_by_now_leaves_the_first_to_who_has_it(tmp_path: Path) -> None:
    """A pod has one volume as long as it lives; one that begins gets what the entry means then."""
    first, second = FakeVolume(VOLUME), FakeVolume(OTHER)
    async with open_scene(FakeNode(first, second), tmp_path) as scene:
        await scene.volumes.publish(call("old"))
        scene.put_policy(want(OTHER))
        await scene.volumes.publish(call("old"))
        await scene.volumes.publish(call("new"))
        assert list_views(first) == [resolve(call("old").target_path)]
        assert list_views(second) == [resolve(call("new").target_path)]
        await scene.volumes.unpublish(CACHE, call("old").target_path)
        assert first.views == ()


async def test_pod_that_lost_its_volume_is_not_given_another_one(tmp_path: Path) -> None:
    """Where the view that was noted is gone, the entry's volume by now is not put into its place."""
    first, second = FakeVolume(VOLUME), FakeVolume(OTHER)
    async with open_scene(FakeNode(first, second), tmp_path) as scene:
        await scene.volumes.publish(call())
        scene.put_policy(want(OTHER))
        first.views = ()
        with pytest.raises(RefusedError, match=VOLUME) as caught:
            await scene.volumes.publish(call())
        assert caught.value.reason is Reason.PATH_IN_USE
        assert second.views == ()


async def test_pod_that_runs_is_published_again_whatever_the_policy_says(tmp_path: Path) -> None:
    """As kubelet asks when it was restarted; asked for otherwise, or by a new pod, it is refused."""
    volume = FakeVolume(VOLUME)
    async with open_scene(FakeNode(volume), tmp_path) as scene:
        await scene.volumes.publish(call())
        scene.put_policy(want(OTHER, "datasets"))
        await settle(scene)
        before = len(volume.executed)
        await scene.volumes.publish(call())
        assert len(volume.executed) == before
        assert list_views(volume) == [resolve(TARGET)]
        for refused in (call(is_read_only=True), call("b")):
            with pytest.raises(RefusedError) as caught:
                await scene.volumes.publish(refused)
            assert caught.value.reason is Reason.NOT_IN_POLICY
        (noted,) = scene.records.all[VOLUME].published
        assert not noted.is_read_only


async def test_entry_that_changes_while_it_is_shown_shows_nothing_else(tmp_path: Path) -> None:
    """What was looked at is not what is meant by now: kubelet asks again."""
    first, second = FakeVolume(VOLUME), FakeVolume(OTHER)
    node = FakeNode(first, second)
    async with open_scene(node, tmp_path) as scene:
        await settle(scene)

        async def change(instant: str) -> None:
            if instant == "observe" and scene.records.all:
                scene.put_policy(want(OTHER))

        node.reach = change
        with pytest.raises(OvertakenError):
            await scene.volumes.publish(call())
        assert first.views == ()
        assert second.views == ()


async def test_volume_for_one_pod_has_no_second(tmp_path: Path) -> None:
    """ReadWriteOncePod holds on each node."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        await scene.volumes.publish(call("a", access=ALONE))
        await scene.volumes.publish(call("a", access=ALONE))
        for access in (ALONE, AccessMode.MULTI_NODE_MULTI_WRITER):
            with pytest.raises(RefusedError, match="one pod at a time"):
                await scene.volumes.publish(call("b", access=access))
        await scene.volumes.unpublish(CACHE, call("a").target_path)
        await scene.volumes.publish(call("b", access=ALONE))


async def test_published_otherwise_is_refused_and_noted_as_it_was(tmp_path: Path) -> None:
    """Asked for read-only where it is writable, the pod keeps what it has."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        await scene.volumes.publish(call())
        with pytest.raises(RefusedError) as caught:
            await scene.volumes.publish(call(is_read_only=True))
        assert caught.value.reason is Reason.PATH_IN_USE
        (noted,) = scene.records.all[VOLUME].published
        assert not noted.is_read_only


async def test_target_without_volume_or_note_is_cleared(tmp_path: Path) -> None:
    """Kubelet asks until it is answered, whatever became of the entry; another's view stays."""
    async with open_scene(FakeNode(FakeVolume(VOLUME)), tmp_path) as scene:
        await scene.volumes.publish(call())
        with pytest.raises(RefusedError, match="cache"):
            await scene.volumes.unpublish(EntryName("datasets"), TARGET)
        await scene.volumes.unpublish(EntryName("datasets"), call("b").target_path)
        assert scene.removed == [resolve(call("b").target_path)]
        assert len(scene.records.all[VOLUME].published) == 1


@pytest.mark.parametrize("doing", ["publish", "unpublish"])
async def test_killed_at_any_instant_the_same_call_ends_it(tmp_path: Path, doing: str) -> None:
    """Wherever the agent dies, kubelet's next call of the same kind brings about what it asked for."""
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
                await settle(scene)
                if doing == "unpublish":
                    await scene.volumes.publish(call())
                left[0] = instant
                await ask(scene, doing)
        except BaseException as error:
            if not is_death(error):
                raise
        else:
            break
        async with open_scene(FakeNode(volume), state) as scene:
            await ask(scene, doing)
        assert bool(volume.views) == (doing == "publish")
        assert volume.mount is not None
        assert (scene.records.find(VOLUME) is None) == (doing == "unpublish")
    assert instant > 1
    assert len([step for step in volume.executed if isinstance(step, Publish)]) == 1


async def ask(scene: Scene, doing: str) -> None:
    if doing == "publish":
        await scene.volumes.publish(call())
    else:
        await scene.volumes.unpublish(CACHE, TARGET)
