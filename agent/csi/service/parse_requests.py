"""Reads kubelet's requests: protobuf in, the agent's own words out, every value checked.

Whatever is wrong raises InvalidValueError, which names the field and says the way out. What attached a volume
(``publish_context``) is not read: the device is found by what it says of itself.
"""

from __future__ import annotations

from agent.core.errors import InvalidValueError
from agent.core.model import VolumeId, parse_volume_id
from agent.csi.calls import Capability, ExpandCall, PublishCall, StageCall
from agent.csi.service.parse_capability import parse_capability
from agent.csi.service.parse_context import parse_context
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.wire import csi_pb2 as wire


def parse_stage(request: wire.NodeStageVolumeRequest, paths: KubeletPaths) -> StageCall:
    """Read what is to be staged. Raises InvalidValueError."""
    volume_id = _parse_id(request.volume_id)
    staging_path = paths.parse_staging(request.staging_target_path)
    capability = _parse_capability(request)
    context = parse_context(request.volume_context, None if capability.is_block else capability.fs_type)
    return StageCall(
        volume_id=volume_id,
        staging_path=staging_path,
        capability=capability,
        mkfs_options=context.mkfs_options,
        partition=context.partition,
        is_copy=context.is_copy,
        is_format_allowed=context.is_format_allowed,
    )


def parse_unstage(request: wire.NodeUnstageVolumeRequest, paths: KubeletPaths) -> tuple[VolumeId, str]:
    """Read what is not to be staged any more, and where. Raises InvalidValueError."""
    return _parse_id(request.volume_id), paths.parse_staging(request.staging_target_path)


def parse_publish(request: wire.NodePublishVolumeRequest, paths: KubeletPaths) -> PublishCall:
    """Read what is to be published. Raises InvalidValueError."""
    return PublishCall(
        volume_id=_parse_id(request.volume_id),
        staging_path=paths.parse_staging(request.staging_target_path),
        target_path=paths.parse_target(request.target_path),
        capability=_parse_capability(request),
        is_read_only=request.readonly,
    )


def parse_unpublish(request: wire.NodeUnpublishVolumeRequest, paths: KubeletPaths) -> tuple[VolumeId, str]:
    """Read what is not to be published any more, and where. Raises InvalidValueError."""
    return _parse_id(request.volume_id), paths.parse_target(request.target_path)


def parse_expand(request: wire.NodeExpandVolumeRequest, paths: KubeletPaths) -> ExpandCall:
    """Read what is to be expanded. Raises InvalidValueError, or NoSuchPathError."""
    required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
    volume_id = _parse_id(request.volume_id)
    if required < 0 or limit < 0 or 0 < limit < required:
        raise InvalidValueError(
            f"The capacity_range of {volume_id} cannot be meant: {required} bytes at least, {limit} at most."
        )
    return ExpandCall(
        volume_id=volume_id,
        volume_path=paths.parse_volume_path(request.volume_path),
        required_bytes=required or None,
        limit_bytes=limit or None,
        is_block=request.volume_capability.WhichOneof("access_type") == "block",
    )


def parse_measure(request: wire.NodeGetVolumeStatsRequest, paths: KubeletPaths) -> tuple[VolumeId, str]:
    """Read what is to be measured, and where. Raises InvalidValueError, or NoSuchPathError."""
    return _parse_id(request.volume_id), paths.parse_volume_path(request.volume_path)


def _parse_id(text: str) -> VolumeId:
    if not text:
        raise InvalidValueError("The volume_id is missing.")
    return parse_volume_id(text)


def _parse_capability(request: wire.NodeStageVolumeRequest | wire.NodePublishVolumeRequest) -> Capability:
    if not request.HasField("volume_capability"):
        raise InvalidValueError(f"The volume_capability of {request.volume_id} is missing.")
    return parse_capability(request.volume_capability, request.volume_id)
