"""Which volumes of pods kubelet has not given back, by the notes on the node's own disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from agent.core.errors import AgentError
from agent.csi.policy_volumes.record import DIRECTORY as PUBLISHED
from agent.csi.policy_volumes.record import PublishedRecord
from agent.csi.policy_volumes.record import parse_record as parse_shown
from agent.csi.volumes.staged_record import DIRECTORY as STAGED
from agent.csi.volumes.staged_record import StagedRecord
from agent.csi.volumes.staged_record import parse_record as parse_staged
from agent.node.state.record_files import Shelf
from agent.node.state.volume_records import read_boot_id, read_machine_id

Claim = TypeVar("Claim", StagedRecord, PublishedRecord)


def list_claims(state: Path, boot_id: str | None = None, machine_id: str | None = None) -> Iterator[str]:
    """Yield a clause for each volume that kubelet has not given back, by the notes below ``state``.

    A note that says nothing counts, since a pod may have its volume. Raises AgentError where it cannot be
    told of which volumes there are notes.
    """
    boot_id = boot_id or read_boot_id()
    machine_id = read_machine_id() if machine_id is None else machine_id
    staged = Shelf(state / STAGED, "staged", StagedRecord, parse_staged, machine_id)
    shown = Shelf(state / PUBLISHED, "published", PublishedRecord, parse_shown, machine_id)
    yield from _list_noted(staged, boot_id)
    yield from _list_noted(shown, boot_id)


def list_all_claims(state: str) -> list[str]:
    """Return all that ``list_claims`` yields: for a worker."""
    return list(list_claims(Path(state)))


def _list_noted(shelf: Shelf[Claim], boot_id: str) -> Iterator[str]:
    for volume in shelf.list_volumes():
        try:
            record = shelf.read(volume)
        except AgentError as error:
            yield f"{volume} (perhaps: {error.message.rstrip('.')})"
            continue
        if record is not None and record.boot_id == boot_id:
            yield f"{volume} ({record.persistent_volume or 'its PersistentVolume is not known'})"
