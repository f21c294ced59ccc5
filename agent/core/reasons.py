"""How a volume is, and why: the words that alerts and runbooks key on. Imports nothing of the agent."""

from __future__ import annotations

from enum import Enum


class Condition(str, Enum):
    """How a volume is, in one word."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    READY = "Ready"
    DEGRADED = "Degraded"
    FAILED = "Failed"
    REFUSED = "Refused"
    UNMANAGED = "Unmanaged"
    LOST = "Lost"

    @property
    def is_usable(self) -> bool:
        return self in {Condition.READY, Condition.DEGRADED}

    def __str__(self) -> str:
        return self.value


class Reason(str, Enum):
    """Why a volume is in its condition: the word alerts and runbooks key on."""

    # Safety: nothing was touched.
    NOT_BLANK = "NotBlank"
    FORMAT_NOT_ALLOWED = "FormatNotAllowed"
    ALREADY_FORMATTED = "AlreadyFormatted"
    PROBE_FAILED = "ProbeFailed"
    FILESYSTEM_MISMATCH = "FilesystemMismatch"
    DEVICE_BUSY = "DeviceBusy"
    DUPLICATE_DEVICE = "DuplicateDevice"
    ROOT_DEVICE = "RootDevice"
    INSTANCE_STORE = "InstanceStore"
    NOT_EBS = "NotEbs"
    MANAGED_BY_CSI = "ManagedByCsi"
    FROM_SNAPSHOT = "FromSnapshot"
    MULTI_ATTACH = "MultiAttach"
    PARTITIONED = "Partitioned"
    PATH_NOT_ALLOWED = "PathNotAllowed"
    PATH_IN_USE = "PathInUse"
    SEVERAL_ENTRIES = "SeveralEntries"
    SEVERAL_VOLUMES = "SeveralVolumes"
    READ_ONLY_DEVICE = "ReadOnlyDevice"
    # Something is wrong with the volume or its filesystem.
    FILESYSTEM_ERRORS = "FilesystemErrors"
    UNSUPPORTED = "Unsupported"
    READ_ONLY = "ReadOnly"
    OPTIONS_NOT_IN_FORCE = "OptionsNotInForce"
    PANIC_ON_ERROR = "PanicOnError"
    STALLED = "Stalled"
    FROZEN = "Frozen"
    SHUT_DOWN = "ShutDown"
    IO_ERRORS = "IoErrors"
    NOT_GROWN = "NotGrown"
    DRIFTED = "Drifted"
    FASTER_THAN_INSTANCE = "FasterThanInstance"
    NEARLY_FULL = "NearlyFull"
    FILES_FULL = "FilesFull"
    THROTTLED_BY_VOLUME = "ThrottledByVolume"
    THROTTLED_BY_INSTANCE = "ThrottledByInstance"
    WRONG_TIMEOUT = "WrongTimeout"
    IMPAIRED = "Impaired"
    STALE_MOUNT = "StaleMount"
    DEVICE_GONE = "DeviceGone"
    ORPHANED_STAGING = "OrphanedStaging"
    UNKNOWN_OWNER = "UnknownOwner"
    STEP_FAILED = "StepFailed"
    INTERNAL_ERROR = "InternalError"
    # Not known for now.
    NODE_EXHAUSTED = "NodeExhausted"
    UNREACHABLE = "Unreachable"
    TOO_SLOW = "TooSlow"
    # Waiting.
    NOT_STAGED = "NotStaged"
    RELEASED = "Released"
    NOT_ATTACHED = "NotAttached"
    WAITING_FOR_CLOUD = "WaitingForCloud"
    PERMISSION_DENIED = "PermissionDenied"
    ATTACHMENT_LIMIT = "AttachmentLimit"
    ATTACH_UNSUPPORTED = "AttachUnsupported"
    ATTACHED_ELSEWHERE = "AttachedElsewhere"
    WRONG_ZONE = "WrongZone"
    CLOUD_ERROR = "CloudError"
    NOT_IN_POLICY = "NotInPolicy"

    def __str__(self) -> str:
        return self.value


class NodeReason(str, Enum):
    """What is wrong with the node, where no one volume is meant: words like those of ``Reason``."""

    REGISTRATION_REFUSED = "RegistrationRefused"
    KUBELET_UNREACHABLE = "KubeletUnreachable"
    KUBELET_UNSERVED = "KubeletUnserved"

    def __str__(self) -> str:
        return self.value
