"""Reads kubelet's requests: protobuf in, the agent's own words out, every value checked.

Whatever is wrong raises InvalidValueError, which names the field and says the way out. What attached a volume
(``publish_context``) is not read: the device is found by what it says of itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.errors import InvalidValueError
from agent.core.model import FsType, VolumeId, parse_volume_id
from agent.core.quoting import quote
from agent.csi.calls import AccessMode, Capability, ExpandCall, PublishCall, StageCall
from agent.csi.service.parse_context import parse_context
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.wire import csi_pb2 as wire
from agent.policy.values.mount_options import find_contradictions, parse_option

_OWN_FLAG = "nouuid"
"""AWS's driver mounts every XFS with it, so volumes ask for it; a copy is mounted beside its original."""
_MANY_WRITERS = frozenset({AccessMode.MULTI_NODE_SINGLE_WRITER, AccessMode.MULTI_NODE_MULTI_WRITER})


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
    said = request.volume_capability
    access = _parse_access(said.access_mode.mode)
    kind = said.WhichOneof("access_type")
    if kind is None:
        raise InvalidValueError(
            f"The volume_capability of {request.volume_id} has no access_type.",
            hint="Say block, or mount; in Kubernetes that is volumeMode: Block or Filesystem.",
        )
    if kind == "block":
        return Capability(access=access, is_block=True)
    if access in _MANY_WRITERS:
        raise InvalidValueError(
            f"A filesystem cannot be written to by several nodes, as {access} asks of {request.volume_id}.",
            hint="Use volumeMode: Block, or the access mode ReadWriteOnce.",
        )
    fs_type = _parse_fs_type(said.mount.fs_type)
    return Capability(
        access=access, fs_type=fs_type, mount_flags=_parse_flags(said.mount.mount_flags, fs_type)
    )


def _parse_access(mode: wire.VolumeCapability.AccessMode.Mode) -> AccessMode:
    names = wire.VolumeCapability.AccessMode.Mode.DESCRIPTOR.values_by_number
    name = names[mode].name if mode in names else str(mode)
    if name not in AccessMode.__members__:
        raise InvalidValueError(
            f"The access_mode {name} is not one of the interface's.", hint=f"Say {', '.join(AccessMode)}."
        )
    return AccessMode[name]


def _parse_fs_type(text: str) -> FsType:
    if not text:
        return FsType.EXT4
    kinds = {str(kind): kind for kind in FsType}
    if text not in kinds:
        raise InvalidValueError(
            f"The fs_type {quote(text)} is not one the agent makes.", hint=f"Use {', '.join(kinds)}."
        )
    return kinds[text]


def _parse_flags(texts: Iterable[str], fs_type: FsType) -> tuple[str, ...]:
    flags = [_parse_flag(text) for text in texts if text != _OWN_FLAG]
    for _index, why in find_contradictions(flags):
        raise InvalidValueError(f"The mount_flags contradict each other. {why}", hint="Keep one of them.")
    if fs_type is FsType.XFS:
        flags.append(_OWN_FLAG)
    return tuple(dict.fromkeys(flags))


def _parse_flag(text: str) -> str:
    try:
        return parse_option(text)
    except InvalidValueError as error:
        raise InvalidValueError(f"Of mount_flags: {error.message}", hint=error.hint) from error
