"""What the agent may do to a volume, as data: shown by ``plan``, logged, and executed, one object for all.

A step says what, never how. ``describe()`` is the sentence people read, in the present tense.
"""

from __future__ import annotations

from agent.core.steps.actions import (
    Action,
    Check,
    EndRaw,
    Format,
    GrowFilesystem,
    GrowPartition,
    Link,
    MountFilesystem,
    MoveMount,
    NoteRaw,
    Relinquish,
    Remount,
    RestoreNodeOwnership,
    SetNodeOwnership,
    SetRootOwnership,
    SettleFormat,
    Tune,
    Unlink,
    Unmount,
)
from agent.core.steps.endings import Degrade, Ending, Refuse, Wait
from agent.core.steps.plan import Plan, Step
from agent.core.steps.views import Publish, PublishNode, Unpublish

__all__ = [
    "Action",
    "Check",
    "Degrade",
    "EndRaw",
    "Ending",
    "Format",
    "GrowFilesystem",
    "GrowPartition",
    "Link",
    "MountFilesystem",
    "MoveMount",
    "NoteRaw",
    "Plan",
    "Publish",
    "PublishNode",
    "Refuse",
    "Relinquish",
    "Remount",
    "RestoreNodeOwnership",
    "SetNodeOwnership",
    "SetRootOwnership",
    "SettleFormat",
    "Step",
    "Tune",
    "Unlink",
    "Unmount",
    "Unpublish",
    "Wait",
]
