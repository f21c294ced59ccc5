"""A blank volume waits for what AWS says of it, whenever it comes; what AWS once said outlasts everything.

And nothing that AWS says of a volume is taken for a proof of what is on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aws.faults import Fault
from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer
from tests.loop.cluster_node import ClusterNode
from tests.waiting import wait_until

SOURCE = "vol-00000000000000000"
MIB = 1 << 20


@pytest.fixture
def node(short_path: Path, aws: AwsServer, files: FileVolumes) -> Iterator[ClusterNode]:
    node = ClusterNode(short_path / "node", aws, files, "i-00000000000000001", "compute-1")
    yield node
    node.end()


def fail(code: str, status: int = 503) -> Fault:
    """Return what an endpoint answers with for as long as it is not cleared."""
    return Fault("DescribeVolumes", code=code, message=code, status=status, times=1_000_000)


def make_entry(node: ClusterNode, **match: Any) -> dict[str, Any]:
    return {
        "name": "data",
        "match": match,
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(node.scratch.data / "data")},
    }


def write_policy(node: ClusterNode, entry: dict[str, Any], **cloud: Any) -> None:
    node.scratch.write_policy(entry, cloud={"enabled": True, **cloud}, resync="1h")


def make_blank(aws: AwsServer, **origin: Any) -> str:
    """Make a volume that reads blank, whatever it was made from; returns its ID."""
    return aws.cloud.make_volume(1, **origin)


def attach(node: ClusterNode, aws: AwsServer, volume: str) -> Path:
    """Let the volume's device appear on the node; returns the file behind it."""
    aws.cloud.hooks.attach(volume, node.instance_id, "")
    return node.scratch.image(volume)


def is_blank(image: Path) -> bool:
    """Tell whether nothing was ever written to a volume: its file has no block."""
    return image.stat().st_blocks == 0


def count_looks(node: ClusterNode, aws: AwsServer) -> None:
    """Return once AWS was asked in vain twice more, so that what follows from it has happened."""
    before = aws.calls["DescribeVolumes"]
    node.agent.client.reconcile(None)
    wait_until(lambda: aws.calls["DescribeVolumes"] >= before + 2, "AWS was asked twice more")


@pytest.mark.parametrize(
    ("code", "reason", "is_copy"),
    [("RequestLimitExceeded", "WaitingForCloud", False), ("AuthFailure", "PermissionDenied", True)],
)
def test_volume_attached_while_aws_fails_is_not_formatted_before_it_answers(
    node: ClusterNode,
    aws: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    reason: str,
    *,
    is_copy: bool,
) -> None:
    """Neither at the first failure nor at a later one; once AWS answers, it is refused for good."""
    made_from = SOURCE if is_copy else aws.cloud.ec2.create_snapshot(make_blank(aws), "").id
    volume = make_blank(aws, **{"source_volume_id" if is_copy else "snapshot_id": made_from})
    aws.faults.add(fail(code))
    write_policy(node, make_entry(node, volume_id=volume))
    node.start(monkeypatch)
    wait_until(lambda: aws.calls["DescribeVolumes"] >= 1, "AWS was asked before the volume came")
    image = attach(node, aws, volume)
    # Before it came it was waited for, in other words.
    wait_until(lambda: "since 20" in node.agent.status(volume).get("message", ""), "its origin is asked for")
    status = node.agent.wait_condition(volume, "Pending", reason)
    assert "format_without_origin_after" in status["hint"]
    count_looks(node, aws)
    assert node.agent.status(volume)["reason"] == reason
    assert is_blank(image)
    aws.faults.clear()
    status = node.agent.wait_condition(volume, "Refused", "FromSnapshot")
    assert made_from in status["message"]
    assert is_blank(image)


