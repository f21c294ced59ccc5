"""Which volumes are here: the survey over devices in memory."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import anyio
import pytest
from structlog.testing import capture_logs

from agent.core.errors import InconclusiveError
from agent.core.model import Identity, Seen, VolumeId
from agent.loop.device_survey import Surveyor
from agent.loop.goals import Want
from agent.loop.reconcile import Reconciler
from agent.loop.resync import look_periodically
from agent.node.device.source import Hint
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from tests.fakes.world import FakeNode

pytestmark = pytest.mark.anyio

VOLUME = VolumeId("vol-0123456789abcdef0")
OTHER = VolumeId("vol-0fedcba9876543210")
PATH = "/dev/nvme1n1"


class Devices:
    """Devices that answer with their volume, or that do not answer until they are told to."""

    def __init__(self, **volumes: str) -> None:
        self.volumes = {f"/dev/{name}": VolumeId(volume) for name, volume in volumes.items()}
        self.silent: set[str] = set()
        self.changed: set[str] = set()
        self.questions = 0
        self.unlisted: InconclusiveError | None = None
        self.failing: dict[str, Exception] = {}

    def list_paths(self) -> list[str]:
        if self.unlisted is not None:
            raise self.unlisted
        return sorted(self.volumes)

    async def ask(self, path: str) -> Seen:
        self.questions += 1
        await anyio.lowlevel.checkpoint()
        if path in self.failing:
            raise self.failing[path]
        if path in self.silent:
            return Seen(path, refusal=f"{path} did not answer.", is_silent=True)
        volume = self.volumes.get(path)
        if volume is None:
            return Seen(path, refusal=f"{path} is gone.")
        return Seen(path, Identity(volume, "model", volume.replace("-", "")), 1 << 30)

    def has_changed(self, seen: Seen) -> bool:
        return seen.path in self.changed

    def place(self, paths: Mapping[VolumeId, tuple[str, ...]]) -> None:
        del paths

    def list_recorded(self) -> Iterable[VolumeId]:
        return ()


class Assignments:
    """What the survey asked to be assigned, the last time and how often."""

    def __init__(self) -> None:
        self.present: Mapping[VolumeId, Seen] = {}
        self.count = 0
        self._changed = anyio.Event()

    def __call__(self, present: Mapping[VolumeId, Seen], _: Iterable[VolumeId]) -> Mapping[VolumeId, Want]:
        self.present, self.count = present, self.count + 1
        self._changed.set()
        self._changed = anyio.Event()
        return dict.fromkeys(present)

    async def wait_present(self, *volumes: VolumeId) -> None:
        with anyio.fail_after(60):
            while set(self.present) != set(volumes):
                await self._changed.wait()


@asynccontextmanager
async def surveying(devices: Devices) -> AsyncIterator[tuple[Surveyor, Assignments]]:
    """Run a survey for the block, after its first full look."""
    assignments = Assignments()
    reconciler = Reconciler(FakeNode(), Board(), Counters())
    surveyor = Surveyor(devices, assignments, reconciler, Counters(), silence_s=(0.001, 0.002))
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: reconciler.run(task_status=task_status))
        await tasks.start(lambda *, task_status: surveyor.run(task_status=task_status))
        await surveyor.look_everywhere()
        yield surveyor, assignments
        tasks.cancel_scope.cancel()


async def test_announced_device_is_asked_and_assigned() -> None:
    """A device that appears is asked who it is, and what is wanted of it is worked out."""
    devices = Devices()
    async with surveying(devices) as (surveyor, assignments):
        devices.volumes[PATH] = VOLUME
        surveyor.hear(Hint(PATH, "add"))
        await assignments.wait_present(VOLUME)
        assert assignments.present[VOLUME].path == PATH


async def test_device_that_was_silent_is_found_once_it_answers() -> None:
    """A device that missed its time to answer is asked again by itself, without an announcement."""
    devices = Devices(nvme1n1=VOLUME)
    devices.silent.add(PATH)
    async with surveying(devices) as (_, assignments):
        assert not assignments.present
        with anyio.fail_after(60):
            while devices.questions < 3:  # noqa: ASYNC110 -- the questions are the condition
                await anyio.sleep(0.001)
        devices.silent.clear()
        await assignments.wait_present(VOLUME)


async def test_devices_that_cannot_be_listed_are_there() -> None:
    """While the list of devices cannot be had, those that are known stay, and that is told once."""
    devices = Devices(nvme1n1=VOLUME)
    async with surveying(devices) as (surveyor, assignments):
        await assignments.wait_present(VOLUME)
        devices.unlisted = InconclusiveError("The disks could not be listed.")
        with capture_logs() as logs:
            await surveyor.find_unannounced()
            await surveyor.look_everywhere()
        assert set(assignments.present) == {VOLUME}
        assert [line["event"] for line in logs].count("devices.unlisted") == 1
        devices.unlisted = None
        devices.volumes.clear()
        await surveyor.look_everywhere()
        assert not assignments.present


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("bad")])
async def test_fault_at_one_device_leaves_the_others_to_be_asked(error: Exception) -> None:
    """A device at which the agent fails is asked again, and others are asked meanwhile."""
    devices = Devices()
    async with surveying(devices) as (surveyor, assignments):
        devices.failing[PATH] = error
        devices.volumes = {PATH: VOLUME, "/dev/nvme2n1": OTHER}
        surveyor.hear(Hint(PATH, "add"))
        surveyor.hear(Hint("/dev/nvme2n1", "add"))
        await assignments.wait_present(OTHER)
        devices.failing.clear()
        await assignments.wait_present(VOLUME, OTHER)


async def test_device_that_comes_and_goes_is_pressed_by_one_task() -> None:
    """A device that is silent, answers, and is silent again is asked again by one task only."""
    devices = Devices(nvme1n1=VOLUME)
    async with surveying(devices) as (surveyor, _):
        surveyor._silence_s = (60.0,)
        for _ in range(5):
            devices.silent.add(PATH)
            await surveyor.look_everywhere()
            devices.silent.clear()
            await surveyor.look_everywhere()
        await anyio.wait_all_tasks_blocked()
        pressing = [task for task in asyncio.all_tasks() if task.get_name().endswith("again")]
        assert len(pressing) == 1


async def test_silent_device_that_goes_away_is_not_asked_for_ever() -> None:
    """A device that is gone before it ever answered is not asked any more."""
    devices = Devices(nvme1n1=VOLUME)
    devices.silent.add(PATH)
    async with surveying(devices):
        del devices.volumes[PATH]
        asked = devices.questions
        # Far longer than its pauses, so that a device still asked would be asked many times.
        await anyio.sleep(0.1)
        assert devices.questions <= asked + 1


async def test_devices_that_appear_together_are_assigned_together() -> None:
    """What is wanted is worked out once for all devices that are being asked at the same time."""
    volumes = {f"nvme{number}n1": f"vol-0{number:016x}" for number in range(1, 21)}
    devices = Devices()
    async with surveying(devices) as (surveyor, assignments):
        before = assignments.count
        devices.volumes = {f"/dev/{name}": VolumeId(volume) for name, volume in volumes.items()}
        for path in devices.list_paths():
            surveyor.hear(Hint(path, "add"))
        await assignments.wait_present(*devices.volumes.values())
        assert assignments.count == before + 1


async def test_device_that_answers_later_than_the_first_is_heard_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of devices that were attached together each is looked at, however much longer it takes to answer."""
    devices = Devices()
    late = anyio.Event()
    ask = devices.ask

    async def ask_late(path: str) -> Seen:
        if path != PATH:
            await late.wait()
        return await ask(path)

    devices.ask = ask_late  # type: ignore[method-assign]
    async with surveying(devices) as (surveyor, assignments):
        announced: list[VolumeId] = []
        monkeypatch.setattr(Reconciler, "announce", lambda _, volume: announced.append(volume))
        devices.volumes = {PATH: VOLUME, "/dev/nvme2n1": OTHER}
        for path in devices.volumes:
            surveyor.hear(Hint(path, "add"))
        await assignments.wait_present(VOLUME)
        late.set()
        await assignments.wait_present(VOLUME, OTHER)
        assert announced == [VOLUME, OTHER]


