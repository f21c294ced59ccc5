"""When a volume that failed is tried again: after its pauses, and at once only where there is news of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import accumulate, chain, count, repeat, takewhile

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.error_barrier import RETRY_S
from agent.core.errors import AgentError
from agent.core.model import Filesystem, Identity, Reason, Seen, VolumeId
from agent.core.replace import replace
from agent.core.steps import Action, Check, Format
from agent.loop.device_survey import Surveyor
from agent.loop.goals import Want
from agent.loop.reconcile import Reconciler
from agent.loop.wake_causes import BEGINS_ANEW, ENDS_PAUSE, Cause
from agent.node.device.source import Hint
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from bench.limits import JumpingLoop
from tests.fakes.world import EXT4, FakeNode, FakeVolume, failing
from tests.unit.loop.test_reconcile import VOLUME, WANTED, reconciling

PATH = "/dev/nvme1n1"
DAMAGED = replace(EXT4, has_errors=True)


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story on a clock that jumps to whatever happens next."""
    anyio.run(story, backend_options={"loop_factory": JumpingLoop})


def count_allowed(elapsed_s: float) -> int:
    """Return how many attempts fit into so many seconds when each fails and every pause is kept."""
    pauses = chain(RETRY_S, repeat(RETRY_S[-1]))
    return 1 + sum(1 for _ in takewhile(lambda at_s: at_s <= elapsed_s, accumulate(pauses)))


class Trial:
    """A volume at which every attempt fails, and whose every attempt is heard of, as udev tells of it."""

    def __init__(self, content: Filesystem | None = None) -> None:
        volume = FakeVolume(VOLUME) if content is None else FakeVolume(VOLUME, content=content)
        self.node = FakeNode(volume)
        self.node.refuse_step = self._fail
        self.at: list[float] = []
        self.hear: Callable[[], object] = lambda: None

    def _fail(self, action: Action) -> AgentError | None:
        if not isinstance(action, (Format, Check)):
            return None
        self.at.append(anyio.current_time())
        self.hear()
        return failing() if isinstance(action, Format) else None


TRIALS = [None, DAMAGED]
IDS = ["mkfs fails", "check finds damage"]


@pytest.mark.parametrize("content", TRIALS, ids=IDS)
def test_what_an_attempt_itself_stirs_up_ends_no_pause(content: Filesystem | None) -> None:
    """What is closed after writing is announced as changed; the pauses are kept all the same."""
    trial = Trial(content)

    async def story() -> None:
        async with reconciling(trial.node, {VOLUME: WANTED}) as (reconciler, _):
            trial.hear = lambda: reconciler.wake(VOLUME)
            await anyio.sleep(600)

    play(story)
    assert len(trial.at) == count_allowed(600)
    pauses = [later - sooner for sooner, later in zip(trial.at, trial.at[1:], strict=False)]
    assert pauses[: len(RETRY_S)] == pytest.approx(RETRY_S)


UNCLEAR = "Two entries match."
NOTHING_NEW: Mapping[str, Callable[[Reconciler], object]] = {
    "hint": lambda reconciler: reconciler.wake(VOLUME),
    "resync": lambda reconciler: reconciler.wake_all(),
    "same policy": lambda reconciler: reconciler.set_wants({VOLUME: replace(WANTED)}),
}


@pytest.mark.parametrize("content", TRIALS, ids=IDS)
@given(
    moments=st.lists(st.tuples(st.floats(0, 90), st.sampled_from(sorted(NOTHING_NEW))), max_size=40),
    is_echoed=st.booleans(),
)
def test_no_sequence_of_hints_makes_more_attempts_than_the_pauses_allow(
    content: Filesystem | None, moments: list[tuple[float, str]], *, is_echoed: bool
) -> None:
    """Whatever is heard, whenever and how often: as long as nothing is new, the pauses alone decide."""
    trial = Trial(content)
    elapsed_s: list[float] = []

    async def story() -> None:
        async with reconciling(trial.node, {VOLUME: WANTED}) as (reconciler, _):
            if is_echoed:
                trial.hear = lambda: reconciler.wake(VOLUME)
            for pause_s, name in moments:
                await anyio.sleep(pause_s)
                NOTHING_NEW[name](reconciler)
            await anyio.wait_all_tasks_blocked()
            elapsed_s.append(anyio.current_time())

    play(story)
    assert 1 <= len(trial.at) <= count_allowed(elapsed_s[0])


