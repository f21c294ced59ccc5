"""Waiting for what other processes and the kernel do: for a condition, never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

WAIT_S = 60.0
"""For what takes a second on an idle machine; test machines are not idle."""
_PAUSE_S = 0.02
"""Much less than anything takes that is waited for, and much more than asking does."""


def wait_until(is_reached: Callable[[], T | None], what: str, timeout_s: float = WAIT_S) -> T:
    """Return the first true answer of ``is_reached``, asking until then; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (answer := is_reached()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} within {timeout_s:g} s")
        time.sleep(_PAUSE_S)
    return answer


async def until(is_reached: Callable[[], T | None], timeout_s: float = WAIT_S) -> T:
    """Return the first true answer of ``is_reached``, asking until then; fail after ``timeout_s``."""
    with anyio.fail_after(timeout_s):
        while not (answer := is_reached()):  # noqa: ASYNC110 -- what is waited for sets no event
            await anyio.sleep(_PAUSE_S)
    return answer
