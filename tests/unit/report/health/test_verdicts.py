from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import Condition, DeviceNumber, Provisioned, Reason
from agent.core.replace import replace
from agent.node.kernel.disk_counters import BlockCounters
from agent.node.sampling.ebs_statistics import Direction, EbsStatistics
from agent.node.sampling.values import MountSample, Sample
from agent.report.board.readings import Reading, Verdict
from agent.report.health.verdicts import RULES, Subject, judge
from agent.report.health.verdicts.device import MAX_IO_TIMEOUT_S
from agent.report.health.verdicts.free_space import forecast_full_s

GIB = 1 << 30
SUBJECT = Subject("ckpt")
COUNTERS = BlockCounters(100, 4096, 10, 100, 4096, 10, 0, 10)
MOUNT = MountSample(
    path="/data/ckpt", fs_type="ext4", is_read_only=False, size_bytes=100 * GIB, avail_bytes=50 * GIB,
    files=1000, files_free=900, spans_bytes=101 * GIB,
)  # fmt: skip
SAMPLE = Sample(DeviceNumber(259, 1), 101 * GIB, COUNTERS, mount=MOUNT, io_timeout_s=MAX_IO_TIMEOUT_S)
IDLE = EbsStatistics(Direction(0, 0, 0), Direction(0, 0, 0), 0, 0, 0, 0, 0)


def read(at: float, completed: int = 0, in_flight: int = 0, **sample: Any) -> Reading:
    """Return a reading of a sound volume with these changes."""
    counters = replace(COUNTERS, reads=100 + completed, in_flight=in_flight)
    return Reading(at, replace(SAMPLE, counters=counters, **sample), None, counters)


def hear_nothing(
    at: float, completed: int = 0, in_flight: int = 1, *, is_stuck: bool = False, is_counted: bool = True
) -> Reading:
    """Return a reading of a volume that did not answer."""
    counters = replace(COUNTERS, reads=100 + completed, in_flight=in_flight)
    return Reading(at, None, None, counters if is_counted else None, is_stuck)


def look(at: float, **mount: Any) -> Reading:
    """Return a reading in which the filesystem is as given."""
    return read(at, completed=int(at), mount=replace(MOUNT, **mount))


def work(at: float, **statistics: Any) -> Reading:
    """Return a reading with EBS's statistics as given."""
    return replace(read(at, completed=int(at)), statistics=replace(IDLE, **statistics))


def find(*readings: Reading, subject: Subject = SUBJECT, last: Sequence[Verdict] = ()) -> list[Reason]:
    return [verdict.reason for verdict in judge(readings, subject, last)]


def follow(*readings: Reading, subject: Subject = SUBJECT) -> list[list[Reason]]:
    """Return the reasons after each reading, each verdict knowing the one before it."""
    last: tuple[Verdict, ...] = ()
    seen = []
    for n in range(1, len(readings) + 1):
        last = judge(readings[:n], subject, last)
        seen.append([verdict.reason for verdict in last])
    return seen


def test_sound_volume() -> None:
    """Of a volume that answers and completes what it is asked there is nothing to say."""
    assert find(read(0), read(15, 10, in_flight=3), read(30, 20, in_flight=3)) == []


@pytest.mark.parametrize(
    ("readings", "is_stalled"),
    [
        ([read(0, in_flight=4), read(15, in_flight=4)], True),
        ([read(0, in_flight=0), read(15, in_flight=4)], False),
        ([read(0, in_flight=4), read(15, 1, in_flight=4)], False),
        ([read(0, in_flight=4), read(2, in_flight=4)], False),
        ([read(0), hear_nothing(25, is_stuck=True)], True),
        ([read(0), hear_nothing(25)], False),
        ([read(0), hear_nothing(25), hear_nothing(50)], True),
        ([read(0), hear_nothing(25, in_flight=0), hear_nothing(50, in_flight=0)], False),
        ([hear_nothing(25, is_counted=False), hear_nothing(50, is_counted=False)], True),
        ([hear_nothing(25, is_counted=False), hear_nothing(26, is_counted=False)], False),
        ([read(0), hear_nothing(25, 5, is_stuck=True)], False),
        ([hear_nothing(25, is_stuck=True)], True),
        ([work(0, queue_length=2), replace(read(15), statistics=replace(IDLE, queue_length=2))], True),
    ],
)
def test_stall(readings: list[Reading], *, is_stalled: bool) -> None:
    """Stalled is: commands in flight or no answer, and nothing completed between two readings."""
    verdicts = judge(readings, SUBJECT)
    assert [v.reason for v in verdicts] == ([Reason.STALLED] if is_stalled else [])
    assert all(v.condition is Condition.FAILED for v in verdicts)


