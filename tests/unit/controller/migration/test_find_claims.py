"""Which claims are moved, and what the cluster has to have before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.controller.migration.carry_out import Pace, move
from agent.controller.migration.cluster import YOU, list_rights
from agent.controller.migration.find_claims import check_driver, choose_snapshot_class, find_subjects
from agent.controller.migration.seen import Aim
from agent.core.errors import RefusedError
from tests.unit.controller.migration.stand_in import AWS, OURS, Cut, StandInCluster, make_cluster

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.anyio


async def find(cluster: StandInCluster, namespace: str | None = None) -> list[str]:
    """Return the names of all claims to be moved to ours."""
    return [each.name for each in await find_subjects(cluster, AWS, OURS, namespace, None)]


async def test_all_are_those_of_the_driver() -> None:
    """All bound claims of the driver, everywhere or in a namespace; one that is on its way among them."""
    cluster = make_cluster(names=("first", "second"))
    assert await find(cluster) == ["training/first", "training/second"]
    assert await find(cluster, "other") == []
    aim = Aim(AWS, OURS, None)
    first, _ = await find_subjects(cluster, AWS, OURS, None, None)

    def stop(verb: str, kind: str) -> None:
        if (verb, kind) == ("create", "PersistentVolumeClaim"):
            raise Cut

    cluster.before_call = stop
    with pytest.raises(Cut):
        await move(cluster, first, aim, Pace(0.0, 0.0), lambda *_: None)
    cluster.before_call = lambda _verb, _kind: None
    assert await find(cluster) == ["training/first", "training/second"]
    await move(cluster, first, aim, Pace(0.0, 0.0), lambda *_: None)
    assert await find(cluster) == ["training/second"]


async def test_driver_that_nobody_serves() -> None:
    """Without the driver, or a node that has it, no claim would be of use: nothing is moved."""
    cluster = make_cluster()
    await check_driver(cluster, OURS)
    cluster.read("CSINode", "node")["spec"]["drivers"].pop()
    with pytest.raises(RefusedError, match=f"No node has driver {OURS}"):
        await check_driver(cluster, OURS)
    with pytest.raises(RefusedError, match="no CSIDriver another"):
        await check_driver(cluster, "another")


async def test_snapshot_class_is_the_drivers() -> None:
    """The only one of the driver, or its default, or the one named; where none is, the way out is said."""
    cluster = make_cluster()
    assert await choose_snapshot_class(cluster, AWS, None) == f"of-{AWS}"
    default = {"name": "z", "annotations": {"snapshot.storage.kubernetes.io/is-default-class": "true"}}
    cluster.add({"kind": "VolumeSnapshotClass", "metadata": {"name": "a"}, "driver": AWS})
    with pytest.raises(RefusedError, match=f"several VolumeSnapshotClasses: a, of-{AWS}"):
        await choose_snapshot_class(cluster, AWS, None)
    assert await choose_snapshot_class(cluster, AWS, "a") == "a"
    cluster.add({"kind": "VolumeSnapshotClass", "metadata": default, "driver": AWS})
    assert await choose_snapshot_class(cluster, AWS, None) == "z"
    with pytest.raises(RefusedError, match=f"has no VolumeSnapshotClass of-{OURS}"):
        await choose_snapshot_class(cluster, AWS, f"of-{OURS}")
    with pytest.raises(RefusedError, match="has no VolumeSnapshotClass") as refused:
        await choose_snapshot_class(cluster, "third.example.com", None)
    assert "--no-snapshot" in str(refused.value.hint)


async def test_cluster_without_snapshots() -> None:
    """Where the types are not there no class is meant; one that is named nevertheless is refused."""
    cluster = make_cluster()
    cluster.has_snapshot_types = False
    assert await choose_snapshot_class(cluster, AWS, None) is None
    with pytest.raises(RefusedError, match="no VolumeSnapshots") as refused:
        await choose_snapshot_class(cluster, AWS, f"of-{AWS}")
    assert "--ec2-snapshot" in str(refused.value.hint)


def test_rights_are_those_of_the_manifest() -> None:
    """What the command says it needs is what the manifest to paste allows, and no more."""
    manifests = list(yaml.safe_load_all((ROOT / YOU.rights).read_text("utf-8")))
    allowed = {
        (group, resource): sorted(rule["verbs"])
        for manifest in manifests
        for rule in manifest.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert allowed == {(group, resource): sorted(verbs) for group, resource, verbs in list_rights()}
