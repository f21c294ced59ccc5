"""Lists every call the worker may be asked to make: what these modules declare, and no other."""

from __future__ import annotations

from typing import Any

from agent.cloud import asking, calls, copying
from agent.cloud.call import Call

ALL_CALLS: tuple[type[Call[Any]], ...] = tuple(
    declared
    for module in (asking, calls, copying)
    for _, declared in sorted(vars(module).items())
    if isinstance(declared, type) and issubclass(declared, Call) and declared.__module__ == module.__name__
)
