"""Reads how a volume is to be used: as a block device or by a filesystem, by whom, and with which flags.

Whatever is wrong raises InvalidValueError, which says the way out.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.errors import InvalidValueError
from agent.core.model import FsType
from agent.core.quoting import quote
from agent.csi.calls import AccessMode, Capability
from agent.csi.wire import csi_pb2 as wire
from agent.policy.values.mount_options import find_contradictions, parse_option

_OWN_FLAG = "nouuid"
"""AWS's driver mounts every XFS with it, so volumes ask for it; a copy is mounted beside its original."""
_MANY_WRITERS = frozenset({AccessMode.MULTI_NODE_SINGLE_WRITER, AccessMode.MULTI_NODE_MULTI_WRITER})


def parse_capability(said: wire.VolumeCapability, name: str) -> Capability:
    """Return how the volume, which sentences call ``name``, is to be used. Raises InvalidValueError."""
    access = parse_access(said.access_mode.mode)
    if is_block(said, name):
        return Capability(access=access, is_block=True)
    if access in _MANY_WRITERS:
        raise InvalidValueError(
            f"A filesystem cannot be written to by several nodes, as {access} asks of {name}.",
            hint="Use volumeMode: Block, or the access mode ReadWriteOnce.",
        )
    fs_type = parse_fs_type(said.mount.fs_type)
    return Capability(
        access=access, fs_type=fs_type, mount_flags=_parse_flags(said.mount.mount_flags, fs_type)
    )


def is_block(said: wire.VolumeCapability, name: str) -> bool:
    """Tell whether the volume is to be used as a block device. Raises InvalidValueError."""
    kind = said.WhichOneof("access_type")
    if kind is None:
        raise InvalidValueError(
            f"The volume_capability of {name} has no access_type.",
            hint="Say block, or mount; in Kubernetes that is volumeMode: Block or Filesystem.",
        )
    return bool(kind == "block")


def parse_access(mode: wire.VolumeCapability.AccessMode.Mode) -> AccessMode:
    """Return who may use the volume at once. Raises InvalidValueError."""
    names = wire.VolumeCapability.AccessMode.Mode.DESCRIPTOR.values_by_number
    name = names[mode].name if mode in names else str(mode)
    if name not in AccessMode.__members__:
        raise InvalidValueError(
            f"The access_mode {name} is not one of the interface's.", hint=f"Say {', '.join(AccessMode)}."
        )
    return AccessMode[name]


def parse_fs_type(text: str) -> FsType:
    """Return a kind of filesystem, ext4 where none is said. Raises InvalidValueError."""
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