async def test_silence_forgets_no_volume_that_was_known() -> None:
    """A volume whose device stops answering stays known: it is stalled, not gone."""
    devices = Devices(nvme1n1=VOLUME)
    async with surveying(devices) as (surveyor, assignments):
        await assignments.wait_present(VOLUME)
        devices.silent.add(PATH)
        before = assignments.count
        surveyor.hear(Hint(PATH, "change"))
        with anyio.fail_after(60):
            while assignments.count == before:  # noqa: ASYNC110 -- the count is the condition
                await anyio.sleep(0.001)
        assert VOLUME in assignments.present


async def test_what_is_as_it_was_is_not_asked_again() -> None:
    """Of devices that nobody announced those are asked that changed, and those that are no volume so far."""
    other = VolumeId("vol-0fedcba9876543210")
    devices = Devices(nvme1n1=VOLUME, nvme2n1=other)
    async with surveying(devices) as (surveyor, assignments):
        asked = devices.questions
        await surveyor.find_unannounced()
        assert devices.questions == asked
        devices.changed.add("/dev/nvme2n1")
        await surveyor.find_unannounced()
        assert devices.questions == asked + 1
        devices.changed.clear()
        devices.volumes["/dev/nvme3n1"] = VolumeId("vol-00000000000000003")
        del devices.volumes[PATH]
        await surveyor.find_unannounced()
        assert devices.questions == asked + 2
        assert set(assignments.present) == {other, "vol-00000000000000003"}


