"""Claims become volumes: the controller with the real sidecars and the emulated AWS, without a guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.cloud.aws.models import TAG_MADE_BY
from agent.controller.migration.decide import Deed
from tests.aws.cloud import CLUSTER_ARN, Cloud
from tests.aws.faults import deny, throttle
from tests.kubernetes.api import Object
from tests.kubernetes.aws_driver import AWS, tell_how
from tests.kubernetes.aws_driver import OURS as OURS_TOO
from tests.kubernetes.claims import (
    DRIVER,
    FASTER_MIB_S,
    INSTANCE,
    LARGER,
    NODE,
    WAIT_S,
    Claims,
    declare_node,
    is_ready_to_use,
    make_classes,
)
from tests.kubernetes.control_plane import run_control_plane
from tests.kubernetes.interrupted_aws import InterruptedAws, Interruption
from tests.kubernetes.manifests import DRIVER as OURS
from tests.kubernetes.manifests import make_driver
from tests.kubernetes.migrator import Migrator
from tests.kubernetes.programs import AWS_DRIVER as AWS_PROGRAM
from tests.kubernetes.programs import SIDECARS, find_missing
from tests.kubernetes.sidecars import ControllerPod, declare_snapshots, grant_rights
from tests.waiting import wait_until

THEIRS = {AWS: OURS_TOO, OURS_TOO: AWS}
"""Whose controller comes after whose."""


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claims]:
    """Give a cluster of one node that only the API knows, and the controller that works for it."""
    if missing := find_missing(SIDECARS):
        pytest.skip(f"needs {', '.join(missing)} built: make build-kubernetes")
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    with run_control_plane(tmp_path_factory.mktemp("controller")) as plane, InterruptedAws(cloud) as aws:
        declare_snapshots(plane.api)
        grant_rights(plane.api)
        for manifest in make_classes():
            plane.api.create(manifest)
        declare_node(plane.api)
        with ControllerPod(plane, DRIVER, aws.endpoint) as pod:
            yield Claims(plane.api, aws, pod)


def test_life_of_a_claim(claims: Claims) -> None:
    """Made for its pod, larger and faster by one call, copied, detached by others and back, and gone."""
    claim = claims.claim()
    pod = claims.add_pod(claim)
    claims.wait_attached()
    volume = claims.find_volume(claim)
    tags = {tag["key"]: tag["value"] for tag in volume.get_tags()}
    assert tags["kubernetes.io/created-for/pvc/name"] == claim
    assert tags["ebs.csi.aws.com/cluster"] == "true"

    claims.make_larger_and_faster(claim)
    assert (volume.size, volume.throughput) == (2, FASTER_MIB_S)
    assert claims.aws.calls["ModifyVolume"] == 1

    snapshot = claims.take_snapshot(claim)
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot}
    restored = claims.claim(LARGER, source)
    reader = claims.add_pod(restored)
    claims.wait_attached(2)
    assert claims.find_volume(restored).snapshot_id is not None
    claims.end_pod(reader)
    claims.wait_attached(1)
    claims.api.delete("PersistentVolumeClaim", restored)
    claims.api.delete("VolumeSnapshot", snapshot)
    claims.wait_leftovers(claims.api.read("PersistentVolumeClaim", claim)["spec"]["volumeName"], volume.id)

    (attachment,) = volume.attachments
    asked = {"ClusterArn": CLUSTER_ARN, "NodeId": INSTANCE, "VolumeId": volume.id}
    claims.aws.cloud.hyperpod.call("DetachClusterNodeVolume", asked)
    wait_until(lambda: volume.attachments not in ([], [attachment]), "it was to be back", WAIT_S)
    finish(claims, claim, pod)


@pytest.mark.parametrize("is_after", [False, True], ids=["before AWS hears", "before it answers"])
def test_controller_is_killed_at_its_calls(claims: Claims, *, is_after: bool) -> None:
    """However it dies in the middle of a call, the next one finds what was done, and does the rest once."""
    made = len(claims.aws.cloud.made)

    def strike(operation: str) -> Interruption:
        claims.aws.interruption = Interruption(operation, is_after, claims.pod.kill_controller)
        return claims.aws.interruption

    def wait_struck(interruption: Interruption) -> None:
        wait_until(lambda: interruption.has_struck, f"{interruption.operation} was to be called", WAIT_S)

    claim = claims.claim()
    create = strike("CreateVolume")
    pod = claims.add_pod(claim)
    wait_struck(create)
    wait_struck(strike("AttachClusterNodeVolume"))
    claims.wait_attached()
    detach = strike("DetachClusterNodeVolume")
    claims.end_pod(pod)
    wait_struck(detach)
    claims.wait_attached(0)
    delete = strike("DeleteVolume")
    claims.api.delete("PersistentVolumeClaim", claim)
    wait_struck(delete)
    claims.wait_leftovers()
    assert len(claims.aws.cloud.made) == made + 1


def test_throttled(claims: Claims) -> None:
    """While AWS wants fewer calls the claim waits, and no volume is made twice."""
    made = len(claims.aws.cloud.made)
    claims.aws.faults.add(throttle("*", times=5))
    claim = claims.claim()
    pod = claims.add_pod(claim)
    claims.wait_attached()
    assert len(claims.aws.cloud.made) == made + 1
    claims.aws.faults.clear()
    finish(claims, claim, pod)


def test_denied(claims: Claims) -> None:
    """What the controller's role may not is said at the claim, by its name; once it may, it is served."""
    claims.aws.faults.add(deny("CreateVolume", "ec2:CreateVolume"))
    claim = claims.claim()
    pod = claims.add_pod(claim)
    claims.wait_event(claim, "ec2:CreateVolume")
    claims.aws.faults.clear()
    claims.wait_attached()
    finish(claims, claim, pod)


