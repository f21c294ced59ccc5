from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.permissions.doctor_checks import examine_cloud
from tests.aws.cloud import CLUSTER_ARN
from tests.aws.faults import deny
from tests.aws.world import CREDENTIALS, World

POLICY = """
classes: {a: {type: gp3}}
volumes:
  - {name: one, claim: {class: a, size: 1GiB}, block: {}}
"""


@pytest.fixture
def surroundings(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> IdentitySources:
    node = world.add_node(1)
    path = tmp_path / "resource_config.json"
    instance = {
        "InstanceName": "compute-1",
        "CustomerIpAddress": "10.0.0.1",
        "InstanceId": node.identity.instance_id,
    }
    groups = [{"Name": "compute", "InstanceType": "ml.m5.xlarge", "Instances": [instance]}]
    config = {"ClusterConfig": {"ClusterArn": CLUSTER_ARN}, "InstanceGroups": groups}
    path.write_text(json.dumps(config), "utf-8")
    for name, value in {**CREDENTIALS, "EBS_AGENT_CLOUD_ENDPOINT": world.aws.endpoint}.items():
        monkeypatch.setenv(name, value)
    return IdentitySources(path, None, addresses=frozenset({"10.0.0.1"}))


async def test_doctor_tells_sources_and_permissions(
    world: World, surroundings: IdentitySources, tmp_path: Path
) -> None:
    """Each fact is told with its source, each permission with whether it is there, and nothing is changed."""
    world.use_policy(tmp_path, POLICY)
    world.aws.faults.add(deny("CreateVolume", "ec2:CreateVolume"))
    examined = {one.subject: one for one in await examine_cloud(world.policy, surroundings)}
    assert examined["instance name"].found == "compute-1 (resource_config.json)"
    assert examined["zone"].found == "us-west-2a (API)"
    assert examined["ec2:DescribeVolumes"].is_ok
    assert examined["ec2:DescribeVolumeStatus"].is_ok
    assert examined["ec2:DescribeInstanceTypes"].is_ok
    assert examined["instance type"].found == "m5.xlarge (resource_config.json)"
    assert examined["AWS role"].is_ok
    assert examined["AWS role"].found.startswith("arn:aws:")
    assert world.aws.calls["DescribeVolumeStatus"] == 0, "its dry run only"
    assert world.aws.calls["DescribeInstanceTypes"] == 0, "likewise"
    denied = examined["ec2:CreateVolume ec2:CreateTags"]
    assert denied.is_ok is False
    assert "execution role" in str(denied.mend)
    assert examined["ec2:ModifyVolume"].is_ok is None
    assert not world.cloud.volumes


async def test_missing_limits_are_one_finding(
    world: World, surroundings: IdentitySources, tmp_path: Path
) -> None:
    """Who may not ask what the instance can do is told so here, with the action."""
    world.use_policy(tmp_path, POLICY)
    world.aws.faults.add(deny("DescribeInstanceTypes", "ec2:DescribeInstanceTypes"))
    examined = await examine_cloud(world.policy, surroundings)
    assert [one.subject for one in examined if one.is_ok is False] == ["ec2:DescribeInstanceTypes"]


async def test_dry_run_changes_nothing(world: World, surroundings: IdentitySources, tmp_path: Path) -> None:
    """What is tried by dry run is not done, and is told to be allowed."""
    world.use_policy(tmp_path, POLICY)
    tags = {
        "ebs-agent:made-by": "ebs-agent",
        "ebs-agent:cluster": "abcde01234yz",
        "ebs-agent:node": "compute-1",
    }
    volume = world.cloud.make_volume(tags=tags)
    examined = {one.subject: one for one in await examine_cloud(world.policy, surroundings)}
    assert examined["ec2:CreateVolume ec2:CreateTags"].is_ok
    assert examined["ec2:ModifyVolume"].is_ok
    assert list(world.cloud.volumes) == [volume]
    assert world.cloud.volumes[volume].size == 1


async def test_nothing_is_asked_for_nothing(
    world: World, surroundings: IdentitySources, tmp_path: Path
) -> None:
    """A policy that needs nothing of AWS is examined without a single call."""
    world.use_policy(tmp_path, "agent: {cloud: {enabled: false}}\n" + POLICY)
    examined = await examine_cloud(world.policy, surroundings)
    assert examined[-1].found == "the policy asks nothing of it"
    assert not world.aws.calls
