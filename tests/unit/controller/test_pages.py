"""Lists that are read page by page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controller.pages import LISTS, Pages
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


def test_only_so_many_lists_are_kept() -> None:
    pages: Pages[int] = Pages()
    first = pages.begin(range(9), 1).next_token
    assert first is not None
    others = [pages.begin(range(9), 1).next_token for _ in range(LISTS)]
    with pytest.raises(OvertakenError):
        pages.turn(first, 1)
    assert others[0] is not None
    assert pages.turn(others[0], 1).entries == (1,)
