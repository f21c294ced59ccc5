"""What the entries of the policy mean on this node now, and how that is."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.errors import AgentError, RefusedError
from agent.core.model import Condition, Reason, VolumeId, Wanted
from agent.core.suggestions import hint_at_known
from agent.csi.policy_volumes.calls import EntryName, PublishEntryCall
from agent.csi.policy_volumes.record import PublishedRecord
from agent.csi.volumes.engine import NOT_SERVED, find_fault
from agent.loop.goals import Want
from agent.report.board.board import Board
from agent.report.board.volume_status import VolumeStatus

_ON_THE_WAY = frozenset({Condition.PENDING, Condition.PREPARING})
_TO_BE_MENDED = frozenset({Reason.RELEASED, Reason.NOT_IN_POLICY})
"""By somebody: what waits for them is not on its way."""


class Entries:
    """The policy's entries: what is wanted of each volume, as it was worked out last, and how that is."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._wants: Mapping[VolumeId, Want] = {}

    def see(
        self, wants: Mapping[VolumeId, Want], records: Mapping[VolumeId, PublishedRecord]
    ) -> dict[VolumeId, Want]:
        """Take note of what is wanted, and return it; of what it leaves to pods, why that is so."""
        left = {
            volume: _explain_left(record)
            for volume, record in records.items()
            if record.published and volume in wants and wants[volume] is None
        }
        self._wants = {**wants, **left}
        return self._wants

    def find_wanted(self, entry: EntryName) -> Wanted | None:
        """Return what is wanted of the volume that an entry means; None: of none, as far as is known."""
        for want in self._wants.values():
            if isinstance(want, Wanted) and not want.is_kubelets and want.name == entry:
                return want
        return None

    def refuse_unknown(self, entry: EntryName) -> None:
        """Raise RefusedError (NotInPolicy) where the policy has no such entry for this node."""
        names = sorted(expected.name for expected in self._board.expected)
        if entry in names:
            return
        known = hint_at_known(entry, names, "It has")
        raise RefusedError(
            f"The policy has no entry {entry!r} for this node.",
            hint=f"{known} The volumeHandle of the PersistentVolume is to be one of them.",
            reason=Reason.NOT_IN_POLICY,
            retryable=False,
        )

    def find_status(self, entry: EntryName) -> VolumeStatus | None:
        """Return how the volume of an entry is, or the one that it names."""
        status = self._board.find(entry)
        if status is not None:
            return status
        named = (one.volume_id for one in self._board.expected if one.name == entry)
        return next((self._board.find(volume) for volume in named if volume is not None), None)

    def find_fault(self, call: PublishEntryCall, wanted: Wanted | None) -> AgentError | None:
        """Return why the volume of an entry cannot be published now; None: it can."""
        status = self.find_status(call.entry)
        if wanted is None:
            return _explain(call.entry, status)
        if status is None or status.volume_id != wanted.volume_id:
            return AgentError(f"{call.entry!r} is {wanted.volume_id} now, which was not looked at yet.")
        not_served = NOT_SERVED | {Reason.IO_ERRORS}
        if call.is_read_only:
            not_served -= {Reason.READ_ONLY}
        path = None if wanted.mount is None else wanted.mount.path
        return find_fault(status, wanted.volume_id, path, not_served)

    def is_on_the_way(self, entry: EntryName) -> bool:
        """Tell whether the volume of an entry gets ready by itself, as far as is known."""
        status = self.find_status(entry)
        return status is None or (status.condition in _ON_THE_WAY and status.reason not in _TO_BE_MENDED)


def _explain(entry: EntryName, status: VolumeStatus | None) -> AgentError:
    """Return why no volume is wanted by an entry."""
    if status is None:
        return AgentError(f"{entry!r} has no volume on this node yet.", reason=Reason.NOT_ATTACHED)
    is_final = status.condition is Condition.REFUSED or status.reason is Reason.RELEASED
    kind = RefusedError if is_final else AgentError
    message = status.message or f"The volume of {entry!r} is {status.condition}."
    return kind(message, status.hint, status.reason or Reason.NOT_ATTACHED)


def _explain_left(record: PublishedRecord) -> AgentError:
    first = record.published[0]
    return RefusedError(
        f"The policy does not name {record.volume_id} any more, and pods have it as {first.entry!r}, at"
        f" {first.target_path}.",
        hint="Put the entry back, or end those pods. It is left as it is meanwhile.",
        reason=Reason.NOT_IN_POLICY,
        retryable=False,
    )
