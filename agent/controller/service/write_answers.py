"""Writes what the controller answers: the agent's own words in, protobuf out."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from agent.cloud.aws.models import CloudSnapshot, CloudVolume
from agent.controller.calls import GIB, CopySource, MadeVolume, Pairs, PublishedVolume
from agent.core.units import parse_time
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.csi_pb2 import Topology


def write_made(made: MadeVolume) -> wire.Volume:
    """Return a volume that was made, as its claim is told of it."""
    return wire.Volume(
        volume_id=made.volume.volume_id,
        capacity_bytes=made.volume.size_gib * GIB,
        volume_context=dict(made.context),
        content_source=None if made.source is None else _write_source(made.source),
        accessible_topology=_write_topology(made.topology),
    )


def write_volume(volume: CloudVolume) -> wire.Volume:
    """Return a volume as a list has it."""
    return wire.Volume(volume_id=volume.volume_id, capacity_bytes=volume.size_gib * GIB)


def write_entry(published: PublishedVolume) -> wire.ListVolumesResponse.Entry:
    """Return a volume with its nodes."""
    nodes = [str(node) for node in published.nodes]
    return wire.ListVolumesResponse.Entry(
        volume=write_volume(published.volume),
        status=wire.ListVolumesResponse.VolumeStatus(published_node_ids=nodes),
    )


def write_snapshot(snapshot: CloudSnapshot) -> wire.Snapshot:
    """Return a snapshot; it can be made into a volume once it is completed."""
    return wire.Snapshot(
        snapshot_id=snapshot.snapshot_id,
        source_volume_id=snapshot.volume_id,
        size_bytes=snapshot.size_gib * GIB,
        creation_time=_write_time(snapshot.started_at),
        ready_to_use=snapshot.state == "completed",
    )


def _write_source(source: CopySource) -> wire.VolumeContentSource:
    said = wire.VolumeContentSource
    if source.snapshot_id is not None:
        return said(snapshot=said.SnapshotSource(snapshot_id=source.snapshot_id))
    return said(volume=said.VolumeSource(volume_id=source.volume_id or ""))


def _write_topology(topology: Pairs) -> list[Topology]:
    return [Topology(segments=dict(topology))] if topology else []


def _write_time(text: str) -> Timestamp:
    """Return a time of AWS's as the interface has it."""
    stamp = Timestamp()
    stamp.FromDatetime(parse_time(text))
    return stamp
