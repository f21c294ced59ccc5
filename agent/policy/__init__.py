"""The policy: what is wanted of every volume, as plain values. ``agent.policy.reading`` reads it.

policy.assign(volumes, node)        # what is wanted of each volume present
"""

from __future__ import annotations

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
