"""A claim keeps the volume that AWS described as its, whether or not AWS answers when the agent starts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer
from tests.loop.cluster_node import ClusterNode
from tests.loop.test_origins import fail
from tests.waiting import wait_until


@pytest.fixture
def node(
    short_path: Path, aws: AwsServer, files: FileVolumes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterNode]:
    """Give a node with a filesystem and a raw volume, both claimed and ready, whose agent was then killed."""
    node = ClusterNode(short_path / "node", aws, files, "i-00000000000000001", "compute-1")
    raw = {"name": "db", "claim": {"class": "fast", "size": "1GiB"}, "block": {}}
    node.write_policy({**node.claim("ckpt", "1GiB"), "required": True}, raw)
    node.start(monkeypatch)
    for name in ("ckpt", "db"):
        node.wait_ready(name)
    node.agent.kill()
    yield node
    node.end()


def test_node_starts_while_aws_fails(
    node: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a reboot: what is on a claim's volume is mounted, and the node is ready."""
    path = node.scratch.data / "ckpt"
    (path / "file").write_text("kept")
    subprocess.run(["umount", path], check=True)
    aws.faults.add(fail("InternalError"))
    node.start(monkeypatch)
    assert node.wait_ready("ckpt")["path"] == str(path)
    assert (path / "file").read_text() == "kept"
    node.order("wait", "--timeout", "20", "--quiet")
    wait_until(lambda: aws.calls["DescribeVolumes"] > 2, "AWS was asked in vain")
    node.wait_ready("ckpt")


def test_raw_volume_is_reached_all_along(
    node: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that opens it by its name finds it while the agent starts, with AWS and without."""
    link = node.scratch.paths.dev_ebs / "db"
    before = (link.lstat().st_ino, link.lstat().st_ctime_ns)
    for has_aws in (True, False):
        if not has_aws:
            aws.faults.add(fail("InternalError"))
        node.start(monkeypatch)
        node.wait_ready("db")
        node.agent.kill()
        assert (link.lstat().st_ino, link.lstat().st_ctime_ns) == before


def test_volume_that_is_its_claims_no_more_is_used_on_and_told(
    node: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took the marks away reads what to do; nothing is taken from under who uses it."""
    marks = [{(tag["key"], tag["value"]) for tag in one.get_tags()} for one in aws.cloud.volumes.values()]
    (volume,) = (
        one
        for one, tags in zip(aws.cloud.volumes.values(), marks, strict=True)
        if ("ebs-agent:claim", "db") in tags
    )
    volume.add_tags({"ebs-agent:claim": "else"})
    node.start(monkeypatch)
    message = node.agent.wait_condition(volume.id, "Degraded")["message"]
    assert "no longer carries its tags" in message
    assert (node.scratch.paths.dev_ebs / "db").is_symlink()
