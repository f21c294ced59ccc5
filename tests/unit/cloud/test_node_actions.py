"""What the cloud half may have released, and what it does to a volume before AWS takes it away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.base.off_loop import do_here
from agent.base.paths import Paths
from agent.cloud.node_actions import RELEASED, NodeHands
from agent.cloud.state.released_volumes import EVERYTHING
from agent.core.errors import AgentError, CoveredError, ExitCode, OccupiedError, RefusedError
from agent.core.model import (
    Device,
    DeviceNumber,
    Exclusion,
    Identity,
    Mount,
    Observed,
    Reason,
    Released,
    Seen,
    VolumeId,
    Wanted,
    WantedMount,
)
from agent.core.replace import replace
from agent.core.steps import Action, Relinquish, Unmount
from agent.loop.wake_causes import Cause
from agent.node.isolate.workers import Workers
from agent.node.machine import Machine
from agent.node.standins.source import LoopbackSource
from tests.waiting import until

pytestmark = pytest.mark.anyio

VOLUME = VolumeId("vol-0123456789abcdef0")
NUMBER = DeviceNumber(259, 1)
IDENTITY = Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0")
DATA = Mount(50, 20, NUMBER, "/", "/data", frozenset({"rw"}), "ext4", "/dev/nvme1n1", frozenset({"rw"}))
INNER = replace(DATA, mount_id=51, path="/data/inner")
USED = Observed(VOLUME, Device("/dev/nvme1n1", NUMBER, IDENTITY, 1 << 30), mounts=(DATA, INNER))


class OneVolume:
    """One volume's passes: what is observed, what was done, and which step fails."""

    def __init__(self, observed: Observed, failing: type[Any] | None = None) -> None:
        self.observed = observed
        self.failing = failing
        self.done: list[Action] = []
        self.raised: dict[type[Any], AgentError] = {}
        """What a step of this type raises."""
        self.woken = 0
        self.wanted: tuple[VolumeId, ...] = ()
        self.is_occupied = False
        """Something else is done with it, for longer than anybody is to wait."""

    def list_wanted(self) -> tuple[VolumeId, ...]:
        return self.wanted

    @asynccontextmanager
    async def hold(self, volume: VolumeId, patience_s: float | None) -> AsyncIterator[OneVolume]:
        assert volume == VOLUME
        assert patience_s is not None
        assert patience_s <= 30
        if self.is_occupied:
            raise OccupiedError("it is being checked")
        yield self

    def wake(self, volume: VolumeId, cause: Cause) -> None:
        assert (volume, cause) == (VOLUME, Cause.ORDER)
        self.woken += 1

    async def observe(self, wanted: object, *, for_show: bool = False) -> Observed:
        assert not for_show
        assert wanted is None
        return self.observed

    async def execute(self, action: Action, observed: Observed, confirm: object = None) -> None:
        del confirm
        assert observed.volume_id == VOLUME
        is_forced = isinstance(action, Relinquish) and action.is_forced
        if self.failing is type(action) and not is_forced:
            raise AgentError("somebody has it", reason=Reason.STEP_FAILED)
        if type(action) in self.raised:
            raise self.raised[type(action)]
        self.done.append(action)
        if isinstance(action, Unmount):
            left = tuple(mount for mount in self.observed.mounts if mount != action.mount)
            self.observed = replace(self.observed, mounts=left)


def hands_on(
    volume: OneVolume,
    directory: Path,
    present: Mapping[VolumeId, Seen] | None = None,
    wanted: tuple[VolumeId, ...] = (),
) -> NodeHands:
    workers = Workers()
    node = Machine(Paths(directory), LoopbackSource(directory, workers), workers)
    node.aside = do_here
    volume.wanted = wanted
    return NodeHands(node, volume, lambda: present or {}, dict, lambda: None)


async def test_release_unmounts_and_flushes(tmp_path: Path) -> None:
    """Inner mounts go first, the device is flushed last, and nothing is wanted of the volume from then on."""
    volume = OneVolume(USED)
    hands = hands_on(volume, tmp_path)
    await hands.release(VOLUME)
    assert volume.done == [Unmount(INNER), Unmount(DATA), Relinquish()]
    assert hands.released == {VOLUME}


