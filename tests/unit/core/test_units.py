from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.errors import InvalidValueError
from agent.core.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    SIZE_RANGE_PATTERN,
    SizeRange,
    find_time,
    format_size,
    parse_duration,
    parse_size,
    parse_time,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1B", 1),
        ("4KiB", 4096),
        ("4MiB", 4 << 20),
        ("500GiB", 500 << 30),
        ("500 GiB", 500 << 30),
        ("64TiB", 64 << 40),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    """A size is a whole number with a unit, in powers of 1024."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("500", "with a unit"),
        ("500GB", "500GiB?"),
        ("500G", "500GiB?"),
        ("500gib", "500GiB?"),
        ("5T", "5TiB?"),
    ]
    + [
        (bad, "whole numbers")
        for bad in ("", "GiB", "-1GiB", "1.5TiB", "1e3GiB", "0x1GiB", "\u0661GiB", "1GiB\n", "1" * 40 + "B")
    ],
)
def test_what_is_no_size_is_answered_with_what_is(text: str, words: str) -> None:
    """A missing or decimal unit is an error that says what to write."""
    with pytest.raises(InvalidValueError) as caught:
        parse_size(text)
    assert caught.value.hint is not None
    assert words in caught.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("60s", 60), ("5m", 300), ("6h", 21600), ("7d", 604800), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a whole number with a unit."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["60", "1.5h", "-1s", "1h30m", "s", "5min", "5 weeks", ""])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "inside", "outside", "words"),
    [
        ("500GiB", [500 << 30], [(500 << 30) - 1, (500 << 30) + 1], "exactly 500GiB"),
        (">=1TiB", [1 << 40, 2 << 40], [(1 << 40) - 1], "at least 1TiB"),
        ("<= 1TiB", [0, 1 << 40], [(1 << 40) + 1], "at most 1TiB"),
        ("1GiB..2GiB", [1 << 30, 2 << 30], [(1 << 30) - 1, (2 << 30) + 1], "1GiB to 2GiB"),
        ("1GiB .. 2GiB", [1 << 30], [0], "1GiB to 2GiB"),
    ],
)
def test_ranges_include_their_ends(text: str, inside: list[int], outside: list[int], words: str) -> None:
    """A range of sizes holds what it says."""
    sizes = SizeRange.parse(text)
    assert all(size in sizes for size in inside)
    assert not any(size in sizes for size in outside)
    assert sizes.describe() == words
    assert re.search(SIZE_RANGE_PATTERN, text)


@pytest.mark.parametrize(
    "text", ["", ">1GiB", ">=", "2GiB..1GiB", "..1GiB", "1GiB..", "1GiB...2GiB", "1GiB-2GiB"]
)
def test_what_is_no_range(text: str) -> None:
    """A range that is half or empty is refused."""
    with pytest.raises(InvalidValueError):
        SizeRange.parse(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (500 << 30, "500 GiB"),
        (64 << 40, "64 TiB"),
    ],
)
def test_size_reads_like_the_policy(size_bytes: int, text: str) -> None:
    """Sizes are shown with the binary units the policy is written in."""
    assert show_size(size_bytes) == text


@given(st.integers(0, 1 << 60))
def test_sizes_are_shown_as_they_are_written(size_bytes: int) -> None:
    """A size shown without a fraction can be written back."""
    shown = format_size(size_bytes)
    if "." not in shown and len(shown) < 10:
        assert parse_size(shown) == size_bytes


@example(" 0B")
@example(">=  1GiB")
@example("1GiB  ..  2GiB")
@given(st.text("0123456789 .<>=BKMGTiBsmhd", max_size=14))
def test_patterns_for_editors_agree_with_the_parsers(text: str) -> None:
    """An editor accepts what the agent accepts, and nothing else, but for ranges that end too early."""
    for parse, pattern in (
        (parse_size, SIZE_PATTERN),
        (parse_duration, DURATION_PATTERN),
        (SizeRange.parse, SIZE_RANGE_PATTERN),
    ):
        try:
            parse(text)
            is_read = True
        except InvalidValueError as error:
            is_read = "ends before it begins" in error.message
        assert bool(re.search(pattern.replace("$", r"\Z"), text)) == is_read, pattern


NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-02T12:00:00Z", NOON),
        ("2026-01-02T12:00:00", NOON),
        ("2026-01-02T14:00:00+02:00", NOON),
        ("2026-01-02T12:00:00.000250Z", NOON + timedelta(microseconds=250)),
    ],
)
def test_times(text: str, at: datetime) -> None:
    """A time has a zone, and that is UTC where it names none."""
    assert parse_time(text) == at
    assert find_time(text) == at


@pytest.mark.parametrize("text", ["", "Z", "now", "2026-13-02T12:00:00Z", "1767355200", "\0"])
def test_texts_that_are_no_times(text: str) -> None:
    """Somebody else's text that is no time is none; one of the agent's own raises."""
    assert find_time(text) is None
    with pytest.raises(ValueError, match=r"isoformat|month"):
        parse_time(text)
