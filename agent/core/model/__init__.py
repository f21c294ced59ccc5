"""The words of the agent: volumes, devices, what is on them, what is wanted of them.

Values only: frozen, comparable, free of I/O. Everything else in the agent passes these around.
"""

from __future__ import annotations

from agent.core.model.checks import AwsChecks, Initialization
from agent.core.model.cluster import (
    AttachmentPlaces,
    Attachments,
    EndCause,
    Ending,
    NodeFacts,
    NodePlace,
    Origin,
    OriginAnswer,
)
from agent.core.model.content import (
    LABEL_LIMIT_BYTES,
    Blank,
    Content,
    Filesystem,
    Foreign,
    FsType,
    Unknown,
    Unproven,
)
from agent.core.model.device import Device, DeviceNumber, Identity, Partition, RootInode, Seen
from agent.core.model.drift import Difference, Provisioned, Remedy
from agent.core.model.next_call import NextCall
from agent.core.model.observed import Checked, Exclusion, Ids, Mount, Observed, Process, Relocation, Tuning
from agent.core.model.records import FormatRecord, FormatStage, MountRecord, OriginRecord, RawRecord
from agent.core.model.snapshots import SnapshotFacts
from agent.core.model.volume import VolumeId, parse_volume_id
from agent.core.model.wanted import (
    Expected,
    FormatRule,
    Released,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
    WantedTuning,
    WantedView,
)
from agent.core.reasons import Condition, NodeReason, Reason

__all__ = [
    "LABEL_LIMIT_BYTES",
    "AttachmentPlaces",
    "Attachments",
    "AwsChecks",
    "Blank",
    "Checked",
    "Condition",
    "Content",
    "Device",
    "DeviceNumber",
    "Difference",
    "EndCause",
    "Ending",
    "Exclusion",
    "Expected",
    "Filesystem",
    "Foreign",
    "FormatRecord",
    "FormatRule",
    "FormatStage",
    "FsType",
    "Identity",
    "Ids",
    "Initialization",
    "Mount",
    "MountRecord",
    "NextCall",
    "NodeFacts",
    "NodePlace",
    "NodeReason",
    "Observed",
    "Origin",
    "OriginAnswer",
    "OriginRecord",
    "Partition",
    "Process",
    "Provisioned",
    "RawRecord",
    "Reason",
    "Released",
    "Relocation",
    "Remedy",
    "RootInode",
    "Seen",
    "SnapshotFacts",
    "Tuning",
    "Unknown",
    "Unproven",
    "VolumeId",
    "Wanted",
    "WantedBlock",
    "WantedFilesystem",
    "WantedMount",
    "WantedTuning",
    "WantedView",
    "parse_volume_id",
]