def test_freeze_is_no_stall() -> None:
    """What somebody froze is Frozen, by a sample or by silence, with the way out, and not a moment longer."""
    silent = replace(hear_nothing(25, in_flight=0, is_stuck=True), is_frozen=True)
    for reading in (look(25, is_frozen=True), silent, replace(silent, at=40)):
        (verdict,) = judge([look(0), reading], SUBJECT)
        assert (verdict.condition, verdict.reason) == (Condition.FAILED, Reason.FROZEN)
        assert "fsfreeze -u /data/ckpt" in verdict.hint
    assert follow(look(0), look(15, is_frozen=True), look(30)) == [[], [Reason.FROZEN], []]


def test_stall_that_may_be_a_freeze_says_so() -> None:
    """Where the kernel does not show what is waited for, the way out of a freeze is told beside the other."""
    shown = hear_nothing(25, is_stuck=True)
    hidden = replace(shown, may_be_frozen=True)
    hints = [judge([look(0), reading], SUBJECT)[0].hint for reading in (shown, hidden)]
    assert ["fsfreeze -u" in hint for hint in hints] == [False, True]


def test_stall_says_since_when() -> None:
    """The sentence says for how long nothing completed, from the first reading of the standstill on."""
    readings = [read(0, 1), read(15, 2, in_flight=3), read(30, 2, in_flight=3), read(45, 2, in_flight=3)]
    (verdict,) = judge(readings, SUBJECT)
    assert verdict.message == "ckpt has 3 operations in flight and completed none for 30 s."


def test_volume_that_answers_now_and_then_does_not_flap() -> None:
    """A stall that ends is held for a minute, so one with short breaks is one stall."""
    seen = follow(
        read(0, in_flight=1), read(15, in_flight=1), read(30, 5), read(45, 5, in_flight=1),
        read(60, 5, in_flight=1), read(75, 9), read(90, 12), read(105, 13), read(120, 14),
    )  # fmt: skip
    assert [Reason.STALLED in reasons for reasons in seen] == [
        False, True, True, True, True, True, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"root_errno": errno.EIO}, [Reason.SHUT_DOWN]),
        ({"is_read_only": True}, [Reason.READ_ONLY]),
        ({"is_emergency": True, "is_read_only": True}, [Reason.READ_ONLY]),
        ({"write_errno": errno.EROFS}, [Reason.READ_ONLY]),
        ({"write_errno": errno.EACCES}, []),
        ({"errors": 3}, [Reason.FILESYSTEM_ERRORS]),
        ({"errors": 0}, []),
        ({"spans_bytes": 102 * GIB}, [Reason.FILESYSTEM_ERRORS]),
        ({"avail_bytes": 4 * GIB}, [Reason.NEARLY_FULL]),
        ({"files_free": 10}, [Reason.FILES_FULL]),
        ({"files": 0, "files_free": 0}, []),
        ({"size_bytes": 0, "avail_bytes": 0}, []),
    ],
)
def test_filesystem(mount: dict[str, Any], expected: list[Reason]) -> None:
    """Each thing that can be wrong with a filesystem has its reason."""
    assert find(look(0), look(15, **mount)) == expected


def test_shut_down_is_not_io_error() -> None:
    """A filesystem dead on a device that reads well is shut down; otherwise the device has the errors."""
    dead = replace(MOUNT, root_errno=errno.EIO)
    assert find(read(0, mount=dead)) == [Reason.SHUT_DOWN]
    assert find(read(0, mount=dead, read_errno=errno.EIO)) == [Reason.IO_ERRORS]


@pytest.mark.parametrize("fault", [{"root_errno": errno.EIO}, {"is_read_only": True, "is_emergency": True}])
def test_command_to_paste_is_quoted(fault: dict[str, Any]) -> None:
    """Whoever writes a volume's tags chooses a part of its path."""
    (verdict,) = judge((look(0, path="/data/$(reboot)", **fault),), SUBJECT, ())
    assert "umount '/data/$(reboot)'" in str(verdict.hint)


