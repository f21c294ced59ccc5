"""What is known of where volumes come from: for each volume by itself, and for how long it is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone

import anyio
import pytest

from agent.core.model import Origin, VolumeId
from agent.loop.volume_origins import Origins
from bench.limits import JumpingLoop

FIRST, LATER = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0123456789abcdef1")
BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
LIMIT_S = 300.0
SNAPSHOT = Origin(snapshot_id="snap-1")
COPY = Origin(source_volume_id="vol-00000000000000000")
CSI = Origin(tags=(("CSIVolumeName", "pvc-1"),))


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.s = 1000.0

    def read(self) -> float:
        return self.s

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.s - 1000.0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def origins(time: Time) -> Origins:
    """Return what is known while the cloud is asked and one volume is here."""
    origins = Origins(time.read, time.now)
    origins.expect(is_asked=True, limit_s=LIMIT_S)
    origins.see({FIRST})
    return origins


def test_volume_that_comes_later_waits_for_its_own_answer(origins: Origins) -> None:
    """An answer about one volume is none about another."""
    origins.put({FIRST: Origin()}, ())
    assert not origins.find(FIRST).is_awaited
    origins.see({FIRST, LATER})
    assert origins.find(LATER).is_awaited
    assert origins.put({FIRST: Origin(), LATER: SNAPSHOT}, ()) == {LATER}
    assert origins.find(LATER).origin == SNAPSHOT


def test_answer_that_brings_nothing_keeps_a_volume_waiting(origins: Origins) -> None:
    """Findings of a look that failed, or that asked about others, say nothing of a volume."""
    assert origins.put({}, ()) == frozenset()
    assert origins.find(FIRST).is_awaited


def test_volume_of_which_nothing_will_be_told_does_not_wait(origins: Origins) -> None:
    """That AWS will not tell is an answer, about those it is about, and news to them."""
    assert origins.put({}, {FIRST}) == {FIRST}
    assert not origins.find(FIRST).is_awaited
    assert origins.find(LATER).is_awaited


def test_waiting_ends_at_its_limit_and_says_when(origins: Origins, time: Time) -> None:
    """It is counted from when the volume was first seen, and told the same at every look."""
    time.s += 100
    origins.see({FIRST, LATER})
    for _ in range(2):
        answer = origins.find(LATER)
        assert (answer.since, answer.until) == (
            BEGIN + timedelta(seconds=100),
            BEGIN + timedelta(seconds=100 + LIMIT_S),
        )
        time.s += 50
    assert origins.find(FIRST).until == BEGIN + timedelta(seconds=LIMIT_S)
    time.s = 1000.0 + LIMIT_S
    assert not origins.find(FIRST).is_awaited
    assert origins.find(LATER).is_awaited


def test_without_a_limit_only_an_answer_ends_the_waiting(origins: Origins, time: Time) -> None:
    """The policy's ``never`` is meant."""
    origins.expect(is_asked=True, limit_s=None)
    time.s += 10 * 86400
    answer = origins.find(FIRST)
    assert (answer.is_awaited, answer.until) == (True, None)


def test_turning_the_cloud_on_counts_anew(origins: Origins, time: Time) -> None:
    """A volume that was here for days is asked about from the reload on, not since it came."""
    origins.expect(is_asked=False, limit_s=LIMIT_S)
    time.s += 86400
    assert not origins.find(FIRST).is_awaited
    assert origins.expect(is_asked=True, limit_s=LIMIT_S)
    assert not origins.expect(is_asked=True, limit_s=LIMIT_S)
    assert origins.find(FIRST).since == BEGIN + timedelta(seconds=86400)
    time.s += LIMIT_S
    assert not origins.find(FIRST).is_awaited


def test_volume_that_comes_back_counts_anew(origins: Origins, time: Time) -> None:
    """Detached and attached again it is another appearance, whose time begins with it."""
    time.s += LIMIT_S
    origins.see(())
    origins.see({FIRST})
    assert origins.find(FIRST).is_awaited