async def test_volume_taken_away_by_hand_stays_away_over_restarts(tmp_path: Path) -> None:
    """What a person took away is on disk before it is let go, and the policy's again only when given back."""
    hands = hands_on(OneVolume(USED), tmp_path)
    await hands.note_by_hand(VOLUME)
    again = hands_on(OneVolume(USED), tmp_path)
    assert again.released == {VOLUME}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again.note_given_back)
        for give_back in (partial(again.keep, VOLUME), again.keep_all):
            await again.note_by_hand(VOLUME)
            give_back()
            await until(lambda: hands_on(OneVolume(USED), tmp_path).released == set() or None)
        tasks.cancel_scope.cancel()


async def test_what_the_policy_lets_go_is_asked_of_the_policy_again(tmp_path: Path) -> None:
    """A volume that was let go for the policy's sake is not noted: the next start decides anew."""
    await hands_on(OneVolume(USED), tmp_path).release(VOLUME)
    assert hands_on(OneVolume(USED), tmp_path).released == set()


@pytest.mark.parametrize("content", [b"", b"{", b"[7]", b'["vol-x"]', b"7", b"[" * 100_000])
async def test_note_that_makes_no_sense_releases_nothing(tmp_path: Path, content: bytes) -> None:
    """A broken note is told in the log, and the policy holds."""
    path = Paths(tmp_path).state / RELEASED
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert hands_on(OneVolume(USED), tmp_path).released == set()


@pytest.mark.parametrize("failing", [Unmount, Relinquish])
async def test_what_cannot_be_released_is_kept(tmp_path: Path, failing: type[Any]) -> None:
    """A volume somebody uses stays the policy's, and is looked at again."""
    volume = OneVolume(USED, failing)
    hands = hands_on(volume, tmp_path)
    with pytest.raises(AgentError, match="somebody has it"):
        await hands.release(VOLUME)
    assert not hands.released
    assert volume.woken == 1


@pytest.mark.parametrize("is_forced", [False, True])
async def test_volume_that_is_worked_on_is_neither_waited_for_nor_taken(
    tmp_path: Path, *, is_forced: bool
) -> None:
    """A check of hours has to end first, whoever asks: the volume stays the policy's, and why is said."""
    volume = OneVolume(USED)
    volume.is_occupied = True
    hands = hands_on(volume, tmp_path)
    with pytest.raises(OccupiedError, match="being checked") as raised:
        await hands.release(VOLUME, is_forced=is_forced)
    assert raised.value.retryable
    assert (volume.done, hands.released, volume.woken) == ([], set(), 1)


async def test_nothing_of_a_volume_that_is_worked_on_is_flushed_or_frozen(tmp_path: Path) -> None:
    """Neither passes for done: nothing is detached that was not flushed, and no snapshot taken in vain."""
    volume = OneVolume(USED)
    volume.is_occupied = True
    hands = hands_on(volume, tmp_path)
    with pytest.raises(OccupiedError):
        await hands.flush(VOLUME)
    with pytest.raises(OccupiedError):
        async with hands.freeze(VOLUME):
            pytest.fail("within a freeze")
    assert volume.done == []


@pytest.mark.parametrize("failing", [Unmount, Relinquish])
async def test_forced_release_flushes_under_its_users(tmp_path: Path, failing: type[Any]) -> None:
    """By force the volume is flushed as it is used, and stays released: nothing attaches it again."""
    volume = OneVolume(USED, failing)
    hands = hands_on(volume, tmp_path)
    await hands.release(VOLUME, is_forced=True)
    assert volume.done[-1] == Relinquish(is_forced=True)
    assert hands.released == {VOLUME}
    assert volume.woken == 0


