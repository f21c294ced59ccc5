"""Reads kubelet's requests about volumes of the policy: protobuf in, the agent's own words out.

Whatever is wrong raises InvalidValueError, which names the field and says the way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from agent.core.errors import InvalidValueError
from agent.core.mount_options import OF_A_VIEW
from agent.core.quoting import quote
from agent.csi.policy_volumes.calls import EntryName, PublishEntryCall
from agent.csi.service.parse_capability import is_block, parse_access, parse_fs_type
from agent.csi.service.parse_context import OWN_PREFIX
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.wire import csi_pb2 as wire
from agent.policy.values.fields import NAME_PATTERN

_SAYS_NOTHING = frozenset({"defaults", "rw"})


def parse_publish(request: wire.NodePublishVolumeRequest, paths: KubeletPaths) -> PublishEntryCall:
    """Read what is to be published. Raises InvalidValueError."""
    entry = parse_entry(request.volume_id)
    target_path = paths.parse_target(request.target_path)
    said = request.volume_capability
    access = parse_access(said.access_mode.mode)
    is_raw = is_block(said, entry)
    _refuse_own_attributes(request.volume_context)
    flags = () if is_raw else _parse_flags(said.mount.mount_flags)
    return PublishEntryCall(
        entry=entry,
        target_path=target_path,
        access=access,
        is_block=is_raw,
        is_read_only=request.readonly or access.is_read_only or "ro" in flags,
        fs_type=parse_fs_type(said.mount.fs_type) if said.mount.fs_type else None,
        flags=tuple(flag for flag in flags if flag != "ro"),
    )


def parse_unpublish(request: wire.NodeUnpublishVolumeRequest, paths: KubeletPaths) -> tuple[EntryName, str]:
    """Read what is not to be published any more, and where. Raises InvalidValueError."""
    return parse_entry(request.volume_id), paths.parse_target(request.target_path)


def parse_measure(request: wire.NodeGetVolumeStatsRequest, paths: KubeletPaths) -> tuple[EntryName, str]:
    """Read what is to be measured, and where. Raises InvalidValueError, or NoSuchPathError."""
    return parse_entry(request.volume_id), paths.parse_volume_path(request.volume_path)


def parse_entry(text: str) -> EntryName:
    """Return the name of an entry as the policy may have it. Raises InvalidValueError."""
    if not text:
        raise InvalidValueError("The volume_id is missing.")
    if text.startswith("vol-"):
        raise InvalidValueError(
            f"{quote(text)} is a volume's ID, and volumes of the policy go by the names of their entries.",
            hint="Write the entry's name as volumeHandle; volumes by their IDs have another driver.",
        )
    if not re.fullmatch(NAME_PATTERN.removeprefix("^").removesuffix("$"), text, re.ASCII):
        raise InvalidValueError(
            f"{quote(text)} cannot be the name of an entry of the policy.",
            hint="The volumeHandle of the PersistentVolume is to be one, as in datasets.",
        )
    return EntryName(text)


def _parse_flags(texts: Iterable[str]) -> tuple[str, ...]:
    flags = tuple(dict.fromkeys(text for text in texts if text not in _SAYS_NOTHING))
    for flag in flags:
        if flag not in OF_A_VIEW and flag != "ro":
            raise InvalidValueError(
                f"Of mount_flags: {quote(flag)} is not for one pod to choose.",
                hint=f"A pod's view may have ro, {', '.join(sorted(OF_A_VIEW))}; the rest is the policy's.",
            )
    return flags


def _refuse_own_attributes(context: Mapping[str, str]) -> None:
    for key in context:
        if key.lower().startswith(OWN_PREFIX):
            raise InvalidValueError(
                f"The attribute {quote(key)} is not for a volume of the policy.",
                hint="Take it out of volumeAttributes: how the volume is made, the policy says.",
            )
