"""Takes the agent's driver off kubelet for good, where the agent has been stopped and comes back no more.

kubelet lets go of a driver when its registration socket is removed: the node's CSINode loses it, and pods
that need it are started elsewhere. An agent that is only stopped leaves its sockets, since it may come back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from agent.core.errors import AgentError
from agent.csi.policy_volumes import records as policy_records
from agent.csi.policy_volumes.record import PublishedRecord
from agent.csi.policy_volumes.record import parse_record as parse_shown
from agent.csi.sockets.bind import remove_stale
from agent.csi.sockets.kubelet_root import Places
from agent.csi.volumes import staged_records
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
    staged = Shelf(state / staged_records.DIRECTORY, "staged", StagedRecord, parse_staged, machine_id)
    shown = Shelf(state / policy_records.DIRECTORY, "published", PublishedRecord, parse_shown, machine_id)
    yield from _list_noted(staged, boot_id)
    yield from _list_noted(shown, boot_id)


def _list_noted(shelf: Shelf[Claim], boot_id: str) -> Iterator[str]:
    for volume in shelf.list_volumes():
        try:
            record = shelf.read(volume)
        except AgentError as error:
            yield f"{volume} (perhaps: {error.message.rstrip('.')})"
            continue
        if record is not None and record.boot_id == boot_id:
            yield f"{volume} ({record.persistent_volume or 'its PersistentVolume is not known'})"


def remove_sockets(kubelet_root: str, drivers: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Remove the sockets of these drivers that nobody answers at, the registration's first.

    Returns those that were removed, and a sentence for each that stays, as another plugin's does.
    """
    removed: list[Path] = []
    left: list[str] = []
    root = os.path.realpath(kubelet_root)
    for driver in dict.fromkeys(drivers):
        places = Places(root, driver)
        for path in (places.registration, places.endpoint):
            if os.path.lexists(path):
                fault = _remove(path)
                removed += [path] if fault is None else []
                left += [] if fault is None else [f"{path} stays: {fault}"]
        with suppress(OSError):  # somebody else has something in it
            places.endpoint.parent.rmdir()
    return removed, left


def _remove(path: Path) -> str | None:
    """Remove a socket that nobody answers at; return why it stays."""
    try:
        remove_stale(path)
    except AgentError as error:
        return error.message
    except OSError as error:
        return f"{error.strerror}."
    return None
