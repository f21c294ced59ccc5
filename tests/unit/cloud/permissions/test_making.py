"""What every printed policy allows to make: only what carries the tag of who made it, from its beginning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.permissions.csi_policy import OWNER_TAG, make_controller_policy
from agent.cloud.permissions.iam_policy import make_iam_policy
from agent.cloud.plan.decisions import AttachApi
from tests.aws.wildcards import is_matching
from tests.unit.policy.samples import make_policy

NOWHERE = CloudIdentity()
HERE = CloudIdentity(region="us-west-2", account="111122223333", partition="aws")
EVERYTHING = """
classes: {c: {}}
volumes:
  - {name: blank, claim: {class: c, size: 5GiB, on_delete: snapshot}, block: {}}
  - {name: copy, claim: {class: c, from: vol-0123456789abcdef0}, block: {}}
  - {name: restored, claim: {class: c, from: snap-0123456789abcdef0}, block: {}}
  - name: kept
    claim: {class: c, size: 5GiB, on_delete: delete}
    block: {}
    snapshots:
      schedule: "0 3 * * *"
      keep: 3
      lock: {mode: governance, duration: 1d}
      fast_restore_zones: [us-west-2a]
"""
MADE = {
    "ec2:CreateVolume": "arn:aws:ec2:us-west-2:111122223333:volume/*",
    "ec2:CopyVolumes": "arn:aws:ec2:us-west-2:111122223333:volume/*",
    "ec2:CreateSnapshot": "arn:aws:ec2:us-west-2::snapshot/*",
}
"""What each action makes, as IAM is asked for it: it has no ID yet."""
NODES = ("ebs-agent:made-by", "ebs-agent")
CONTROLLER = (OWNER_TAG, "true")


def print_for_nodes(identity: CloudIdentity) -> dict[str, Any]:
    return make_iam_policy(make_policy(EVERYTHING), identity, AttachApi.HYPERPOD, AttachApi.EC2)


def list_makings(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each action that makes something with each statement that allows it for what is made."""
    for statement in document["Statement"]:
        for action in statement["Action"]:
            if action in MADE and is_matching(MADE[action], statement["Resource"]):
                yield action, statement


@pytest.mark.parametrize("identity", [NOWHERE, HERE])
@pytest.mark.parametrize(
    ("make", "tag"),
    [(print_for_nodes, NODES), (make_controller_policy, CONTROLLER)],
    ids=["nodes", "controller"],
)
def test_what_makes_something_has_to_tag_it(
    make: Callable[[CloudIdentity], dict[str, Any]], tag: tuple[str, str], identity: CloudIdentity
) -> None:
    """No statement allows a new volume or snapshot without the tag, and each can be made with it."""
    key, value = tag
    found = list(list_makings(make(identity)))
    assert {action for action, _ in found} == MADE.keys()
    for action, statement in found:
        assert statement.get("Condition") == {"StringEquals": {f"aws:RequestTag/{key}": value}}, action


@pytest.mark.parametrize("make", [print_for_nodes, make_controller_policy])
def test_no_other_action_makes_anything(make: Callable[[CloudIdentity], dict[str, Any]]) -> None:
    """What tags may be given to as it is made is all that is made."""
    document = make(HERE)
    actions = {action for statement in document["Statement"] for action in statement["Action"]}
    assert {action for action in actions if re.match("[a-z0-9]+:(Create|Copy|Run|Import)", action)} == {
        *MADE,
        "ec2:CreateTags",
    }
    tagged = {
        statement["Condition"]["StringEquals"].get("ec2:CreateAction")
        for statement in document["Statement"]
        if "ec2:CreateTags" in statement["Action"] and "StringEquals" in statement["Condition"]
    }
    assert {f"ec2:{action}" for action in tagged if action} == MADE.keys()