def test_no_error_is_looked_for_where_none_made_it_read_only() -> None:
    """What is only mounted so is told of as that: the kernel log says nothing, and explain says why."""
    subject = replace(SUBJECT, label="$(reboot)")
    (verdict,) = judge((look(0, is_read_only=True),), subject, ())
    assert "it is mounted read-only" in verdict.message
    assert "kernel log" not in verdict.hint
    assert "ebs-agent explain '$(reboot)'" in verdict.hint
    (failed,) = judge((look(0, is_read_only=True, is_emergency=True),), SUBJECT, ())
    assert "after an error" in failed.message
    assert "kernel log" in failed.hint


def test_intended_read_only() -> None:
    """Read-only is right where the policy says so."""
    assert find(look(0, is_read_only=True), subject=Subject("ckpt", is_read_only=True)) == []


def test_full_until_there_is_room() -> None:
    """Nearly full begins at 95 % and ends well below it, so writing about the limit does not flap."""
    avail = [6, 4.9, 5.1, 6.9, 7.1, 7.1, 7.1, 7.1, 7.1]
    seen = follow(*(look(n * 30, avail_bytes=int(a * GIB)) for n, a in enumerate(avail)))
    assert [Reason.NEARLY_FULL in reasons for reasons in seen[:4]] == [False, True, True, True]
    assert Reason.NEARLY_FULL not in seen[-1]


def test_forecast() -> None:
    """A volume at 85 % that will last minutes at its rate is nearly full, and says when it will be."""
    readings = [look(n * 15, avail_bytes=int((20 - n * 0.5) * GIB)) for n in range(11)]
    (verdict,) = judge(readings, SUBJECT)
    assert verdict.reason is Reason.NEARLY_FULL
    assert verdict.message == "/data/ckpt is 85% full: 15 GiB left, and will be full in 8 min at this rate."
    assert find(look(0, avail_bytes=20 * GIB), look(150, avail_bytes=19 * GIB)) == [Reason.NEARLY_FULL]
    assert find(look(0, avail_bytes=80 * GIB), look(150, avail_bytes=79 * GIB)) == []


def test_no_forecast_across_growth() -> None:
    """A filesystem that was grown in between has no rate to go by."""
    readings = [look(0, avail_bytes=20 * GIB), look(300, avail_bytes=19 * GIB, size_bytes=200 * GIB)]
    assert forecast_full_s(readings) is None


@pytest.mark.parametrize(
    ("counter", "reason", "word"),
    [
        ("exceeded_volume_iops_us", Reason.THROTTLED_BY_VOLUME, "--iops N"),
        ("exceeded_volume_throughput_us", Reason.THROTTLED_BY_VOLUME, "--throughput N"),
        ("exceeded_instance_iops_us", Reason.THROTTLED_BY_INSTANCE, "higher EBS IOPS limit"),
        ("exceeded_instance_throughput_us", Reason.THROTTLED_BY_INSTANCE, "higher EBS throughput limit"),
    ],
)
def test_throttled(counter: str, reason: Reason, word: str) -> None:
    """A limit that was hit for half of the last minute is named, with what would help."""
    done = Direction(30_000, 60 * 125 << 20, 0)
    readings = [work(0), work(60, read=done, **{counter: 30_000_000})]
    (verdict,) = judge(readings, SUBJECT)
    assert (verdict.reason, verdict.condition) == (reason, Condition.DEGRADED)
    assert "50%" in verdict.message
    assert word in verdict.hint
    assert find(work(0), work(60, read=done, **{counter: 5_000_000})) == []


@pytest.mark.parametrize(
    ("counter", "hint"),
    [
        ("exceeded_volume_iops_us", "--iops 9000"),
        ("exceeded_volume_throughput_us", "--throughput 750"),
    ],
)
def test_hint_never_makes_a_volume_slower(counter: str, hint: str) -> None:
    """A volume that hits its limit in bursts does little on average: it is given more than it has."""
    done = Direction(30_000, 60 * 125 << 20, 0)
    readings = [work(0), work(60, read=done, **{counter: 15_000_000})]
    (verdict,) = judge(readings, replace(SUBJECT, provisioned=Provisioned(6000, 500)))
    assert hint in verdict.hint


