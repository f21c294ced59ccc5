"""Whether this node has the volumes it needs: one pure answer for ``/healthz``, ``wait`` and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from agent.core.errors import InvalidValueError
from agent.core.quoting import fit
from agent.core.suggestions import hint_at_known
from agent.report.board.shown import ShownBoard
from agent.report.board.volume_status import VolumeStatus

if TYPE_CHECKING:  # a face that follows another's board has none of its own
    from agent.report.board.board import Board


class Readiness(Struct, frozen=True):
    """``waiting`` names the volumes that keep the node from being ready; empty once it is."""

    is_first_look_done: bool
    waiting: tuple[VolumeStatus, ...]
    counted: int = 0
    """How many volumes it is about, ready or not."""

    @property
    def is_ready(self) -> bool:
        return self.is_first_look_done and not self.waiting


def assess_node(board: ShownBoard) -> Readiness:
    """Tell whether every required volume can be used."""
    needed = (status for status in board.statuses() if status.is_required)
    return _assess(board, needed=tuple(needed))


def assess_volumes(board: Board, names: Sequence[str]) -> Readiness:
    """Tell whether the volumes of these names or IDs can be used.

    Raises AgentError (usage) for a name that neither the policy nor any attached volume has, once the first
    look is done and so nothing more is to be learned by waiting.
    """
    if not names:
        return assess_node(board)
    found = {name: board.find(name) for name in names}
    unknown = sorted(name for name, status in found.items() if status is None)
    if unknown and board.is_first_look_done:
        raise name_unknown(board, *unknown)
    return _assess(board, needed=tuple(status for status in found.values() if status is not None))


def _assess(board: ShownBoard, needed: tuple[VolumeStatus, ...]) -> Readiness:
    waiting = tuple(status for status in needed if not status.condition.is_usable)
    return Readiness(board.is_first_look_done, waiting, len(needed))


def name_unknown(board: Board, *names: str) -> InvalidValueError:
    """Return the error that no volume is called so, with what was probably meant and those there are."""
    statuses = board.statuses()
    known = [status.label for status in statuses]
    also = [word for one in statuses for word in (one.volume_id, one.device, one.path) if word]
    hint = hint_at_known(names[0], known, "Volumes known here:", also=also)
    return InvalidValueError(f"No volume is called {', '.join(map(fit, names))}.", hint)
