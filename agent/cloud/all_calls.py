"""Lists every call the worker may be asked to make: what ``calls`` declares. Of any other it makes none."""

from __future__ import annotations

from typing import Any

from agent.cloud import calls
from agent.cloud.call import Call

ALL_CALLS: tuple[type[Call[Any]], ...] = tuple(
    declared
    for _, declared in sorted(vars(calls).items())
    if isinstance(declared, type) and issubclass(declared, Call) and declared.__module__ == calls.__name__
)
