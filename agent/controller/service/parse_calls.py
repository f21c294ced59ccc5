"""Reads the sidecars' requests: protobuf in, the agent's own words out, every value checked.

Whatever is wrong raises InvalidValueError, which names the field and says the way out; a name that nothing
can have raises NoSuchThingError. Whatever the node would refuse is refused here, before anything is made.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.cloud.aws.models import Tags
from agent.controller.calls import (
    AttachCall,
    CreateCall,
    ExpandCall,
    ModifyCall,
    Pairs,
    Performance,
    SnapshotCall,
    SnapshotQuery,
    UseQuestion,
    require_pairs,
)
from agent.controller.making.iops_ratio import make_ratio_tags
from agent.controller.service.parse_class import (
    is_initialized_first,
    parse_attributes_class,
    parse_snapshot_class,
    parse_storage_class,
    prefer,
)
from agent.controller.service.parse_tags import (
    SNAPSHOT_FIELDS,
    VOLUME_FIELDS,
    parse_removed_tags,
    parse_tags,
    read_metadata,
    read_origin_tags,
)
from agent.controller.service.parse_use import (
    parse_node,
    parse_size,
    parse_source,
    parse_topologies,
    parse_use,
    parse_uses,
    parse_volume,
    require,
)
from agent.core.errors import InvalidValueError
from agent.core.quoting import quote
from agent.csi.calls import AccessMode, Capability
from agent.csi.service.parse_context import SOURCE_KEY, parse_context
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.csi_pb2 import VolumeCapability

_MULTI_ATTACH_TYPE = "io2"


def parse_create(request: wire.CreateVolumeRequest) -> CreateCall:
    """Read which volume is to be made."""
    name = quote(require("name", request.name))
    uses = parse_uses(request.volume_capabilities, name)
    size = parse_size(request.capacity_range, name)
    words = parse_storage_class(request.parameters, VOLUME_FIELDS)
    wished = parse_attributes_class(request.mutable_parameters, VOLUME_FIELDS)
    performance = prefer(wished, words.performance)
    is_multi_attach = any(use.access is AccessMode.MULTI_NODE_MULTI_WRITER for use in uses)
    if is_multi_attach and performance.type != _MULTI_ATTACH_TYPE:
        raise InvalidValueError(
            f"Only a volume of type {_MULTI_ATTACH_TYPE} can be used by several nodes, as asked of {name}.",
            hint=f"Use a StorageClass with type: {_MULTI_ATTACH_TYPE}, or the access mode ReadWriteOnce.",
        )
    source = parse_source(request)
    context = dict(words.context or {})
    if source is not None:
        context[SOURCE_KEY] = source.snapshot_id or source.volume_id or ""
    return CreateCall(
        name=request.name,
        size=size,
        performance=performance,
        requisite=parse_topologies(request.accessibility_requirements.requisite),
        preferred=parse_topologies(request.accessibility_requirements.preferred),
        source=source,
        is_multi_attach=is_multi_attach,
        is_encrypted=words.is_encrypted,
        kms_key_id=words.kms_key_id,
        # EC2 takes it with a snapshot only; a class is for blank volumes, too.
        initialization_rate_mib=words.initialization_rate_mib
        if source is not None and source.snapshot_id
        else None,
        tags=_read_tags(request, performance),
        context=_check_context(context, uses),
    )


def _read_tags(request: wire.CreateVolumeRequest, performance: Performance) -> Tags:
    """Return the tags of both classes, of which the VolumeAttributesClass's wins, and of the claim."""
    metadata = read_metadata(request.parameters, VOLUME_FIELDS)
    return tuple(
        sorted(
            {
                **dict(parse_tags(request.parameters, metadata)),
                **dict(parse_tags(request.mutable_parameters, metadata)),
                **dict(read_origin_tags(request.parameters, VOLUME_FIELDS)),
                **dict(make_ratio_tags(performance)),
            }.items()
        )
    )