def test_attached_anew_is_not_throttled() -> None:
    """Counters that went back to zero say nothing about the time before."""
    before = work(0, read=Direction(100, 1, 1), exceeded_volume_iops_us=5)
    assert find(before, work(60, exceeded_volume_iops_us=60_000_000)) == []


def test_not_grown() -> None:
    """A filesystem that is to grow and for a minute has not is Degraded; growing takes seconds."""
    grows = Subject("ckpt", grows=True)
    readings = [
        replace(r, sample=r.sample and replace(r.sample, size_bytes=200 * GIB))
        for r in map(look, range(0, 91, 15))
    ]
    assert find(*readings[:3], subject=grows) == []
    assert find(*readings, subject=grows) == [Reason.NOT_GROWN]
    assert find(*readings, subject=SUBJECT) == []
    assert find(*readings, look(105, spans_bytes=101 * GIB), subject=grows) == []


def test_volume_that_is_only_read_needs_no_room() -> None:
    """Where the policy wants it read-only a volume may be full; one that only became so may not."""
    read_only = Subject("datasets", is_read_only=True)
    full = look(0, avail_bytes=0, files_free=0, is_read_only=True)
    assert find(full, subject=read_only) == []
    assert set(find(full)) == {Reason.READ_ONLY, Reason.FILES_FULL, Reason.NEARLY_FULL}


def test_wrong_timeout() -> None:
    """A shorter time-out than the longest is Degraded; of a device that has none there is nothing to say."""
    assert find(read(0, io_timeout_s=30)) == [Reason.WRONG_TIMEOUT]
    assert find(read(0, io_timeout_s=None)) == []


def test_worst_first() -> None:
    """What makes a volume unusable comes before what makes it worse."""
    readings = [read(0, io_timeout_s=30, mount=replace(MOUNT, is_read_only=True, avail_bytes=0))]
    assert find(*readings) == [Reason.READ_ONLY, Reason.NEARLY_FULL, Reason.WRONG_TIMEOUT]


MOUNTS = st.none() | st.builds(
    MountSample,
    path=st.just("/data"), fs_type=st.sampled_from(["ext4", "xfs", "btrfs"]), is_read_only=st.booleans(),
    is_emergency=st.booleans(), root_errno=st.none() | st.just(errno.EIO),
    write_errno=st.none() | st.just(errno.EROFS), size_bytes=st.integers(0, 1 << 60),
    avail_bytes=st.integers(0, 1 << 60), files=st.integers(0, 1 << 60), files_free=st.integers(0, 1 << 60),
    spans_bytes=st.none() | st.integers(0, 1 << 60), errors=st.none() | st.integers(0, 1 << 32),
)  # fmt: skip
NUMBERS = st.integers(0, (1 << 64) - 1)
COUNTS = st.none() | st.builds(BlockCounters, *[NUMBERS] * 9)
STATISTICS = st.none() | st.builds(
    EbsStatistics, *[st.builds(Direction, NUMBERS, NUMBERS, NUMBERS)] * 2, *[NUMBERS] * 5
)
SAMPLES = st.none() | st.builds(
    Sample, st.just(DeviceNumber(259, 0)), st.integers(0, 1 << 60), mount=MOUNTS,
    read_errno=st.none() | st.just(errno.EIO), io_timeout_s=st.none() | st.integers(0, 1 << 33),
)  # fmt: skip
READINGS = st.builds(Reading, st.just(0.0), SAMPLES, STATISTICS, COUNTS, st.booleans())


@given(
    steps=st.lists(st.tuples(st.floats(0.001, 1e4), READINGS), max_size=8),
    is_read_only=st.booleans(),
    grows=st.booleans(),
)
def test_any_readings(steps: list[tuple[float, Reading]], *, is_read_only: bool, grows: bool) -> None:
    """Whatever a device says, judging it gives sentences, once for each reason, and the same every time."""
    at, readings = 0.0, []
    last: tuple[Verdict, ...] = ()
    for pause_s, reading in steps:
        at += pause_s
        readings.append(replace(reading, at=at))
        again = judge(readings, Subject("v", is_read_only, grows), last)
        last = judge(readings, Subject("v", is_read_only, grows), last)
        assert again == last
        assert len({v.reason for v in last}) == len(last)
        assert {v.reason for v in last} <= RULES.keys()
        assert all(v.message.endswith(".") and v.hint for v in last)
