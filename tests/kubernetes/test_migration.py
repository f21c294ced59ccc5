"""A claim goes to another driver and back, and pods read what the one before them wrote."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.api import WAIT_S
from tests.kubernetes.drop_in import AWS_DRIVER, change_csi, give_name_back, is_registered
from tests.kubernetes.manifests import DRIVER, Use, make_driver
from tests.kubernetes.migrator import Migrator
from tests.kubernetes.node import KubernetesNode
from tests.kubernetes.workloads import Claim, Workloads
from tests.waiting import wait_until


@pytest.fixture
def migrator(node: KubernetesNode, workloads: Workloads) -> Iterator[Migrator]:
    """Lend the command; the volumes that it makes, which keep what they have, go after the test."""
    node.api.create(make_driver(AWS_DRIVER))
    yield Migrator(node.plane)
    workloads.end_objects()
    for volume in node.api.list("PersistentVolume"):
        node.api.delete("PersistentVolume", volume["metadata"]["name"])


def test_contents_stay(node: KubernetesNode, workloads: Workloads, migrator: Migrator) -> None:
    """Under AWS's name and under the agent's own again a pod finds all, and nothing is formatted again."""
    claim = workloads.add_volume()
    write(workloads, claim, "first")
    change_csi(node, driver=AWS_DRIVER)
    wait_until(lambda: is_registered(node), "kubelet was to take the agent by AWS's name", WAIT_S)
    assert "Moved: 1" in migrator.migrate(claim.name, "--back", "--no-snapshot", "--yes")
    assert read_driver(workloads, claim) == AWS_DRIVER
    write(workloads, claim, "second", "first\n")
    give_name_back(node)
    assert "Moved: 1" in migrator.migrate(claim.name, "--no-snapshot", "--yes")
    assert read_driver(workloads, claim) == DRIVER
    write(workloads, claim, "third", "first\nsecond\n")
    formatted = [event["volume_id"] for event in node.agent.read_events("volume.formatted")]
    assert formatted.count(claim.volume_id) == 1


def write(workloads: Workloads, claim: Claim, word: str, found: str = "") -> None:
    """Have a pod find what there is, and write a word more."""
    pod = workloads.start_pod(Use(claim.name))
    assert workloads.run_in(pod, "cat /data/file || true") == found
    workloads.run_in(pod, f"echo {word} >> /data/file; sync /data/file")
    workloads.end_pod(pod)
    workloads.wait_unstaged(claim)


def read_driver(workloads: Workloads, claim: Claim) -> str:
    """Return whose a claim is."""
    volume = workloads.api.read("PersistentVolumeClaim", claim.name)["spec"]["volumeName"]
    return str(workloads.api.read("PersistentVolume", volume)["spec"]["csi"]["driver"])