@pytest.mark.parametrize("reason", [Reason.ROOT_DEVICE, Reason.INSTANCE_STORE, Reason.MANAGED_BY_CSI])
@pytest.mark.parametrize("is_forced", [False, True])
async def test_what_is_not_ours_is_never_released(tmp_path: Path, reason: Reason, *, is_forced: bool) -> None:
    """The system's volumes, HyperPod's own and the CSI driver's are not touched, not by force either."""
    volume = OneVolume(replace(USED, exclusion=Exclusion(reason, "it is not ours")))
    hands = hands_on(volume, tmp_path)
    with pytest.raises(RefusedError, match="it is not ours") as raised:
        await hands.release(VOLUME, is_forced=is_forced)
    assert raised.value.exit_code is ExitCode.REFUSED
    assert volume.done == []
    assert not hands.released


@pytest.mark.parametrize("is_forced", [False, True])
async def test_what_pods_have_is_not_taken_from_them(tmp_path: Path, *, is_forced: bool) -> None:
    """Neither is it unmounted where the policy has it, nor where they have; and it stays the policy's."""
    volume = OneVolume(replace(USED, shown=(INNER,)))
    hands = hands_on(volume, tmp_path)
    with pytest.raises(RefusedError, match="published to pods") as raised:
        await hands.release(VOLUME, is_forced=is_forced)
    assert raised.value.exit_code is ExitCode.REFUSED
    assert volume.done == []
    assert not hands.released


@pytest.mark.parametrize("is_forced", [False, True])
async def test_volume_with_a_part_mounted_elsewhere_is_not_released(
    tmp_path: Path, *, is_forced: bool
) -> None:
    """Nothing of it is unmounted first: the rest of it would be nobody's, and keep it from coming back."""
    part = replace(DATA, mount_id=52, path="/srv/export", root="/sub")
    volume = OneVolume(replace(USED, views=(DATA, INNER, part)))
    hands = hands_on(volume, tmp_path)
    if is_forced:
        await hands.release(VOLUME, is_forced=True)
        assert volume.done == [Relinquish(is_forced=True)]
        return
    with pytest.raises(AgentError, match="/srv/export") as raised:
        await hands.release(VOLUME)
    assert raised.value.reason is Reason.DEVICE_BUSY
    assert volume.done == []
    assert not hands.released


async def test_volume_that_left_by_itself_is_released(tmp_path: Path) -> None:
    """A volume whose device is gone has nothing to flush."""
    volume = OneVolume(replace(USED, device=None, mounts=()))
    hands = hands_on(volume, tmp_path)
    await hands.release(VOLUME)
    assert volume.done == []


OTHER = VolumeId("vol-0123456789abcdef1")
WANT = Wanted(VOLUME, "data", mount=WantedMount("/data"))


async def test_everything_taken_away_is_noted_before_anything_is_let_go(tmp_path: Path) -> None:
    """One note holds all that the policy wants, here or not, before the first is let go."""
    volume = OneVolume(USED)
    hands = hands_on(volume, tmp_path, present={VOLUME: Seen("/dev/nvme1n1")}, wanted=(VOLUME, OTHER))
    assert await hands.note_all_by_hand() == (VOLUME,)
    assert volume.done == []
    again = hands_on(OneVolume(USED), tmp_path)
    assert again.released == {VOLUME, OTHER, EVERYTHING}
    assert again.withhold(OTHER, replace(WANT, volume_id=OTHER)) == Released(replace(WANT, volume_id=OTHER))


async def test_volume_in_use_is_the_policys_again_and_the_others_stay_released(tmp_path: Path) -> None:
    """What could not be let go is not released after a restart either; that nothing is to come here stays."""
    hands = hands_on(OneVolume(USED, Unmount), tmp_path, {VOLUME: Seen("/dev/nvme1n1")}, (VOLUME, OTHER))
    await hands.note_all_by_hand()
    with pytest.raises(AgentError):
        await hands.release(VOLUME)
    assert await hands.write_released()
    again = hands_on(OneVolume(USED), tmp_path)
    assert again.released == {OTHER, EVERYTHING}
    assert again.withhold(VOLUME, WANT) is WANT


