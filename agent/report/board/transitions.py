"""Which event it is when a volume's state changes or a step ends. One per change, none for sameness.

A state is one that lasts: a volume that is Preparing again and ends as it was before, as each retry of a
failing step does, has not changed.
"""

from __future__ import annotations

from agent.core.errors import AgentError
from agent.core.model import Condition, Observed
from agent.core.steps import Action, MountFilesystem, Publish, PublishNode, Unmount, Unpublish
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.board.volume_status import VolumeStatus

_CONDITION_EVENTS = {
    Condition.READY: EventName.VOLUME_READY,
    Condition.DEGRADED: EventName.VOLUME_DEGRADED,
    Condition.FAILED: EventName.VOLUME_FAILED,
    Condition.REFUSED: EventName.VOLUME_REFUSED,
    Condition.LOST: EventName.VOLUME_LOST,
}

_STEP_EVENTS = {
    "format": EventName.VOLUME_FORMATTED,
    "check": EventName.VOLUME_CHECKED,
    "grow": EventName.VOLUME_GROWN,
    "mount": EventName.VOLUME_MOUNTED,
    "remount": EventName.VOLUME_REMOUNTED,
    "move": EventName.VOLUME_MOVED,
    "unmount": EventName.VOLUME_UNMOUNTED,
    "link": EventName.VOLUME_LINKED,
    "tune": EventName.VOLUME_TUNED,
    "publish": EventName.VOLUME_PUBLISHED,
    "publish-node": EventName.VOLUME_PUBLISHED,
    "unpublish": EventName.VOLUME_UNPUBLISHED,
}


def record_transition(board: Board, old: VolumeStatus | None, new: VolumeStatus) -> None:
    """Record what became of a volume between two statuses: its device came or went, its condition changed."""
    had_device = old is not None and old.device is not None
    if new.device is not None and not had_device:
        board.record(EventName.VOLUME_ATTACHED, new.volume_id, device=new.device, size_bytes=new.size_bytes)
    if new.device is None and had_device:
        board.record(EventName.VOLUME_DETACHED, new.volume_id)
    if new.condition is Condition.PREPARING or not board.settle(new):
        return
    event = _CONDITION_EVENTS.get(new.condition)
    if event is None:
        return
    details = {
        "name": new.name,
        "path": new.path,
        "reason": new.reason and new.reason.value,
        "message": new.message or None,
        "hint": new.hint,
    }
    board.record(event, new.volume_id, **{key: value for key, value in details.items() if value is not None})


def record_step(
    board: Board, observed: Observed, action: Action, error: AgentError | None, duration_s: float
) -> None:
    """Record that a step ended. Steps too small to matter to anyone (node ownership) leave no event."""
    fields = {"step": action.kind, "text": action.describe(), "duration_s": round(duration_s, 4)}
    if error is not None:
        board.record(
            EventName.STEP_FAILED, observed.volume_id, **fields, error=error.message, hint=error.hint
        )
        return
    event = _STEP_EVENTS.get(action.kind)
    if event is None:
        return
    if isinstance(action, (MountFilesystem, Publish, PublishNode, Unpublish)):
        fields["path"] = action.path
    if isinstance(action, Unmount):
        fields["path"] = action.mount.path
    board.record(event, observed.volume_id, **fields)
