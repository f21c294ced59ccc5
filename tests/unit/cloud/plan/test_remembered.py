"""Which volume a claim has before AWS was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.plan.claims.remembered import recall_claimed
from agent.cloud.plan.decisions import AttachApi, NodeView
from agent.cloud.state.made_volumes import Makings, MemoryStore
from agent.core.model import VolumeId
from agent.policy.reading import load_policy

OWN, SHARED = VolumeId("vol-0aaaaaaaaaaaaaaa0"), VolumeId("vol-0bbbbbbbbbbbbbbb0")
ARN = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
HYPERPOD = CloudIdentity(instance_name="compute-1", instance_id="i-0123456789abcdef0", cluster_arn=ARN)
ALONE = CloudIdentity(instance_id="i-0123456789abcdef0")
NOBODY = CloudIdentity()
POLICY = """
version: 1
classes: {a: {type: gp3}}
volumes:
  - {name: own, claim: {class: a, size: 1GiB}, block: {}}
  - {name: shared, claim: {class: a, size: 1GiB, per: cluster}, block: {}}
  - {name: other, match: {volume_id: vol-0ccccccccccccccc0}, block: {}}
"""


def remember(**claims: Any) -> Makings:
    """Return what an earlier process left, by key with ``/`` written ``__``."""
    kept = {"generation": 0, "is_seen": True, "lost": [], "has_vanished": False}
    kept |= {"on_delete": "retain", "taking": None, "volume_id": OWN}
    store = MemoryStore()
    shown = {key.replace("__", "/"): kept | more for key, more in claims.items()}
    store.content = json.dumps({"version": 1, "claims": shown}).encode()
    return Makings(store)


@pytest.mark.parametrize(
    ("identity", "found"),
    [
        (HYPERPOD, {"own": OWN, "shared": SHARED}),
        (ALONE, {"own": SHARED}),
        (NOBODY, {}),
        (CloudIdentity(instance_name="compute-2", instance_id="i-0", cluster_arn=ARN), {"shared": SHARED}),
    ],
    ids=["a node of HyperPod", "an ordinary instance", "not known", "another node"],
)
def test_claims_of_this_node_and_its_cluster_are_recalled(
    tmp_path: Path, identity: CloudIdentity, found: dict[str, VolumeId]
) -> None:
    """What is remembered for another node, another cluster or another claim is not this one's."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    policy = load_policy(tmp_path / "policy.yaml")
    makings = remember(
        **{
            "abcde01234yz__compute-1__own": {},
            "abcde01234yz__*__shared": {"volume_id": SHARED},
            "abcde01234yz__compute-1__gone": {},
            "none__i-0123456789abcdef0__own": {"volume_id": SHARED},
            "zyxwv43210ba__*__shared": {},
        }
    )
    assert recall_claimed(policy.volumes, NodeView(identity, AttachApi.NONE), makings) == found


@pytest.mark.parametrize("state", [{"is_seen": False}, {"volume_id": None}, {"is_doubted": True}])
def test_what_aws_did_not_describe_as_the_claims_is_not_recalled(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    """What was asked for may have come to nothing, and what bears no marks any more may be another's."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    policy = load_policy(tmp_path / "policy.yaml")
    makings = remember(**{"abcde01234yz__compute-1__own": state})
    assert recall_claimed(policy.volumes, NodeView(HYPERPOD, AttachApi.NONE), makings) == {}
