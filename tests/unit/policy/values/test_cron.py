from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import InvalidValueError
from agent.policy.values.cron import Schedule

START = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)  # a Sunday


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("0 */6 * * *", "2026-03-01T18:00"),
        ("* * * * *", "2026-03-01T12:31"),
        ("30 12 * * *", "2026-03-02T12:30"),
        ("0 0 1 * *", "2026-04-01T00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("0 3 * * mon-fri", "2026-03-02T03:00"),
        ("0 3 * * 7", "2026-03-08T03:00"),
        ("0 3 * * sat-sun", "2026-03-07T03:00"),
        ("0 3 * * 5-7", "2026-03-06T03:00"),
        ("0 0 13 * fri", "2026-03-06T00:00"),
        ("5,10-20/5 4 * jun,jul *", "2026-06-01T04:05"),
        ("15 5/12 * * *", "2026-03-01T17:15"),
    ],
)
def test_the_next_time_is_the_first_later_one(text: str, due: str) -> None:
    """Schedules mean what cron's mean, in UTC."""
    found = Schedule.parse(text).find_next(START)
    assert found is not None
    assert found.isoformat(timespec="minutes").removesuffix("+00:00") == due


@pytest.mark.parametrize(
    "text",
    [
        "",
        "daily",
        "@daily",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "-1 * * * *",
        "a * * * *",
        "0 0 31 2 *",
        "1,,2 * * * *",
        "² * * * *",
    ],
)
def test_what_never_comes_or_is_no_schedule(text: str) -> None:
    """A schedule that would silently take no snapshot is refused."""
    with pytest.raises(InvalidValueError):
        Schedule.parse(text)


@given(st.text("0123456789*/-, abcmonjan", max_size=30))
def test_schedules_are_read_or_refused(text: str) -> None:
    """Any text is a schedule with a next time, or an InvalidValueError."""
    try:
        schedule = Schedule.parse(text)
    except InvalidValueError:
        return
    found = schedule.find_next(START)
    assert found is not None
    assert found >= START + timedelta(minutes=1)


@given(
    st.sampled_from(["* * * * *", "0 */6 * * *", "7 3 * * sun", "15 5/12 13 * fri", "59 23 31 * *"]),
    st.integers(0, 4 * 366 * 1440).map(lambda minutes: START + timedelta(days=-730, minutes=minutes)),
)
def test_the_last_time_is_the_one_that_next_leads_to(text: str, until: datetime) -> None:
    """Backwards and forwards agree: nothing is due between the last time and the moment asked about."""
    schedule = Schedule.parse(text)
    since = until - timedelta(days=1)
    last = schedule.find_last(until, since)
    following = schedule.find_next(until)
    assert following is not None
    if last is None:
        first = schedule.find_next(since)
        assert first is not None
        assert first > until
    else:
        assert since < last <= until
        assert schedule.find_next(last) == following
