"""Lists that are read page by page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controller.pages import ENTRIES, IDLE_S, Pages
from agent.core.errors import OvertakenError


@given(count=st.integers(0, 40), most=st.integers(1, 50))
def test_all_pages_together_are_the_list(count: int, most: int) -> None:
    pages: Pages[int] = Pages()
    page = pages.begin(range(count), most)
    read = list(page.entries)
    while page.next_token is not None:
        page = pages.turn(page.next_token, most)
        assert 0 < len(page.entries) <= most
        read += page.entries
    assert read == list(range(count))


@pytest.mark.parametrize("token", ["", ".", "x.1", "x", "-1", "..", "x.99999999999999999999", "x.\u0661"])
def test_a_token_of_nobody_is_to_begin_anew(token: str) -> None:
    with pytest.raises(OvertakenError, match="not known any more"):
        Pages[int]().turn(token, 1)


def test_a_place_outside_the_list_is_to_begin_anew() -> None:
    pages: Pages[int] = Pages()
    token = pages.begin(range(3), 1).next_token
    assert token is not None
    name, _, _ = token.partition(".")
    for place in ("4", "-1", "1e0", "\u0662"):
        with pytest.raises(OvertakenError):
            pages.turn(f"{name}.{place}", 1)


def _begin(pages: Pages[int], entries: int = 9) -> str:
    token = pages.begin(range(entries), 1).next_token
    assert token is not None
    return token


def test_of_long_lists_only_so_much_is_kept_and_the_last_one_always() -> None:
    pages: Pages[int] = Pages()
    first, second, third = (_begin(pages, ENTRIES // 2) for _ in range(3))
    with pytest.raises(OvertakenError):
        pages.turn(first, 1)
    assert pages.turn(second, 1).entries == pages.turn(third, 1).entries == (1,)
    longest = _begin(pages, ENTRIES * 2)
    with pytest.raises(OvertakenError):
        pages.turn(third, 1)
    assert pages.turn(longest, 1).entries == (1,)


def test_the_list_that_is_being_read_outlasts_one_that_was_left() -> None:
    pages: Pages[int] = Pages()
    read, left = _begin(pages, ENTRIES // 2), _begin(pages, ENTRIES // 2)
    pages.turn(read, 1)
    _begin(pages)
    assert pages.turn(read, 1).entries == (1,)
    with pytest.raises(OvertakenError):
        pages.turn(left, 1)


def test_a_list_that_nobody_goes_on_with_is_given_up() -> None:
    now_s = 0.0
    pages: Pages[int] = Pages(lambda: now_s)
    left, read = _begin(pages), _begin(pages)
    now_s = IDLE_S
    pages.turn(read, 1)
    now_s += 1
    with pytest.raises(OvertakenError):
        pages.turn(left, 1)
    assert pages.turn(read, 1).entries == (1,)


def test_a_list_that_is_read_to_its_end_takes_no_room() -> None:
    """Whoever asks for the last page once more begins anew."""
    pages: Pages[int] = Pages()
    others = [_begin(pages) for _ in range(3)]
    token = _begin(pages, ENTRIES - 30)
    assert pages.turn(token, None).next_token is None
    _begin(pages, ENTRIES - 30)
    assert [pages.turn(one, 1).entries for one in others] == [(1,)] * 3
    with pytest.raises(OvertakenError):
        pages.turn(token, None)
