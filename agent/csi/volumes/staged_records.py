"""What kubelet has asked for and not taken back: notes that are synced before anything is done for it.

A restart of the agent goes on with them. A reboot ends them all: kubelet begins anew then, and asks again.
"""

from __future__ import annotations

from pathlib import Path

from agent.csi.volumes.boot_notes import BootNotes, Notes
from agent.csi.volumes.staged_record import DIRECTORY, StagedRecord, parse_record
from agent.node.state.record_files import Shelf


class StagedRecords(BootNotes[StagedRecord]):
    """What is noted of the volumes that kubelet has staged since the node was started."""

    def __init__(self, directory: Path, notes: Notes, boot_id: str, machine_id: str) -> None:
        shelf = Shelf(directory / DIRECTORY, "staged", StagedRecord, parse_record, machine_id)
        super().__init__(shelf, notes, boot_id)
