"""Reads what requests name, and how it is to be used: IDs, sizes, capabilities, topologies, sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agent.controller.calls import (
    GIB,
    CopySource,
    NodeId,
    NoSuchThingError,
    Pairs,
    SizeError,
    SizeRange,
    require_pairs,
)
from agent.controller.node_ids import parse_node_id
from agent.core.errors import InvalidValueError
from agent.core.model import VolumeId, parse_volume_id
from agent.core.quoting import quote
from agent.csi.calls import AccessMode, Capability
from agent.csi.service.parse_capability import parse_capability
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire import csi_pb2

LARGEST_BYTES = 65_536 * GIB
"""No type of volume has more. Source: the EBS user guide, "Amazon EBS volume types"."""

_SNAPSHOT_ID = re.compile(r"snap-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)
_ONE_NODE = frozenset(
    {
        AccessMode.SINGLE_NODE_WRITER,
        AccessMode.SINGLE_NODE_READER_ONLY,
        AccessMode.SINGLE_NODE_SINGLE_WRITER,
        AccessMode.SINGLE_NODE_MULTI_WRITER,
    }
)


def require(field: str, text: str) -> str:
    """Return a text that has to be there. Raises InvalidValueError."""
    if not text:
        raise InvalidValueError(f"The {field} is missing.")
    return text


def find_volume_id(text: str, field: str = "volume_id") -> VolumeId | None:
    """Return the volume's ID; None: no volume can have it. Raises InvalidValueError where it is missing."""
    try:
        return parse_volume_id(require(field, text))
    except InvalidValueError:
        if text:
            return None
        raise


def parse_volume(text: str, field: str = "volume_id") -> VolumeId:
    """Return the volume's ID. Raises InvalidValueError where it is missing, else NoSuchThingError."""
    volume_id = find_volume_id(text, field)
    if volume_id is None:
        raise NoSuchThingError(
            f"No volume has the ID {quote(text)}.",
            hint="A volume's ID is vol- and 8 or 17 hexadecimal digits.",
            retryable=False,
        )
    return volume_id


def find_snapshot_id(text: str) -> str | None:
    """Return the snapshot's ID; None where no snapshot can have it."""
    return text if _SNAPSHOT_ID.fullmatch(text) else None


def parse_node(text: str) -> NodeId:
    """Return the node. Raises InvalidValueError where its ID is missing, else NoSuchThingError."""
    try:
        return parse_node_id(require("node_id", text))
    except InvalidValueError as error:
        if not text:
            raise
        raise NoSuchThingError(error.message, hint=error.hint, retryable=False) from error


def parse_size(said: csi_pb2.CapacityRange, name: str) -> SizeRange:
    """Return how large ``name`` is to be. Raises InvalidValueError, or SizeError for more than there is."""
    required, limit = said.required_bytes, said.limit_bytes
    if required < 0 or limit < 0 or 0 < limit < required:
        raise InvalidValueError(
            f"The capacity_range of {name} cannot be meant: {required} bytes at least, {limit} at most."
        )
    if required > LARGEST_BYTES:
        raise SizeError(
            f"{name} is to have {required} bytes, and no volume has more than {LARGEST_BYTES}.",
            hint="Ask for 64 TiB at the most; gp2, st1, sc1 and standard have less.",
        )
    return SizeRange(required or None, limit or None)


def parse_uses(said: Sequence[csi_pb2.VolumeCapability], name: str) -> tuple[Capability, ...]:
    """Return how ``name`` is to be used, each of which a volume of EBS can be. Raises InvalidValueError."""
    if not said:
        raise InvalidValueError(f"The volume_capabilities of {name} are missing.")
    return tuple(parse_use(one, name) for one in said)


def parse_use(said: csi_pb2.VolumeCapability, name: str) -> Capability:
    """Return one use of ``name``. Raises InvalidValueError."""
    use = parse_capability(said, name)
    if use.access in _ONE_NODE or (use.access is AccessMode.MULTI_NODE_MULTI_WRITER and use.is_block):
        return use
    raise InvalidValueError(
        f"A volume cannot be used so, as {use.access} asks of {name}.",
        hint="Use ReadWriteOnce or ReadWriteOncePod; ReadWriteMany only with volumeMode: Block and type io2.",
    )


def parse_topologies(said: Iterable[csi_pb2.Topology]) -> tuple[Pairs, ...]:
    """Return topologies as they were sent, each but once."""
    return tuple(dict.fromkeys(require_pairs(tuple(one.segments.items())) for one in said))


def parse_source(request: wire.CreateVolumeRequest) -> CopySource | None:
    """Return what the new volume is to hold. Raises NoSuchThingError where it can be nothing."""
    if not request.HasField("volume_content_source"):
        return None
    said = request.volume_content_source
    kind = said.WhichOneof("type")
    if kind == "volume":
        return CopySource(volume_id=parse_volume(said.volume.volume_id, "source volume_id"))
    if kind != "snapshot":
        raise InvalidValueError(f"The volume_content_source of {quote(request.name)} has no type.")
    snapshot_id = find_snapshot_id(require("snapshot_id", said.snapshot.snapshot_id))
    if snapshot_id is None:
        raise NoSuchThingError(
            f"No snapshot has the ID {quote(said.snapshot.snapshot_id)}.",
            hint="A snapshot's ID is snap- and 8 or 17 hexadecimal digits.",
            retryable=False,
        )
    return CopySource(snapshot_id=snapshot_id)


def parse_page(max_entries: int) -> int | None:
    """Return how many entries a page may have; None: any number. Raises InvalidValueError."""
    if max_entries < 0:
        raise InvalidValueError(f"The max_entries cannot be {max_entries}.", hint="0 stands for no limit.")
    return max_entries or None
