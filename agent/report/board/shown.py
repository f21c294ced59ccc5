"""What faces read of a board, be it this process's own or one that follows another's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from agent.core.model import Attachments, Ending, NextCall, NodePlace, Provisioned, VolumeId
from agent.report.board.events import EventHistory
from agent.report.board.node_conditions import NodeCondition
from agent.report.board.volume_status import VolumeStatus


class ShownBoard(Protocol):
    """The present state of all volumes and of the node, to be read."""

    @property
    def history(self) -> EventHistory: ...
    @property
    def is_first_look_done(self) -> bool: ...
    @property
    def place(self) -> NodePlace: ...
    @property
    def provisioned(self) -> Mapping[VolumeId, Provisioned]: ...
    @property
    def next_calls(self) -> tuple[NextCall, ...]: ...
    @property
    def attachments(self) -> Attachments | None: ...
    @property
    def ending(self) -> Ending | None: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...
    @property
    def node_conditions(self) -> Iterable[NodeCondition]: ...
    @property
    def persistent_volumes(self) -> Mapping[VolumeId, str]: ...

    def statuses(self) -> tuple[VolumeStatus, ...]:
        """Return every volume known; by name, those without one last."""