def test_volume_nobody_has_told_of_waits(origins: Origins) -> None:
    """A look may be quicker than the list of those that are here."""
    assert origins.find(LATER).is_awaited


@pytest.mark.parametrize("origin", [SNAPSHOT, COPY, CSI, Origin(is_multi_attach=True)])
def test_what_forbids_outlasts_limit_outage_and_the_end_of_asking(
    origins: Origins, time: Time, origin: Origin
) -> None:
    """What was once said to forbid something is never let go of by silence."""
    origins.put({FIRST: origin}, ())
    for findings in ({}, {LATER: Origin()}):
        origins.put(findings, ())
        time.s += LIMIT_S
        assert origins.find(FIRST).origin == origin
    origins.expect(is_asked=False, limit_s=LIMIT_S)
    origins.see(())
    origins.see({FIRST})
    assert origins.find(FIRST).origin == origin
    assert FIRST not in origins.known, "entries are matched by what is known now"


@pytest.mark.parametrize("origin", [SNAPSHOT, COPY])
def test_what_a_volume_was_made_from_is_never_taken_back(origins: Origins, origin: Origin) -> None:
    """A later answer without it says no more than that it left it out."""
    origins.put({FIRST: origin}, ())
    origins.put({FIRST: Origin(type="gp3")}, ())
    found = origins.find(FIRST).origin
    assert found is not None
    assert (found.made_from, found.type) == (origin.made_from, "gp3")


def test_tags_that_are_gone_forbid_no_more(origins: Origins) -> None:
    """Tags change, and the last answer about them counts."""
    origins.put({FIRST: CSI}, ())
    origins.put({FIRST: Origin()}, ())
    origins.put({}, ())
    assert origins.find(FIRST).origin is None


def play(story: Callable[[Origins, list[VolumeId]], Awaitable[None]]) -> None:
    """Run a story on a clock that jumps, with what is woken."""

    async def run() -> None:
        origins = Origins(anyio.current_time)
        woken: list[VolumeId] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(origins.run, woken.append)
            await story(origins, woken)
            tasks.cancel_scope.cancel()

    anyio.run(run, backend_options={"loop_factory": JumpingLoop})


def test_volumes_are_woken_when_their_waiting_ends() -> None:
    """Each at its own time, once, whether or not anything else happens."""

    async def tell(origins: Origins, woken: list[VolumeId]) -> None:
        origins.expect(is_asked=True, limit_s=LIMIT_S)
        origins.see({FIRST})
        await anyio.sleep(100)
        origins.see({FIRST, LATER})
        await anyio.sleep(LIMIT_S - 101)
        assert woken == []
        await anyio.sleep(2)
        assert woken == [FIRST]
        await anyio.sleep(100)
        assert woken == [FIRST, LATER]
        origins.see({FIRST, LATER})
        await anyio.sleep(86400)
        assert woken == [FIRST, LATER]

    play(tell)


def test_volume_that_was_answered_for_is_not_woken() -> None:
    """Nor is one that left."""

    async def tell(origins: Origins, woken: list[VolumeId]) -> None:
        origins.expect(is_asked=True, limit_s=LIMIT_S)
        origins.see({FIRST, LATER})
        await anyio.sleep(1)
        origins.put({FIRST: Origin()}, ())
        origins.see({FIRST})
        await anyio.sleep(86400)
        assert woken == []

    play(tell)


def test_answer_that_cannot_be_read_is_waited_for_without_end(origins: Origins, time: Time) -> None:
    """The limit of the waiting is for what AWS does not say, not for what it says and nobody can read."""
    origins.put({}, (), {FIRST})
    time.s += 1000 * LIMIT_S
    assert origins.find(FIRST).is_awaited
    assert origins.put({}, ()) == {FIRST}
    assert not origins.find(FIRST).is_awaited
