"""Reads a policy file: to a value, or to everything that is wrong with it. No other room imports pydantic.

policy = load_policy(path)          # or PolicyError, with every problem's line and column
"""

from __future__ import annotations

from agent.policy.reading.loading import check_policy, load_policy, read_policy
from agent.policy.reading.schema import policy_schema

__all__ = ["check_policy", "load_policy", "policy_schema", "read_policy"]