def test_error_of_the_policy_that_is_raised_anew_is_no_news() -> None:
    """What is wanted is worked out at every hint; the same error, said again, wakes nobody."""
    node = FakeNode(FakeVolume(VOLUME))

    async def story() -> None:
        errors = (AgentError(UNCLEAR, reason=Reason.SEVERAL_ENTRIES) for _ in count())
        counters = Counters()
        reconciler = Reconciler(node, Board(), counters)
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda *, task_status: reconciler.run(task_status=task_status))
            for _ in range(1000):
                reconciler.set_wants({VOLUME: next(errors)})
                await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
        passes = counters.registry.get_sample_value("ebs_agent_reconcile_duration_seconds_count")
        assert passes is not None
        assert 1 < passes <= count_allowed(100)

    play(story)


@pytest.mark.parametrize("cause", Cause)
def test_news_and_orders_end_a_pause_at_once(cause: Cause) -> None:
    """Deep in the pauses it is tried at the very moment, or, for all else, not before its time."""
    trial = Trial()
    begun: list[float] = []

    async def story() -> None:
        async with reconciling(trial.node, {VOLUME: WANTED}) as (reconciler, _):
            await anyio.sleep(sum(RETRY_S) + 10)
            trial.at.clear()
            begun.append(anyio.current_time())
            reconciler.wake(VOLUME, cause)
            await anyio.sleep(200)

    play(story)
    since = [at_s - begun[0] for at_s in trial.at]
    if cause not in ENDS_PAUSE:
        assert since == pytest.approx([50, 110, 170])
    elif cause in BEGINS_ANEW:
        assert since[:4] == pytest.approx([0, 1, 3, 8])
    else:
        assert since == pytest.approx([0, 60, 120, 180])


@pytest.mark.parametrize("cause", sorted(ENDS_PAUSE, key=str))
def test_news_that_come_during_a_pass_end_the_pause_after_it(cause: Cause) -> None:
    """A pass that had looked before they came may have failed for what is no more."""
    trial = Trial()

    async def story() -> None:
        async with reconciling(trial.node, {VOLUME: WANTED}) as (reconciler, _):
            trial.hear = lambda: reconciler.wake(VOLUME, cause) if len(trial.at) == 1 else None
            await anyio.sleep(0.5)

    play(story)
    assert len(trial.at) == 2


def test_hint_during_a_pause_keeps_nobody_waiting() -> None:
    """Whoever waits until a volume was looked at does not wait for the end of its pause."""
    trial = Trial()

    async def story() -> None:
        async with reconciling(trial.node, {VOLUME: WANTED}) as (reconciler, _):
            trial.hear = lambda: reconciler.wake(VOLUME)
            await reconciler.wait_settled([VOLUME], 30)
            await anyio.sleep(20)
            for wake in (reconciler.wake, lambda _: reconciler.wake_all()):
                before = anyio.current_time()
                wake(VOLUME)
                await reconciler.wait_settled([VOLUME], 30)
                assert anyio.current_time() == before

    play(story)


# -- Through the survey: what a device says decides whether it is news ---------------------------------------


class OneDevice:
    """A device whose answers the test gives."""

    def __init__(self, diskseq: int | None) -> None:
        serial = VOLUME.replace("-", "")
        self.answer = Seen(PATH, Identity(VOLUME, "model", serial), 1 << 30, diskseq=diskseq)
        self.is_here = True

    def list_paths(self) -> list[str]:
        return [PATH] if self.is_here else []

    async def ask(self, path: str) -> Seen:
        await anyio.lowlevel.checkpoint()
        return self.answer if self.is_here else Seen(path, refusal=f"{path} is gone.")

    def has_changed(self, seen: Seen) -> bool:
        return seen != self.answer or seen.diskseq is None

    def place(self, paths: Mapping[VolumeId, tuple[str, ...]]) -> None:
        del paths

    def list_recorded(self) -> Iterable[VolumeId]:
        return ()


def assign(present: Mapping[VolumeId, Seen], _: Iterable[VolumeId]) -> Mapping[VolumeId, Want]:
    return dict.fromkeys(present, WANTED) or {VOLUME: WANTED}


