"""One note of which pods have a volume of the policy, as it is made and as its file holds it.

Workers read and write it, so nothing of the daemon's is imported here.
"""

from __future__ import annotations

from msgspec import Struct

from agent.core.model import VolumeId, parse_volume_id
from agent.core.replace import replace
from agent.csi.calls import AccessMode
from agent.csi.policy_volumes.calls import EntryName
from agent.csi.volumes.staged_record import Publication, find_persistent_volume
from agent.node.state.record_fields import Fields

DIRECTORY = "published"
"""Of the notes, below the state directory."""


class EntryPublication(Publication, frozen=True):
    """One pod's view of the volume of an entry."""

    entry: EntryName
    is_block: bool


class PublishedRecord(Struct, frozen=True):
    """The durable note that pods have a volume of the policy: from before it is shown until none has it."""

    volume_id: VolumeId
    boot_id: str
    published: tuple[EntryPublication, ...] = ()

    @property
    def persistent_volume(self) -> str | None:
        """The name of a PersistentVolume that it is published by, as kubelet's paths have it."""
        return find_persistent_volume(one.target_path for one in self.published)

    def find(self, target_path: str) -> EntryPublication | None:
        """Return what is noted of a target."""
        return next((one for one in self.published if one.target_path == target_path), None)

    def publishes(self, publication: EntryPublication | None, target_path: str) -> PublishedRecord:
        """Return the record with this at a target; None: with nothing there."""
        others = tuple(one for one in self.published if one.target_path != target_path)
        ours = () if publication is None else (publication,)
        return replace(self, published=(*others, *ours))


_NAMES = frozenset(EntryPublication.__struct_fields__)


def parse_record(fields: Fields) -> PublishedRecord:
    """Return the note that a file holds; ValueError where it holds none."""
    return PublishedRecord(
        volume_id=parse_volume_id(fields.take_text("volume_id")),
        boot_id=fields.take_text("boot_id"),
        published=tuple(map(_parse_publication, fields.take_list("published"))),
    )


def _parse_publication(value: object) -> EntryPublication:
    fields = Fields(value, _NAMES)
    return EntryPublication(
        target_path=fields.take_text("target_path"),
        is_read_only=fields.take_flag("is_read_only"),
        access=AccessMode(fields.take_text("access")),
        entry=EntryName(fields.take_text("entry")),
        is_block=fields.take_flag("is_block"),
    )
