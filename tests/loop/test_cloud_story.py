"""The cloud half end to end on files: real mkfs, mounts, growth and freezes; an AWS that is emulated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.model.cluster import CLAIM_TAGS
from agent.node.kernel.mountinfo import read_mounts
from tests.aws.faults import deny
from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer
from tests.loop.cluster_node import ClusterNode
from tests.waiting import WAIT_S, wait_until

GIB = 1024**3


@pytest.fixture
def first(short_path: Path, aws: AwsServer, files: FileVolumes) -> Iterator[ClusterNode]:
    node = ClusterNode(short_path / "first", aws, files, "i-00000000000000001", "compute-1")
    yield node
    node.end()


@pytest.fixture
def replacement(short_path: Path, aws: AwsServer, files: FileVolumes) -> Iterator[ClusterNode]:
    node = ClusterNode(short_path / "second", aws, files, "i-00000000000000002", "compute-1")
    yield node
    node.end()


class Writer:
    """Writes numbered lines to a file, synced, until it is told to stop."""

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self._path = path
        self._is_told_to_stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        with self._path.open("w") as file:
            while not self._is_told_to_stop.is_set():
                file.write(f"line {self.lines}\n")
                file.flush()
                os.fsync(file.fileno())
                self.lines += 1
                time.sleep(0.01)

    def stop(self) -> None:
        self._is_told_to_stop.set()
        self._thread.join()


def test_life_of_a_claim(
    first: ClusterNode, replacement: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim's data survives growth under load, snapshot and restore, and the replacement of its node."""
    first.write_policy(first.claim("ckpt", "1GiB"))
    first.start(monkeypatch)
    status = first.wait_ready("ckpt")
    volume = status["volume_id"]
    assert list(aws.cloud.volumes) == [volume]
    data = first.scratch.data / "ckpt"
    (data / "weights").write_bytes(bytes(range(256)) * 4096)

    writer = Writer(data / "journal")
    try:
        first.write_policy(first.claim("ckpt", "2GiB"))
        first.agent.reload()
        wait_until(lambda: os.statvfs(data).f_blocks * os.statvfs(data).f_frsize > 1.7 * GIB, "it has grown")
        said = first.order("snapshot", "ckpt", "--wait")
    finally:
        writer.stop()
    assert "with writes held" in said
    assert writer.lines > 10
    snapshot = next(word for word in said.split() if word.startswith("snap-"))
    assert aws.cloud.ec2.snapshots[snapshot].volume_id == volume

    first.write_policy(first.claim("ckpt", "2GiB"), first.claim("copy", "3GiB", **{"from": snapshot}))
    first.agent.reload()
    first.wait_ready("copy")
    copy = first.scratch.data / "copy"
    assert (copy / "weights").read_bytes() == (data / "weights").read_bytes()
    lines = (copy / "journal").read_text().splitlines()
    assert lines == [f"line {number}" for number in range(len(lines))]
    assert os.statvfs(copy).f_blocks * os.statvfs(copy).f_frsize > 2.5 * GIB

    first.agent.kill()
    first.scratch.clean()
    aws.cloud.remove_node(first.instance_id, keeps_attachments=True)
    replacement.write_policy(
        replacement.claim("ckpt", "2GiB"), replacement.claim("copy", "3GiB", **{"from": snapshot})
    )
    replacement.start(monkeypatch)
    assert replacement.wait_ready("ckpt")["volume_id"] == volume
    replacement.wait_ready("copy")
    assert (replacement.scratch.data / "ckpt" / "weights").read_bytes() == bytes(range(256)) * 4096
    assert replacement.agent.read_events("volume.formatted") == []
    assert len(aws.cloud.volumes) == 2