def _check_context(context: Mapping[str, str], uses: tuple[Capability, ...]) -> Pairs:
    """Return what the node will be told, read as the node will read it."""
    try:
        for use in uses:
            parse_context(context, None if use.is_block else use.fs_type)
    except InvalidValueError as error:
        raise InvalidValueError(
            f"No node could make the volume's filesystem so. {error.message}", hint=error.hint
        ) from error
    return require_pairs(tuple(context.items()))


def parse_attach(request: wire.ControllerPublishVolumeRequest) -> AttachCall:
    """Read which volume is to be attached, and to which node."""
    require("volume_id", request.volume_id)
    require("node_id", request.node_id)
    if not request.HasField("volume_capability"):
        raise InvalidValueError(f"The volume_capability of {quote(request.volume_id)} is missing.")
    use = parse_use(request.volume_capability, quote(request.volume_id))
    return AttachCall(
        volume_id=parse_volume(request.volume_id),
        node=parse_node(request.node_id),
        is_read_only=request.readonly or use.access.is_read_only,
        is_multi_node=use.access is AccessMode.MULTI_NODE_MULTI_WRITER,
        is_initialized_first=is_initialized_first(request.volume_context),
    )


def parse_expand(request: wire.ControllerExpandVolumeRequest) -> ExpandCall:
    """Read which volume is to grow, and how far."""
    require("volume_id", request.volume_id)
    if not request.HasField("capacity_range"):
        raise InvalidValueError(f"The capacity_range of {quote(request.volume_id)} is missing.")
    return ExpandCall(
        volume_id=parse_volume(request.volume_id),
        size=parse_size(request.capacity_range, quote(request.volume_id)),
        is_block=request.volume_capability.WhichOneof("access_type") == "block",
    )


def parse_modify(request: wire.ControllerModifyVolumeRequest) -> ModifyCall:
    """Read which class a volume is to have."""
    said = request.mutable_parameters
    performance = parse_attributes_class(said, VOLUME_FIELDS)
    tags = (*parse_tags(said, read_metadata(said, VOLUME_FIELDS)), *make_ratio_tags(performance))
    return ModifyCall(
        volume_id=parse_volume(request.volume_id),
        performance=performance,
        tags=tuple(sorted(tags)),
        removed_tags=parse_removed_tags(said),
    )


def parse_validate(request: wire.ValidateVolumeCapabilitiesRequest) -> UseQuestion:
    """Read which uses of a volume are asked about; what none can be is the volume's to say."""
    require("volume_id", request.volume_id)
    if not request.volume_capabilities:
        raise InvalidValueError(f"The volume_capabilities of {quote(request.volume_id)} are missing.")
    modes = tuple(
        (_name_mode(said), said.WhichOneof("access_type") == "block") for said in request.volume_capabilities
    )
    return UseQuestion(parse_volume(request.volume_id), modes)


def _name_mode(said: VolumeCapability) -> str:
    mode = VolumeCapability.AccessMode.Mode.DESCRIPTOR.values_by_number.get(said.access_mode.mode)
    return "UNKNOWN" if mode is None else mode.name


def parse_snapshot(request: wire.CreateSnapshotRequest) -> SnapshotCall:
    """Read which snapshot is to be taken."""
    require("name", request.name)
    volume_id = parse_volume(request.source_volume_id, "source_volume_id")
    said = request.parameters
    zones, lock = parse_snapshot_class(said, SNAPSHOT_FIELDS)
    tags = {
        **dict(parse_tags(said, read_metadata(said, SNAPSHOT_FIELDS))),
        **dict(read_origin_tags(said, SNAPSHOT_FIELDS)),
    }
    return SnapshotCall(request.name, volume_id, tuple(sorted(tags.items())), zones, lock)


def parse_query(request: wire.ListSnapshotsRequest) -> SnapshotQuery:
    """Read which snapshots are asked for."""
    return SnapshotQuery(request.snapshot_id or None, request.source_volume_id or None)
