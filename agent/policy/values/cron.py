"""Schedules in cron's five fields, read strictly, in UTC.

Not cronsim: it takes seconds, ``L`` and ``#`` too, and a step of 90 minutes, and does not take ``sat-sun``;
it says which field is bad, and not what may stand there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from msgspec import Struct

from agent.core.errors import InvalidValueError
from agent.core.quoting import quote

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, Sequence[str]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_SEARCH_DAYS = 366 * 8
"""29 February comes back within eight years."""


class Schedule(Struct, frozen=True):
    """The minutes, in UTC, at which something is due."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    is_either_day: bool
    """Days of the month and of the week are both restricted: either is enough, as in every cron."""

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read ``"0 */6 * * *"``. Raises InvalidValueError."""
        words = text.lower().split()
        if len(words) != len(_FIELDS) or len(text) > 200:  # noqa: PLR2004 - five fields need far less
            raise InvalidValueError(
                f"{quote(text)} is not a schedule.",
                hint="A schedule has five fields, minute hour day month weekday: 0 */6 * * *",
            )
        minutes, hours, days, months, weekdays = (
            _parse_field(word, *field) for word, field in zip(words, _FIELDS, strict=True)
        )
        schedule = cls(
            text,
            minutes,
            hours,
            days,
            months,
            frozenset(day % 7 for day in weekdays),
            is_either_day=not words[2].startswith("*") and not words[4].startswith("*"),
        )
        if schedule.find_next(datetime(2000, 1, 1, tzinfo=timezone.utc)) is None:
            raise InvalidValueError(f"{quote(text)} never comes: no month has such a day.")
        return schedule

    def find_next(self, after: datetime) -> datetime | None:
        """Return the first due minute later than ``after`` (any time zone), in UTC."""
        start = after.astimezone(timezone.utc).replace(second=0, microsecond=0) + timedelta(minutes=1)
        midnight = start.replace(hour=0, minute=0)
        for _ in range(_SEARCH_DAYS):
            due = next((due for due in self._list_due(midnight) if due >= start), None)
            if due is not None:
                return due
            midnight += timedelta(days=1)
        return None

    def find_last(self, until: datetime, since: datetime) -> datetime | None:
        """Return the last due minute later than ``since`` and no later than ``until``, in UTC."""
        midnight = until.astimezone(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
        while midnight + timedelta(days=1) > since:
            due = next((due for due in reversed(self._list_due(midnight)) if due <= until), None)
            if due is not None:
                return due if due > since else None
            midnight -= timedelta(days=1)
        return None

    def _list_due(self, midnight: datetime) -> list[datetime]:
        """Return the due minutes of the day that begins at ``midnight``, in order."""
        if not self._has_day(midnight):
            return []
        return [
            midnight.replace(hour=hour, minute=minute)
            for hour in sorted(self.hours)
            for minute in sorted(self.minutes)
        ]

    def _has_day(self, day: datetime) -> bool:
        is_day = day.day in self.days
        is_weekday = day.isoweekday() % 7 in self.weekdays
        is_due = is_day or is_weekday if self.is_either_day else is_day and is_weekday
        return is_due and day.month in self.months


def _parse_field(text: str, name: str, low: int, high: int, words: Sequence[str]) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        first_text, dash, last_text = span.partition("-")
        if span == "*":
            first, last = low, high
        else:
            first = _parse_value(first_text, name, low, high, words)
            last = _parse_value(last_text, name, low, high, words) if dash else high if slash else first
            if words is _DAYS and last == 0 < first:
                last = 7  # a week may end on a Sunday: sat-sun
        step = _parse_value(step_text, f"step of the {name}", 1, high, ()) if slash else 1
        if first > last:
            raise InvalidValueError(f"In the {name}, {quote(span, 20)} ends before it begins.")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _parse_value(text: str, name: str, low: int, high: int, words: Sequence[str]) -> int:
    if text in words:
        return words.index(text) + (low if words is _MONTHS else 0)
    if text.isascii() and text.isdigit() and len(text) <= 2 and low <= int(text) <= high:  # noqa: PLR2004
        return int(text)
    raise InvalidValueError(
        f"{quote(text, 20)} is not a {name}.", hint=f"It is a number from {low} to {high}."
    )
