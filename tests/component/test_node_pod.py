"""The node's part of the pod that installs the agent, on a directory that it takes for a node."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.bundle import REPOSITORY, Node, make_folder

POLICY = "version: 1\nvolumes: []\n"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


class Pod:
    """What the pod of one version sends to the node."""

    def __init__(self, place: Path, version: str, *, is_broken: bool = False) -> None:
        self.folder = make_folder(place / "folder", version, is_broken=is_broken).parent
        self._place = place

    def run(
        self, node: Node, what: str = "install", policy: str | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        sent = self._place / "sent"
        shutil.rmtree(sent, ignore_errors=True)
        sent.mkdir()
        script = Path(shutil.copy(REPOSITORY / "deploy/node/on_host.sh", sent))
        (bundle,) = self.folder.glob(f"*-{os.uname().machine}.tar.gz")
        shutil.copy(bundle, sent / "bundle.tar.gz")
        if policy is not None:
            (sent / "policy.yaml").write_text(policy)
        return node.run(script, what, environment=settings)


def test_installs_once(node: Node, tmp_path: Path) -> None:
    """The pod of the same version, started again, restarts nothing; another policy is loaded."""
    pod = Pod(tmp_path / "1", "1.0")
    for _ in range(2):
        done = pod.run(node, policy=POLICY)
        assert done.returncode == 0, done.stdout
    assert (node.release, node.running, node.policy.read_text()) == ("1.0", "1.0", POLICY)
    assert node.count_calls("systemctl restart ebs-agent.service") == 1
    assert pod.run(node, policy=POLICY + "# changed\n").returncode == 0
    assert node.count_calls("systemctl restart ebs-agent.service") == 1
    assert "changed" in node.policy.read_text()


def test_policy_of_the_node_stays(node: Node, tmp_path: Path) -> None:
    """A pod without a policy leaves the one that is there."""
    assert Pod(tmp_path / "1", "1.0").run(node, policy=POLICY).returncode == 0
    assert Pod(tmp_path / "2", "1.1").run(node).returncode == 0
    assert (node.release, node.policy.read_text()) == ("1.1", POLICY)


def test_version_that_fails_is_not_tried_again(node: Node, tmp_path: Path) -> None:
    """It goes back, the pod fails and goes on failing, and the agent is restarted for it once only."""
    assert Pod(tmp_path / "1", "1.0").run(node).returncode == 0
    broken = Pod(tmp_path / "2", "1.1", is_broken=True)
    done = broken.run(node)
    assert (done.returncode, node.release, node.running) == (3, "1.0", "1.0"), done.stdout
    restarts = node.count_calls("systemctl restart ebs-agent.service")
    again = broken.run(node)
    assert again.returncode == 3
    assert "to try it again, remove" in again.stdout
    assert node.count_calls("systemctl restart ebs-agent.service") == restarts
    assert broken.run(node, policy=POLICY).returncode == 3
    assert node.count_calls("systemctl restart ebs-agent.service") > restarts
    assert Pod(tmp_path / "3", "1.2").run(node).returncode == 0
    assert not (node.home / ".refused").exists()


def test_version_whose_policy_lets_a_volume_go_is_not_refused(node: Node, tmp_path: Path) -> None:
    """Both come by one rollout of the chart: the volume is the node's, and no entry's any more."""
    (node.root / "volumes.json").write_text('[{"volume_id": "vol-1", "condition": "Ready"}]')
    named = "version: 1\nvolumes:\n  - {name: a, match: {volume_id: vol-1}}\n"
    assert Pod(tmp_path / "1", "1.0").run(node, policy=named).returncode == 0
    done = Pod(tmp_path / "2", "1.1").run(node, policy=POLICY)
    assert (done.returncode, node.running, node.policy.read_text()) == (0, "1.1", POLICY), done.stdout
    assert not (node.home / ".refused").exists()


def test_newer_one_by_other_means_stays(node: Node, tmp_path: Path) -> None:
    """What lifecycle scripts have installed is not made older; what a pod has is, for a rollback."""
    on_create = make_folder(tmp_path / "s3", "1.10", policy=POLICY)
    assert node.run(on_create).returncode == 0
    done = Pod(tmp_path / "1", "1.9").run(node)
    assert (done.returncode, node.release, node.running) == (4, "1.10", "1.10")
    assert "1.10 is in force, by other means than a pod, and newer than 1.9" in done.stdout
    for place, version in (("2", "1.11"), ("3", "1.9")):
        assert Pod(tmp_path / place, version).run(node).returncode == 0
        assert (node.release, node.running) == (version, version)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_order_at_boot_of_lifecycle_scripts_stays(node: Node, tmp_path: Path, version: str) -> None:
    """A pod that is told nothing of it has no say in which services wait; one that is told has."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    (on_create.parent / "ebs-agent.conf").write_text('EBS_AGENT_HOLD="containerd kubelet"\n')
    assert node.run(on_create).returncode == 0
    pod = Pod(tmp_path / "pod", version)
    held = {"containerd.service.d", "kubelet.service.d"}
    for settings, waiting in (
        ({}, held),
        ({"EBS_AGENT_HOLD": "slurmd"}, {"slurmd.service.d"}),
        ({"EBS_AGENT_HOLD": ""}, set()),
    ):
        done = pod.run(node, **settings)
        assert (done.returncode, node.running) == (0, version), done.stdout
        assert {path.parent.name for path in node.root.glob("etc/systemd/system/*.d/*")} == waiting


def test_both_ways_at_once(node: Node, tmp_path: Path) -> None:
    """The lifecycle script and the pod of one version wait for each other, and one of them installs."""
    pod = Pod(tmp_path / "1", "1.0")
    script = node.start(pod.folder / "on_create.sh")
    done = pod.run(node)
    output = script.communicate()[0]
    assert (script.returncode, done.returncode) == (0, 0), output + done.stdout
    assert (node.release, node.running) == ("1.0", "1.0")
    assert node.count_calls("systemctl restart ebs-agent.service") == 1


def test_damaged_bundle(node: Node, tmp_path: Path) -> None:
    """What is not as it was made installs nothing."""
    pod = Pod(tmp_path / "1", "1.0")
    (bundle,) = pod.folder.glob("*.tar.gz")
    bundle.write_bytes(bundle.read_bytes()[:-100])
    assert pod.run(node).returncode != 0
    assert node.release is None


def test_removes_when_told(node: Node, tmp_path: Path) -> None:
    """The agent goes, unless pods have volumes by it; its policy stays."""
    pod = Pod(tmp_path / "1", "1.0")
    assert pod.run(node, policy=POLICY).returncode == 0
    (node.root / "staged").touch()
    assert pod.run(node, "remove").returncode == 1
    assert node.running == "1.0"
    (node.root / "staged").unlink()
    for _ in range(2):
        done = pod.run(node, "remove")
        assert done.returncode == 0, done.stdout
    assert node.list_releases() == []
    assert node.policy.exists()