async def test_device_that_is_doubted_is_asked_again() -> None:
    """Whoever finds another volume behind a path has it asked, and the list is right again."""
    other = VolumeId("vol-0fedcba9876543210")
    devices = Devices(nvme1n1=VOLUME)
    async with surveying(devices) as (surveyor, assignments):
        devices.volumes[PATH] = other
        surveyor.doubt(PATH)
        await assignments.wait_present(other)


async def test_each_volume_is_looked_at_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a period every volume is looked at, one at a time, and what came without a word is found."""
    devices = Devices(nvme1n1=VOLUME)
    late = VolumeId("vol-00000000000000003")
    both_woken = anyio.Event()
    woken: set[VolumeId] = set()

    turns: list[str] = []

    async def wait_settled(volumes: Iterable[VolumeId], _: float) -> None:
        turns.extend(f"settled {volume}" for volume in volumes)

    def wake(volume: VolumeId) -> None:
        turns.append(f"woke {volume}")
        woken.add(volume)
        if woken == {VOLUME, late}:
            both_woken.set()

    async with surveying(devices) as (surveyor, assignments), anyio.create_task_group() as tasks:
        reconciler = Reconciler(FakeNode(), Board(), Counters())
        monkeypatch.setattr(reconciler, "list_volumes", lambda: tuple(assignments.present))
        monkeypatch.setattr(reconciler, "wake", wake)
        monkeypatch.setattr(reconciler, "wait_settled", wait_settled)
        devices.volumes["/dev/nvme3n1"] = late
        tasks.start_soon(look_periodically, surveyor, reconciler, lambda: 0.01)
        with anyio.fail_after(60):
            await both_woken.wait()
        tasks.cancel_scope.cancel()
    # The late one came without a word, at the end of the first round, and is woken out of turn.
    assert turns[:2] == [f"woke {VOLUME}", f"settled {VOLUME}"]