def test_moved_to_another_driver_and_back(claims: Claims) -> None:
    """Killed at each of its steps the claim gets there, with its volume; back, it is as before.

    There Kubernetes has the snapshot taken, and back EC2 is asked for it.
    """
    api = claims.api
    claim = claims.claim()
    pod = claims.add_pod(claim)
    claims.wait_attached()
    migrator = Migrator(claims.pod.plane, claims.aws.endpoint)
    api.create(make_driver(OURS))
    drivers = [{"name": OURS, "nodeID": "another", "topologyKeys": []}]
    api.create(
        {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "another"}}
        | {"spec": {"drivers": drivers}}
    )
    volume, before = claims.find_volume(claim), read_volume(claims, claim)
    assert f"in use by pod {pod}" in migrator.refuse(claim, "--yes")
    claims.end_pod(pod)
    claims.wait_attached(0)

    assert "Nothing was changed" in migrator.migrate(claim)
    assert migrator.migrate_killed(claim, "--yes") >= len(Deed)
    moved = read_volume(claims, claim)
    assert moved["spec"]["csi"]["driver"] == OURS
    assert moved["spec"]["csi"]["volumeHandle"] == volume.id
    assert moved["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert moved["spec"]["capacity"] == before["spec"]["capacity"]
    assert len(api.list("PersistentVolume")) == 1
    (snapshot,) = api.list("VolumeSnapshot")
    assert is_ready_to_use(snapshot)

    known = set(claims.aws.cloud.ec2.snapshots)
    assert "Moved: 1 of 1" in migrator.migrate("--all", "--back", "--ec2-snapshot", "--yes")
    (taken,) = set(claims.aws.cloud.ec2.snapshots) - known
    assert claims.aws.cloud.ec2.snapshots[taken].volume_id == volume.id
    claims.aws.cloud.ec2.delete_snapshot(taken)
    assert len(api.list("VolumeSnapshot")) == 1
    pod = claims.add_pod(claim)
    claims.wait_attached()
    assert claims.find_volume(claim) is volume
    api.delete("VolumeSnapshot", snapshot["metadata"]["name"])
    api.delete("CSINode", "another")
    api.delete("CSIDriver", OURS)
    finish(claims, claim, pod)


@pytest.fixture
def controllers(claims: Claims) -> Iterator[Callable[[str], None]]:
    """Give what has AWS's controller work in place of ours, or ours again, as it does after the test."""
    if find_missing([AWS_PROGRAM]):
        pytest.skip("needs AWS's driver: make build-kubernetes")
    pod, endpoint = claims.pod, claims.aws.endpoint
    yield lambda whose: pod.replace_controller(*tell_how(whose, pod.socket, endpoint))
    pod.replace_controller(*tell_how(THEIRS[AWS], pod.socket, endpoint))


@pytest.mark.parametrize("first", [AWS, OURS_TOO])
def test_controllers_take_turns(claims: Claims, controllers: Callable[[str], None], first: str) -> None:
    """What either made, attached and copied the other enlarges, restores, detaches and deletes.

    To Kubernetes nothing happens: its objects are the same under either.
    """
    controllers(first)
    claim = claims.claim()
    pod = claims.add_pod(claim)
    claims.wait_attached()
    snapshot = claims.take_snapshot(claim)
    volume, before = claims.find_volume(claim), read_objects(claims, claim)
    tags = {tag["key"] for tag in volume.get_tags()}
    assert (TAG_MADE_BY in tags) == (first != AWS)

    controllers(THEIRS[first])
    claims.make_larger_and_faster(claim)
    assert (volume.size, volume.throughput) == (2, FASTER_MIB_S)
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot}
    restored = claims.claim(LARGER, source)
    reader = claims.add_pod(restored)
    claims.wait_attached(2)
    assert claims.find_volume(restored).snapshot_id is not None
    assert [one for one in read_objects(claims, claim) if one in before] == before
    for user in (reader, pod):
        claims.end_pod(user)
    claims.wait_attached(0)
    again = claims.add_pod(claim)
    claims.wait_attached()
    claims.end_pod(again)
    claims.wait_attached(0)
    for name in (claim, restored):
        claims.api.delete("PersistentVolumeClaim", name)
    claims.api.delete("VolumeSnapshot", snapshot)
    claims.wait_leftovers()


