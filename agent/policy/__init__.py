"""The policy: one file that says what is wanted of every volume. Pure but for reading that file.

policy = load_policy(path)          # or PolicyError, with every problem's line and column
policy.assign(volumes, node)        # what is wanted of each volume present
"""

from __future__ import annotations

from agent.policy.assignment import Assignment
from agent.policy.loading import PolicyFile, check_policy, load_policy, read_policy
from agent.policy.matching import Candidate, Criterion, MatchExplanation
from agent.policy.policy import (
    Policy,
    PolicyChange,
    describe_seen,
    diff_policies,
    policy_schema,
    tell_expiring,
    tell_leaving,
)
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
    "check_policy",
    "describe_seen",
    "diff_policies",
    "load_policy",
    "policy_schema",
    "read_policy",
    "tell_expiring",
    "tell_leaving",
]
