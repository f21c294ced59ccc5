"""AWS's controller is replaced by ours, and ours by AWS's, in the middle of the life of what either made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.csi_pb2 import CapacityRange
from tests.aws.cloud import CLUSTER_ID, ZONE, Cloud
from tests.aws.server import AwsServer
from tests.kubernetes.aws_driver import AWS, CLUSTER, OURS, run_controller
from tests.kubernetes.programs import AWS_DRIVER, find_missing
from tests.unit.controller.service.requests import METADATA, create, from_snapshot
from tests.unit.csi.service.requests import mount

GIB = 1 << 30
INSTANCE = "i-0123456789abcdef0"
NODE = f"hyperpod-{CLUSTER_ID}-{INSTANCE}"
UID = "0b5c1a52-1c0e-4a39-8d63-7f6b6f0e7f11"
UNREAD = {"Name", "KubernetesCluster", "ebs.csi.aws.com/cluster-name"}
"""Tags of AWS's driver by which it finds nothing: they are for people and for policies of their own."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(find_missing([AWS_DRIVER])), reason="needs AWS's driver: make build-kubernetes"),
]


def ask_volume(**wanted: Any) -> wire.CreateVolumeRequest:
    """Return what the provisioner asks for, of a class as AWS documents it."""
    parameters = {"type": "gp3", "iops": "4000", "encrypted": "true", **METADATA}
    asked = create(parameters, required=10 * GIB, **wanted)
    asked.accessibility_requirements.requisite.add().segments["topology.kubernetes.io/zone"] = ZONE
    asked.accessibility_requirements.preferred.add().segments["topology.kubernetes.io/zone"] = ZONE
    return asked


def ask_snapshot(volume_id: str) -> wire.CreateSnapshotRequest:
    """Return what the snapshotter asks for."""
    return wire.CreateSnapshotRequest(source_volume_id=volume_id, name=f"snapshot-{UID}")


@pytest.mark.parametrize(("first", "second"), [(AWS, OURS), (OURS, AWS)])
async def test_one_takes_up_what_the_other_made(tmp_path: Path, first: str, second: str) -> None:
    """Asked again it finds all as made; it enlarges, restores, detaches and deletes it."""
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    asked = ask_volume(name=f"pvc-{UID}")
    with AwsServer(cloud) as aws:
        async with run_controller(first, tmp_path, aws.endpoint) as controller:
            made = (await controller.CreateVolume(asked)).volume
            attach = wire.ControllerPublishVolumeRequest(
                volume_id=made.volume_id, node_id=NODE, volume_capability=mount()
            )
            await controller.ControllerPublishVolume(attach)
            taken = (await controller.CreateSnapshot(ask_snapshot(made.volume_id))).snapshot
        volume = cloud.volumes[made.volume_id]
        changes = {name: count for name, count in aws.calls.items() if not name.startswith("Describe")}
        async with run_controller(second, tmp_path, aws.endpoint) as controller:
            if second == OURS:  # AWS's asks for it again on HyperPod, and fails, with its own volumes too
                await controller.ControllerPublishVolume(attach)
            again = (await controller.CreateSnapshot(ask_snapshot(made.volume_id))).snapshot
            assert again.snapshot_id == taken.snapshot_id
            found = await controller.ListSnapshots(wire.ListSnapshotsRequest(snapshot_id=taken.snapshot_id))
            assert [one.snapshot.source_volume_id for one in found.entries] == [made.volume_id]
            for name in ("AttachClusterNodeVolume", "CreateSnapshot"):
                assert aws.calls[name] == changes[name]
            grow = wire.ControllerExpandVolumeRequest(
                volume_id=made.volume_id, capacity_range=CapacityRange(required_bytes=20 * GIB)
            )
            assert (await controller.ControllerExpandVolume(grow)).capacity_bytes == 20 * GIB
            restore = ask_volume(name="pvc-restored", source=from_snapshot(taken.snapshot_id))
            restored = (await controller.CreateVolume(restore)).volume
            assert cloud.volumes[restored.volume_id].snapshot_id == taken.snapshot_id
            release = wire.ControllerUnpublishVolumeRequest(volume_id=made.volume_id, node_id=NODE)
            await controller.ControllerUnpublishVolume(release)
            assert not volume.attachments
            for volume_id in (made.volume_id, restored.volume_id):
                await controller.DeleteVolume(wire.DeleteVolumeRequest(volume_id=volume_id))
            await controller.DeleteSnapshot(wire.DeleteSnapshotRequest(snapshot_id=taken.snapshot_id))
    assert len(cloud.made) == 2
    assert not cloud.volumes
    assert not [one for one in cloud.ec2.snapshots.values() if not one.from_ami]


async def test_both_mark_what_they_make_alike(tmp_path: Path) -> None:
    """Both give a claim's volume the same tags but for those that nobody looks for, and the same topology."""
    tags, told = {}, {}
    for whose in (AWS, OURS):
        cloud = Cloud()
        with AwsServer(cloud) as aws:
            async with run_controller(whose, tmp_path, aws.endpoint) as controller:
                made = (await controller.CreateVolume(ask_volume(name=f"pvc-{UID}"))).volume
        (volume,) = cloud.volumes.values()
        tags[whose] = {tag["key"]: tag["value"] for tag in volume.get_tags()}
        told[whose] = (
            made.capacity_bytes,
            [dict(one.segments) for one in made.accessible_topology],
            (volume.volume_type, volume.iops, volume.encrypted),
        )
    assert {key: value for key, value in tags[AWS].items() if key not in UNREAD}.items() <= tags[OURS].items()
    assert tags[AWS][f"kubernetes.io/cluster/{CLUSTER}"] == "owned"
    assert told[AWS] == told[OURS]