@pytest.fixture
def our_node(claims: Claims) -> Iterator[None]:
    """Have the node serve our driver beside AWS's, as one that goes over does with one and then the other."""
    api = claims.api
    api.create(make_driver(OURS, is_attaching=True))
    (driver,) = api.read("CSINode", NODE)["spec"]["drivers"]
    api.patch("CSINode", NODE, {"spec": {"drivers": [driver, {**driver, "name": OURS}]}})
    yield
    api.patch("CSINode", NODE, {"spec": {"drivers": [driver]}})
    api.delete("CSIDriver", OURS)


@pytest.mark.usefixtures("our_node")
def test_both_controllers_work_during_a_migration(claims: Claims, controllers: Callable[[str], None]) -> None:
    """AWS's own lets go of a claim that ours attaches from then on, and takes it back: never both at once."""
    api = claims.api
    controllers(AWS)
    claim = claims.claim()
    pod = claims.add_pod(claim)
    claims.wait_attached()
    volume = claims.find_volume(claim)
    migrator = Migrator(claims.pod.plane, claims.aws.endpoint)
    known = set(claims.aws.cloud.ec2.snapshots)

    def move(*options: str) -> None:
        nonlocal pod
        claims.end_pod(pod)
        claims.wait_attached(0)
        assert "Moved: 1 of 1" in migrator.migrate(claim, "--ec2-snapshot", "--yes", *options)
        assert len(api.list("PersistentVolume")) == 1
        pod = claims.add_pod(claim)
        claims.wait_attached()
        assert claims.find_volume(claim) is volume
        assert len(volume.attachments) == 1

    with ControllerPod(claims.pod.plane, OURS, claims.aws.endpoint, host="ours"):
        move()
        assert [one["spec"]["attacher"] for one in api.list("VolumeAttachment")] == [OURS]
        move("--back")
        assert [one["spec"]["attacher"] for one in api.list("VolumeAttachment")] == [DRIVER]
        taken = set(claims.aws.cloud.ec2.snapshots) - known
        assert len(taken) == 2, "one for each claim, as it was before it was moved"
        for snapshot in taken:
            claims.aws.cloud.ec2.delete_snapshot(snapshot)
        finish(claims, claim, pod)


def read_objects(claims: Claims, claim: str) -> list[Object]:
    """Return what the cluster has of a claim's volume, and where it is attached; not its size and class."""
    name = claims.api.read("PersistentVolumeClaim", claim)["spec"]["volumeName"]
    source = claims.api.read("PersistentVolume", name)["spec"]["csi"]
    attachments = [
        {"uid": one["metadata"]["uid"], "spec": one["spec"], "status": one["status"]}
        for one in claims.api.list("VolumeAttachment")
    ]
    return [source, *attachments]


def read_volume(claims: Claims, claim: str) -> Object:
    """Return a claim's PersistentVolume."""
    return claims.api.read(
        "PersistentVolume", claims.api.read("PersistentVolumeClaim", claim)["spec"]["volumeName"]
    )


def finish(claims: Claims, claim: str, pod: str) -> None:
    """Take pod and claim away, and see that nothing of them is left in AWS."""
    claims.end_pod(pod)
    claims.wait_attached(0)
    claims.api.delete("PersistentVolumeClaim", claim)
    claims.wait_leftovers()