Stir = Callable[[Surveyor, OneDevice], Awaitable[None]]


async def say_change(surveyor: Surveyor, _: OneDevice) -> None:
    surveyor.hear(Hint(PATH, "change"))


async def lose_announcements(surveyor: Surveyor, _: OneDevice) -> None:
    surveyor.hear(Hint(None, "overflow"))


async def resync(surveyor: Surveyor, _: OneDevice) -> None:
    await surveyor.find_unannounced()


async def refresh(surveyor: Surveyor, _: OneDevice) -> None:
    surveyor.refresh()


async def grow(surveyor: Surveyor, device: OneDevice) -> None:
    device.answer = replace(device.answer, size_bytes=2 << 30)
    surveyor.hear(Hint(PATH, "change"))


async def grow_unannounced(surveyor: Surveyor, device: OneDevice) -> None:
    device.answer = replace(device.answer, size_bytes=2 << 30)
    await surveyor.find_unannounced()


async def appear_anew(surveyor: Surveyor, device: OneDevice) -> None:
    assert device.answer.diskseq is not None
    device.answer = replace(device.answer, diskseq=device.answer.diskseq + 1)
    surveyor.hear(Hint(PATH, "add"))


async def go_and_come(surveyor: Surveyor, device: OneDevice) -> None:
    device.is_here = False
    surveyor.hear(Hint(PATH, "remove"))
    await anyio.sleep(0.1)
    device.is_here = True
    surveyor.hear(Hint(PATH, "add"))


async def go_and_come_before_anybody_asks(surveyor: Surveyor, _: OneDevice) -> None:
    surveyor.hear(Hint(PATH, "remove"))
    surveyor.hear(Hint(PATH, "add"))


async def be_silent(surveyor: Surveyor, device: OneDevice) -> None:
    answer, device.answer = device.answer, Seen(PATH, refusal="It did not answer.", is_silent=True)
    surveyor.hear(Hint(PATH, "change"))
    await anyio.sleep(0.1)
    device.answer = answer


def find_attempts(stir: Stir, diskseq: int | None) -> list[float]:
    """Return when it was tried within 2.5 s after a device was stirred, deep in the pauses: 30 s are left."""
    trial = Trial()
    device = OneDevice(diskseq)
    begun: list[float] = []

    async def story() -> None:
        reconciler = Reconciler(trial.node, Board(), Counters())
        surveyor = Surveyor(device, assign, reconciler, Counters())
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda *, task_status: reconciler.run(task_status=task_status))
            await tasks.start(lambda *, task_status: surveyor.run(task_status=task_status))
            await surveyor.look_everywhere()
            await anyio.sleep(sum(RETRY_S) + 30)
            trial.at.clear()
            begun.append(anyio.current_time())
            await stir(surveyor, device)
            await anyio.sleep(2.5)
            tasks.cancel_scope.cancel()

    play(story)
    return [at_s - begun[0] for at_s in trial.at]


@pytest.mark.parametrize("diskseq", [7, None], ids=["numbered", "unnumbered"])
@pytest.mark.parametrize("stir", [say_change, lose_announcements, resync, refresh])
def test_device_that_says_the_same_is_no_news(stir: Stir, diskseq: int | None) -> None:
    """It was asked again, for whatever reason, and is what it was."""
    assert find_attempts(stir, diskseq) == []


@pytest.mark.parametrize(
    ("stir", "diskseq"),
    [
        (grow, 7),
        (grow, None),
        (grow_unannounced, 7),
        (grow_unannounced, None),
        (appear_anew, 7),
        (go_and_come, 7),
        (go_and_come, None),
        (go_and_come_before_anybody_asks, None),
        (be_silent, 7),
        (be_silent, None),
    ],
)
def test_device_that_is_not_what_it_was_is_looked_at_at_once(stir: Stir, diskseq: int | None) -> None:
    """A size that people wait for, another appearance, a voice that was found again."""
    assert find_attempts(stir, diskseq)


def test_numbered_appearance_that_is_announced_anew_is_no_news() -> None:
    """``udevadm trigger`` says of every disk that it was added; its number says that it is the same."""
    assert find_attempts(go_and_come_before_anybody_asks, 7) == []
