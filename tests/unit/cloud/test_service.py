"""Whether AWS is asked about volumes at all, which is known before it is known who this node is."""

from __future__ import annotations

import pytest

from agent.cloud.service import may_be_wanted
from agent.model import NodeFacts
from tests.unit.policy.samples import VOL_A, make_policy

NAMED = f"{{name: a, match: {{volume_id: {VOL_A}}}, block: {{}}}}"
GROUPED = f"{{name: a, match: {{volume_id: {VOL_A}, instance_group: gpu}}, block: {{}}}}"
BROAD = "{name: a, match: {size: 1GiB}, block: {}}"
KNOWN = NodeFacts(instance_id="i-0123456789abcdef0")


@pytest.mark.parametrize(
    ("enabled", "entry", "facts", "is_ec2", "has_standins", "expected"),
    [
        ("true", BROAD, NodeFacts(), False, True, True),
        ("false", NAMED, KNOWN, True, False, False),
        ("auto", NAMED, KNOWN, False, False, True),
        ("auto", NAMED, NodeFacts(), True, False, True),
        ("auto", NAMED, NodeFacts(), False, False, False),
        ("auto", NAMED, NodeFacts(), True, True, False),
        ("auto", GROUPED, NodeFacts(), True, False, True),
        ("auto", GROUPED, KNOWN, True, False, False),
        ("auto", BROAD, KNOWN, True, False, False),
    ],
    ids=[
        "told to",
        "told not to",
        "a node of AWS's, known",
        "a node of AWS's, not known yet",
        "a machine that is none",
        "files that stand in",
        "the group may be this node's",
        "the group is not known, and its entries are for nobody",
        "nothing to ask",
    ],
)
def test_volumes_wait_where_aws_is_asked_or_will_be(
    enabled: str, entry: str, facts: NodeFacts, *, is_ec2: bool, has_standins: bool, expected: bool
) -> None:
    """A node that does not know yet that it is one of AWS's must not format what it would ask about."""
    policy = make_policy(f"agent: {{cloud: {{enabled: {enabled}}}}}\nvolumes: [{entry}]\n")
    assert may_be_wanted(policy, facts, has_standins=has_standins, is_ec2=is_ec2) is expected