def test_data_follows_to_a_node_of_another_name(
    short_path: Path, aws: AwsServer, files: FileVolumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names end with their instances, the next node takes over what one that is gone has left."""
    nodes = [
        ClusterNode(short_path / name, aws, files, f"i-{number:017x}", f"hyperpod-i-{number:017x}")
        for number, name in enumerate(("first", "second"), 1)
    ]
    try:
        first, second = nodes
        first.write_policy(first.claim("ckpt", "1GiB"))
        first.start(monkeypatch)
        volume = first.wait_ready("ckpt")["volume_id"]
        (first.scratch.data / "ckpt" / "weights").write_bytes(b"learnt")
        first.agent.kill()
        first.scratch.clean()
        aws.cloud.remove_node(first.instance_id, keeps_attachments=True)
        second.write_policy(second.claim("ckpt", "1GiB"))
        second.start(monkeypatch)
        assert second.wait_ready("ckpt")["volume_id"] == volume
        assert (second.scratch.data / "ckpt" / "weights").read_bytes() == b"learnt"
        assert second.agent.read_events("volume.formatted") == []
        assert aws.cloud.made == [volume]
        assert json.loads(second.order("orphans", "--json")) == {"done": True, "orphans": []}
    finally:
        for node in nodes:
            node.end()


def test_detach_and_attach_by_hand(
    first: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detaching names who is in the way, then unmounts, detaches and stays so; attaching brings it back.

    A volume that turns out to be a pod's is told with the claim that its tags name.
    """
    of_pod = aws.cloud.make_volume(1)
    first.write_policy(first.claim("ckpt", "1GiB"))
    first.start(monkeypatch)
    volume = first.wait_ready("ckpt")["volume_id"]
    data = first.scratch.data / "ckpt"
    with (data / "open").open("w"):
        code, said = first.fail("detach", "ckpt")
        assert code == 5
        assert f"pid {os.getpid()}" in said
        assert aws.cloud.volumes[volume].emulated
    first.order("detach", "ckpt")
    assert not aws.cloud.volumes[volume].emulated
    assert not [mount for mount in read_mounts() if mount.path == str(data)]
    looks = aws.calls["DescribeVolumes"]
    wait_until(lambda: aws.calls["DescribeVolumes"] >= looks + 2, "the cloud was looked at again, twice")
    assert not aws.cloud.volumes[volume].emulated, "it is not attached again behind the person's back"
    first.order("attach", volume)
    first.wait_ready("ckpt")
    first.order("attach", of_pod)
    aws.cloud.volumes[of_pod].add_tags(dict(zip(CLAIM_TAGS, ("training", "data"), strict=True)))
    wait_until(
        lambda: first.agent.status(of_pod).get("persistent_volume_claim") == "training/data",
        "AWS has told its tags",
    )


def test_blank_volume_waits_for_an_answer_and_no_longer(
    first: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blank volume is formatted as soon as AWS has denied to say where it comes from."""
    aws.faults.add(deny("DescribeVolumes", "ec2:DescribeVolumes"))
    volume = "vol-0123456789abcdef0"
    entry = {
        "name": "ckpt",
        "match": {"volume_id": volume},
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(first.scratch.data / "ckpt")},
    }
    first.scratch.write_policy(entry, cloud={"enabled": True}, resync="1h")
    first.scratch.add_volume(volume)
    first.start(monkeypatch)
    first.wait_ready("ckpt")


@pytest.mark.parametrize("is_hidden", [False, True], ids=["seen", "hidden at first"])
def test_leftover_freeze_is_thawed(
    first: ClusterNode, monkeypatch: pytest.MonkeyPatch, *, is_hidden: bool
) -> None:
    """What an agent left frozen that died with its guardian is thawed by the next one, once it can."""
    first.write_policy(first.claim("ckpt", "1GiB"))
    first.start(monkeypatch)
    first.wait_ready("ckpt")
    first.agent.kill()
    data = first.scratch.data / "ckpt"
    mount = next(mount for mount in read_mounts() if mount.path == str(data))
    notes = first.scratch.paths.runtime / "frozen"
    notes.mkdir()
    note = notes / "vol-0123456789abcdef0"
    note.write_text(json.dumps([str(data), *mount.device_number]))
    (notes / "vol-0123456789abcdef1").write_text("not a note")
    subprocess.run(["fsfreeze", "--freeze", str(data)], check=True)
    try:
        if is_hidden:
            subprocess.run(["mount", "-t", "tmpfs", "cover", str(data)], check=True)
        first.start(monkeypatch)
        if is_hidden:
            assert list(notes.iterdir()) == [note]
            subprocess.run(["umount", str(data)], check=True)
        wait_until(lambda: not list(notes.iterdir()), "nothing is noted any more")
        writer = Writer(data / "file")
        wait_until(lambda: writer.lines > 3, "writes go on")
        writer.stop()
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(data)], check=False, capture_output=True)


def test_frozen_filesystem_is_thawed_when_the_agent_dies(
    first: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent killed while it holds a filesystem frozen leaves it writable."""
    first.write_policy(first.claim("ckpt", "1GiB"))
    first.start(monkeypatch)
    first.wait_ready("ckpt")
    is_begun, may_end = threading.Event(), threading.Event()

    def hang(volume_id: str, snapshot_id: str) -> None:
        del volume_id, snapshot_id
        is_begun.set()
        may_end.wait(60)

    monkeypatch.setattr(aws.cloud.hooks, "snapshot", hang)
    command = subprocess.Popen(
        [sys.executable, "-m", "agent", "--root", str(first.scratch.root), "snapshot", "ckpt"],
        stderr=subprocess.DEVNULL,
    )
    try:
        assert is_begun.wait(WAIT_S)
        writer = Writer(first.scratch.data / "ckpt" / "file")
        time.sleep(0.5)
        assert writer.lines == 0, "writes are held while the snapshot begins"
        first.agent.kill()
        wait_until(lambda: writer.lines > 3, "writes go on")
        writer.stop()
    finally:
        may_end.set()
        command.wait(WAIT_S)


def test_raw_volume_is_flushed_and_its_users_are_named(
    first: ClusterNode, files: FileVolumes, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detaching a raw volume names who has it open; --force takes it, with all that was written to it."""
    raw = first.claim("raw", "1GiB")
    del raw["filesystem"], raw["mount"], raw["grow"]
    first.write_policy({**raw, "block": {}})
    first.start(monkeypatch)
    volume = first.wait_ready("raw")["volume_id"]
    script = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); os.write(fd, b'raw' * 1000); print(flush=True)"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", f"{script}; sys.stdin.read()", str(first.scratch.paths.dev_ebs / "raw")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert user.stdout is not None
        user.stdout.readline()
        code, said = first.fail("detach", "raw")
        assert code == 5
        assert f"pid {user.pid}" in said
        assert aws.cloud.volumes[volume].emulated
        first.order("detach", "raw", "--force")
    finally:
        user.communicate(timeout=30)
    assert not aws.cloud.volumes[volume].emulated
    with files.find(volume).open("rb") as file:
        assert file.read(3000) == b"raw" * 1000


def test_restore_by_hand(first: ClusterNode, aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is listed, becomes a volume that is attached here, once for its name, and is deleted."""
    first.write_policy(first.claim("ckpt", "1GiB"))
    first.start(monkeypatch)
    first.wait_ready("ckpt")
    taken = json.loads(first.order("snapshot", "ckpt", "--wait", "--json"))
    snapshot = taken["snapshot_id"]
    assert snapshot in first.order("snapshots", "ckpt")
    (listed,) = json.loads(first.order("snapshots", "--json"))["snapshots"]
    assert (listed["snapshot_id"], listed["state"]) == (snapshot, taken["state"]) == (snapshot, "completed")
    first.order("restore", snapshot, "--as", "copy")
    said = first.order("restore", snapshot, "--as", "copy")
    assert len(aws.cloud.made) == 2
    copy = aws.cloud.made[1]
    assert f"volume_id: {copy}" in said
    assert first.agent.wait_condition(copy, "Unmanaged")["device"]
    first.order("snapshot", "delete", snapshot)
    assert "no snapshot" in first.order("snapshot", "list", "ckpt")


def test_doctor_sees_what_the_agent_sees(first: ClusterNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS is examined with the agent's environment, whatever the shell's is, and no secret is shown."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush@proxy.example:3128")
    first.write_policy(first.claim("ckpt", "1GiB"))
    first.start(monkeypatch)
    first.wait_ready("ckpt")
    for name in ("SAGEMAKER_RESOURCE_CONFIG_PATH", "EBS_AGENT_CLOUD_ENDPOINT", "HTTPS_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    argv = [sys.executable, "-m", "agent", "--root", str(first.scratch.root), "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    findings = {one["subject"]: one for one in json.loads(done.stdout)["findings"]}
    environment = findings["agent's environment"]["found"]
    assert "HTTPS_PROXY=http://…@proxy.example:3128" in environment
    assert "AWS_SECRET_ACCESS_KEY=set, not shown" in environment
    assert "hush" not in done.stdout
    assert findings["ec2:DescribeVolumes"]["verdict"] == "ok"
    assert findings["instance id"]["found"].startswith(first.instance_id)
    first.agent.kill()
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert "agent's environment" not in done.stdout