def test_limit_of_the_policy_ends_the_waiting(
    node: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume of which nothing was ever said is formatted then, though nothing else happens."""
    volume = make_blank(aws)
    aws.faults.add(fail("InternalError"))
    write_policy(node, make_entry(node, volume_id=volume), format_without_origin_after="4s")
    attach(node, aws, volume)
    node.start(monkeypatch)
    node.wait_ready("data")
    (told,) = node.agent.read_events("volume.origin_unknown")
    assert told["volume_id"] == volume


def test_reload_that_turns_the_cloud_on_makes_volumes_wait(
    node: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that was here all the time is asked about before it is formatted, however long it was here."""
    volume = make_blank(aws, source_volume_id=SOURCE)
    never = {**make_entry(node, volume_id=volume), "filesystem": {"type": "ext4", "format": "never"}}
    write_policy(node, never, enabled=False)
    image = attach(node, aws, volume)
    node.start(monkeypatch)
    node.agent.wait_condition(volume, "Refused", "FormatNotAllowed")
    aws.faults.add(fail("InternalError"))
    write_policy(node, make_entry(node, volume_id=volume))
    node.agent.reload()
    node.agent.wait_condition(volume, "Pending", "WaitingForCloud")
    aws.faults.clear()
    node.agent.wait_condition(volume, "Refused", "FromSnapshot")
    assert is_blank(image)


def test_what_aws_said_once_outlasts_restart_outage_and_limit(
    node: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that was once told of as a copy is never formatted, without AWS or with the cloud off."""
    volume = make_blank(aws, source_volume_id=SOURCE)
    image = attach(node, aws, volume)
    write_policy(node, make_entry(node, volume_id=volume))
    node.start(monkeypatch)
    node.agent.wait_condition(volume, "Refused", "FromSnapshot")
    aws.faults.add(fail("InternalError"))
    for cloud in ({"format_without_origin_after": "0s"}, {"enabled": False}):
        write_policy(node, make_entry(node, volume_id=volume), **cloud)
        node.agent.kill()
        node.start(monkeypatch)
        status = node.agent.wait_condition(volume, "Refused", "FromSnapshot")
        assert SOURCE in status["message"]
    assert is_blank(image)


@pytest.mark.parametrize("use", ["filesystem", "block"])
def test_volume_of_the_csi_driver_is_not_touched_before_its_tags_are_known(
    node: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """An entry that matches it by size neither formats nor exposes it while AWS does not answer."""
    volume = make_blank(aws, tags={"CSIVolumeName": "pvc-1"})
    entry = make_entry(node, size="1GiB")
    if use == "block":
        entry = {"name": "data", "match": entry["match"], "block": {}}
    write_policy(node, entry)
    aws.faults.add(fail("InternalError"))
    node.start(monkeypatch)
    image = attach(node, aws, volume)
    node.agent.wait_condition(volume, "Pending", "WaitingForCloud")
    assert not os.path.lexists(node.scratch.paths.dev_ebs / "data")
    aws.faults.clear()
    node.agent.wait_condition(volume, "Refused", "ManagedByCsi")
    assert not os.path.lexists(node.scratch.paths.dev_ebs / "data")
    assert is_blank(image)


def test_data_on_a_raw_claims_volume_is_always_found(
    node: ClusterNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the agent made a volume, from nothing, tells nothing of what was written to it raw since."""
    names = [f"raw{number}" for number in range(4)]
    claim = {"claim": {"class": "fast", "size": "1GiB"}}
    node.write_policy(*({"name": name, **claim, "block": {}} for name in names))
    node.start(monkeypatch)
    volumes = {name: node.wait_ready(name)["volume_id"] for name in names}
    for volume in volumes.values():
        # Where no filesystem and no table has anything, and nothing that is read for what it is.
        with node.scratch.image(volume).open("r+b") as image:
            image.seek(333 * MIB)
            image.write(os.urandom(2 * MIB))
    node.write_policy(*(node.claim(name, "1GiB") for name in names))
    node.agent.reload()
    for name in names:
        node.agent.wait_condition(name, "Refused", "NotBlank")
    assert node.agent.read_events("volume.formatted") == []
