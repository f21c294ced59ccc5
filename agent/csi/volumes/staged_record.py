"""One note of what kubelet has asked for and not taken back, as it is made and as its file holds it.

Workers read and write it, so nothing of the daemon's is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from agent.core.model import FsType, VolumeId, parse_volume_id
from agent.core.replace import replace
from agent.csi.calls import AccessMode, Capability, StageCall
from agent.node.state.record_fields import Fields, check_text

_NAMED = re.compile(
    r"/volumes/kubernetes\.io~csi/([^/]+)/mount$|/volumeDevices/(?:staging|publish)/([^/]+)(?:/|$)", re.ASCII
)
"""Where kubelet publishes a filesystem, and stages and publishes a device (pkg/volume/csi in Kubernetes)."""

DIRECTORY = "kubelet"
"""Of the notes, below the state directory."""


class Publication(Struct, frozen=True):
    """One pod's view of a volume."""

    target_path: str
    is_read_only: bool
    access: AccessMode


class StagedRecord(Struct, frozen=True):
    """The durable note that kubelet wants a volume on this node: from before it is staged until it is not."""

    volume_id: VolumeId
    boot_id: str
    staging_path: str
    """As kubelet gave it, not resolved."""
    access: AccessMode
    is_block: bool
    fs_type: FsType
    mount_flags: tuple[str, ...]
    mkfs_options: tuple[str, ...]
    partition: int | None
    is_copy: bool
    is_format_allowed: bool
    published: tuple[Publication, ...] = ()
    is_leaving: bool = False
    """Kubelet has taken it back, and something of it is mounted or held still."""

    @property
    def persistent_volume(self) -> str | None:
        """The name of the PersistentVolume, as kubelet's paths have it; None before they do."""
        return find_persistent_volume((self.staging_path, *(one.target_path for one in self.published)))

    def publishes(self, publication: Publication | None, target_path: str) -> StagedRecord:
        """Return the record with this at a target; None: with nothing there."""
        others = tuple(one for one in self.published if one.target_path != target_path)
        ours = () if publication is None else (publication,)
        return replace(self, published=(*others, *ours))

    def find_publication(self, target_path: str) -> Publication | None:
        """Return what is noted of a target."""
        return next((one for one in self.published if one.target_path == target_path), None)

    def has_path(self, path: str) -> bool:
        """Whether the volume is staged or published at a path."""
        return path == self.staging_path or self.find_publication(path) is not None


def find_persistent_volume(paths: Iterable[str]) -> str | None:
    """Return the name of the PersistentVolume that kubelet made paths for; None where none says it."""
    named = filter(None, map(_NAMED.search, paths))
    return next((found[1] or found[2] for found in named), None)


def make_record(call: StageCall, boot_id: str) -> StagedRecord:
    """Return the note about a call to stage a volume."""
    capability = call.capability
    return StagedRecord(
        call.volume_id,
        boot_id,
        call.staging_path,
        capability.access,
        capability.is_block,
        capability.fs_type,
        capability.mount_flags,
        call.mkfs_options,
        call.partition,
        call.is_copy,
        call.is_format_allowed,
    )


def make_bare_record(volume_id: VolumeId, boot_id: str, staging_path: str) -> StagedRecord:
    """Return a note that says no more than where a volume may be: for one of which none is kept."""
    capability = Capability(AccessMode.SINGLE_NODE_READER_ONLY)
    return make_record(StageCall(volume_id, staging_path, capability, is_format_allowed=False), boot_id)


def _names(record: type[StagedRecord | Publication]) -> frozenset[str]:
    return frozenset(record.__struct_fields__)


def parse_record(fields: Fields) -> StagedRecord:
    """Return the note that a file holds; ValueError where it holds none."""
    return StagedRecord(
        volume_id=parse_volume_id(fields.take_text("volume_id")),
        boot_id=fields.take_text("boot_id"),
        staging_path=fields.take_text("staging_path"),
        access=AccessMode(fields.take_text("access")),
        is_block=fields.take_flag("is_block"),
        fs_type=FsType(fields.take_text("fs_type")),
        mount_flags=tuple(map(check_text, fields.take_list("mount_flags"))),
        mkfs_options=tuple(map(check_text, fields.take_list("mkfs_options"))),
        partition=None if fields.is_none("partition") else fields.take_number("partition"),
        is_copy=fields.take_flag("is_copy"),
        is_format_allowed=fields.take_flag("is_format_allowed"),
        published=tuple(map(_parse_publication, fields.take_list("published"))),
        is_leaving=fields.take_flag("is_leaving"),
    )


def _parse_publication(value: object) -> Publication:
    fields = Fields(value, _names(Publication))
    return Publication(
        fields.take_text("target_path"),
        fields.take_flag("is_read_only"),
        AccessMode(fields.take_text("access")),
    )
