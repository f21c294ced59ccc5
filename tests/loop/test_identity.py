"""A node that learns late which one it is, with AWS off: its volumes get their places then."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.waiting import wait_until

VOLUME, RAW = "vol-0123456789abcdef0", "vol-0123456789abcdef1"
ARN = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
INSTANCE = {
    "InstanceName": "compute-1",
    "CustomerIpAddress": "127.0.0.1",
    "InstanceId": "i-0123456789abcdef0",
}


@pytest.fixture
def config(scratch: Scratch, agent: AgentProcess) -> Path:
    """Return where the cluster's file will be; nothing else tells who this node is."""
    config = scratch.base / "resource_config.json"
    agent.environment["SAGEMAKER_RESOURCE_CONFIG_PATH"] = str(config)
    return config


def tell(config: Path) -> None:
    """Have the cluster's file be there, whole from the beginning."""
    group = {"Name": "compute", "InstanceType": "ml.p5.48xlarge", "Instances": [INSTANCE]}
    written = config.with_suffix(".new")
    written.write_text(
        json.dumps({"ClusterConfig": {"ClusterArn": ARN, "ClusterName": "c"}, "InstanceGroups": [group]})
    )
    written.rename(config)


def read_mode(device: str) -> int:
    return stat.S_IMODE(Path(device).stat().st_mode)


def test_path_is_made_once_the_node_knows_itself(scratch: Scratch, agent: AgentProcess, config: Path) -> None:
    """The file comes after the agent, and nobody reloads anything."""
    entry = {
        "name": "ckpt",
        "match": {"volume_id": VOLUME},
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(scratch.data / "{instance_group}" / "{instance_name}")},
    }
    scratch.write_policy(entry, cloud={"enabled": False}, resync="1h")
    scratch.add_volume(VOLUME)
    agent.start()
    message = agent.wait_condition(VOLUME, "Failed", "PathNotAllowed")["message"]
    assert "instance_group is not known" in message
    tell(config)
    status = agent.wait_condition(VOLUME, "Ready")
    assert status["path"] == str(scratch.data / "compute" / "compute-1")


def test_raw_volume_stays_handed_out_until_the_node_knows_itself(
    scratch: Scratch, agent: AgentProcess, config: Path
) -> None:
    """Over a restart after which nothing tells the node's group; taken back once that is another."""
    entry = {
        "name": "raw",
        "match": {"size": "512MiB", "instance_group": "compute"},
        "block": {"mode": "0666"},
    }
    scratch.write_policy(entry, cloud={"enabled": False}, resync="1h")
    scratch.add_volume(RAW)
    tell(config)
    agent.start()
    device = agent.wait_condition(RAW, "Ready")["device"]
    link = scratch.paths.dev_ebs / "raw"
    before = link.lstat().st_ino, read_mode(device)
    agent.stop()
    told = config.read_text()
    config.unlink()
    agent.start()
    agent.wait_condition(RAW, "Unmanaged")
    assert (link.lstat().st_ino, read_mode(device)) == before
    config.write_text(told.replace('"Name": "compute"', '"Name": "other"'))
    wait_until(lambda: not link.is_symlink(), "the link is taken back")
    wait_until(lambda: read_mode(device) != 0o666, "the mode is what it was")
