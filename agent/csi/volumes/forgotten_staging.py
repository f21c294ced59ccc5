"""Volumes that are staged here and that kubelet knows no more: told, and never taken down by guess.

kubelet takes back what it has notes of. Where these are gone, as when its root directory was removed or made
anew, nobody unstages a volume, and it stays mounted and attached.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

import anyio

from agent.base.off_loop import Aside
from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId
from agent.core.steps import Degrade
from agent.csi.volumes.kubelet_notes import find_note, list_missing
from agent.csi.volumes.staged_record import StagedRecord
from agent.report.board.board import Board
from agent.report.board.events import EventName

LOOK_S = 5.0
LOOKS = 2
"""How often in a row a note is not to be there: kubelet removes it just after it has a volume unstaged."""


class ForgottenStaging:
    """Tells on the board which of the staged volumes kubelet has forgotten.

    ``resolve`` finds where kubelet's paths lead, ``name_note`` where the agent's own note about a volume is.
    """

    def __init__(
        self,
        staged: Mapping[VolumeId, StagedRecord],
        resolve: Callable[[str], str],
        aside: Aside,
        board: Board,
        name_note: Callable[[VolumeId], str],
    ) -> None:
        self._staged = staged
        self._resolve = resolve
        self._aside = aside
        self._board = board
        self._name_note = name_note
        self._times: dict[VolumeId, int] = {}
        """How often in a row the note about a volume was not there."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await anyio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once. What cannot be looked at now is as it was."""
        staged = {volume: record for volume, record in self._staged.items() if not record.is_leaving}
        notes = {volume: find_note(self._resolve(record.staging_path)) for volume, record in staged.items()}
        try:
            missing = set(await self._aside(list_missing, tuple(notes.values()), subject="kubelet's notes"))
        except (AgentError, OSError):
            return
        before = {volume for volume, times in self._times.items() if times >= LOOKS}
        self._times = {
            volume: self._times.get(volume, 0) + 1 for volume, note in notes.items() if note in missing
        }
        forgotten = {volume for volume, times in self._times.items() if times >= LOOKS}
        told = {volume: self._explain(staged[volume], notes[volume]) for volume in sorted(forgotten)}
        self._board.put_volume_notices(told)
        for volume in sorted(forgotten - before):
            degrade = told[volume]
            self._board.record(
                EventName.KUBELET_FORGOT,
                volume,
                reason=degrade.reason.value,
                message=degrade.message,
                hint=degrade.hint,
            )

    def _explain(self, record: StagedRecord, note: str) -> Degrade:
        volume, own = record.volume_id, self._name_note(record.volume_id)
        path = self._resolve(record.staging_path)
        unmount = "" if record.is_block else f"umount {shlex.quote(path)}; "
        return Degrade(
            Reason.ORPHANED_STAGING,
            f"{volume} is staged at {path}, and kubelet knows nothing of it any more: {note} is gone.",
            hint="Nobody takes it back. Where no pod of this node uses it, restart the node; or: systemctl"
            f" stop ebs-agent; {unmount}rm {shlex.quote(own)}; systemctl start ebs-agent.",
        )
