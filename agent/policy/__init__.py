"""The policy: what is wanted of every volume, as plain values. ``agent.policy.reading`` reads it.

policy.assign(volumes, node)        # what is wanted of each volume present

Its parts are imported when they are named: a face that only knows its own settings has no use for the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.policy.assignment import Assignment
    from agent.policy.matching import Candidate, Criterion, MatchExplanation
    from agent.policy.policy import (
        Policy,
        PolicyChange,
        describe_seen,
        diff_policies,
        tell_expiring,
        tell_leaving,
    )
    from agent.policy.policy_file import PolicyFile
    from agent.policy.yaml.problems import PolicyError, Problem

__all__ = [
    "Assignment",
    "Candidate",
    "Criterion",
    "MatchExplanation",
    "Policy",
    "PolicyChange",
    "PolicyError",
    "PolicyFile",
    "Problem",
    "describe_seen",
    "diff_policies",
    "tell_expiring",
    "tell_leaving",
]

_HOMES = {
    "Assignment": "assignment",
    "Candidate": "matching",
    "Criterion": "matching",
    "MatchExplanation": "matching",
    "PolicyError": "yaml.problems",
    "PolicyFile": "policy_file",
    "Problem": "yaml.problems",
}
"""The module that has each; all others are of ``policy``."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'policy')}"), name)
        globals()[name] = found
        return found