async def test_volume_that_comes_later_is_left_alone(tmp_path: Path) -> None:
    """An attachment that was under way brings no volume into use again; what is given back is used."""
    hands = hands_on(OneVolume(USED), tmp_path)
    hands.note_arrived([OTHER])
    assert hands.released == set()
    await hands.note_all_by_hand()
    hands.note_arrived([VOLUME])
    assert hands.withhold(VOLUME, WANT) == Released(WANT)
    hands.keep(VOLUME)
    assert hands.withhold(VOLUME, WANT) is WANT
    assert await hands.write_released()
    assert hands_on(OneVolume(USED), tmp_path).released == {EVERYTHING}


async def test_reload_gives_everything_back(tmp_path: Path) -> None:
    """After a reload nothing is released any more, and the next start knows."""
    hands = hands_on(OneVolume(USED), tmp_path)
    await hands.note_all_by_hand()
    hands.keep_all()
    assert await hands.write_released()
    assert hands_on(OneVolume(USED), tmp_path).released == set()


async def test_what_the_policy_let_go_is_not_told_as_a_persons_doing(tmp_path: Path) -> None:
    """Of a volume let go for the policy's sake nothing is wanted, and no person is said to have done it."""
    hands = hands_on(OneVolume(USED), tmp_path)
    await hands.release(VOLUME)
    assert hands.withhold(VOLUME, WANT) is None


HIDDEN = CoveredError(
    "What is mounted at /data is hidden beneath a tmpfs filesystem.", reason=Reason.PATH_IN_USE
)


@pytest.mark.parametrize("is_reached", [True, False], ids=["flushed by its device", "not reached"])
async def test_covered_volume_is_taken_by_force_only_once_it_is_flushed(
    tmp_path: Path, *, is_reached: bool
) -> None:
    """Without force it stays, and with it where a flush reaches nothing of it: the way out is said."""
    volume = OneVolume(USED)
    volume.raised = {Unmount: HIDDEN} if is_reached else {Unmount: HIDDEN, Relinquish: HIDDEN}
    hands = hands_on(volume, tmp_path)
    with pytest.raises(CoveredError, match="hidden beneath a tmpfs"):
        await hands.release(VOLUME)
    if is_reached:
        await hands.release(VOLUME, is_forced=True)
        assert (volume.done, hands.released) == ([Relinquish(is_forced=True)], {VOLUME})
        return
    with pytest.raises(CoveredError, match="hidden beneath a tmpfs"):
        await hands.release(VOLUME, is_forced=True)
    assert (volume.done, hands.released) == ([], set())
    assert volume.woken


async def test_what_is_let_go_before_the_instance_ends_is_not_noted(tmp_path: Path) -> None:
    """A start on the same instance uses its volumes again; until then each is told why it is left alone."""
    hands = hands_on(OneVolume(USED), tmp_path, {VOLUME: Seen("/dev/nvme1n1")}, (VOLUME,))
    assert await hands.withdraw_all("was let go") == (VOLUME,)
    await hands.release(VOLUME)
    hands.note_arrived([OTHER])
    assert hands.withhold(VOLUME, WANT) == Released(WANT, "was let go")
    assert hands.withhold(OTHER, replace(WANT, volume_id=OTHER)) is not None
    assert hands_on(OneVolume(USED), tmp_path).released == set()
    hands.keep_all()
    assert hands.withhold(VOLUME, WANT) is WANT


@pytest.mark.parametrize("reason", [Reason.ROOT_DEVICE, Reason.INSTANCE_STORE, Reason.MANAGED_BY_CSI])
async def test_running_system_is_not_frozen(tmp_path: Path, reason: Reason) -> None:
    """A copy or a snapshot of what the system stands on freezes nothing: the agent would stand still too."""
    hands = hands_on(OneVolume(replace(USED, exclusion=Exclusion(reason, "it carries /."))), tmp_path)
    with pytest.raises(RefusedError, match="is not frozen: it carries") as raised:
        async with hands.freeze(VOLUME):
            pytest.fail("within a freeze")
    assert "--no-freeze" in str(raised.value.hint)
