"""Requests as the sidecars make them, for the tests to spoil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.csi_pb2 import CapacityRange, VolumeCapability
from tests.unit.csi.service.requests import mount

VOLUME = "vol-0123456789abcdef0"
SNAPSHOT = "snap-0123456789abcdef0"
NODE = "hyperpod-abc123def456-i-0123456789abcdef0"
METADATA = {
    "csi.storage.k8s.io/pvc/name": "claim",
    "csi.storage.k8s.io/pvc/namespace": "ns-prod-abcdef",
    "csi.storage.k8s.io/pv/name": "pvc-1",
}


def create(
    parameters: Mapping[str, str] | None = None,
    *,
    name: str = "pvc-1",
    uses: Sequence[VolumeCapability] | None = None,
    mutable: Mapping[str, str] | None = None,
    required: int = 1 << 30,
    limit: int = 0,
    source: wire.VolumeContentSource | None = None,
) -> wire.CreateVolumeRequest:
    return wire.CreateVolumeRequest(
        name=name,
        capacity_range=CapacityRange(required_bytes=required, limit_bytes=limit),
        volume_capabilities=(mount(),) if uses is None else uses,
        parameters=parameters or {},
        mutable_parameters=mutable or {},
        volume_content_source=source,
    )


def from_snapshot(snapshot_id: str = SNAPSHOT) -> wire.VolumeContentSource:
    source = wire.VolumeContentSource
    return source(snapshot=source.SnapshotSource(snapshot_id=snapshot_id))


def from_volume(volume_id: str = VOLUME) -> wire.VolumeContentSource:
    source = wire.VolumeContentSource
    return source(volume=source.VolumeSource(volume_id=volume_id))
