"""Lists every call the worker may be asked to make: what these modules declare, and no other."""

from __future__ import annotations

from typing import Any

from agent.cloud.aws import calls, instance_types, making_calls, snapshot_models, volume_status, zones
from agent.cloud.aws.call import Call

ALL_CALLS: tuple[type[Call[Any]], ...] = tuple(
    declared
    for module in (volume_status, instance_types, zones, snapshot_models, calls, making_calls)
    for _, declared in sorted(vars(module).items())
    if isinstance(declared, type) and issubclass(declared, Call) and declared.__module__ == module.__name__
)
