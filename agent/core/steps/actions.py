"""What the agent does to a volume: the steps that are executed."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from msgspec import Struct

from agent.core.model import DeviceNumber, FsType, Mount, Relocation, RootInode
from agent.core.steps.views import Publish, PublishNode, Unpublish


class Format(Struct, frozen=True):
    """Make a filesystem on a device whose blankness is proven again under the lock, just before."""

    kind: ClassVar[str] = "format"
    type: FsType
    label: str | None = None
    mkfs_options: tuple[str, ...] = ()
    resume_uuid: str | None = None
    """The UUID of an interrupted format of ours to take up again; None chooses a new one."""

    def describe(self) -> str:
        verb = "finish the interrupted format as" if self.resume_uuid else "format as"
        label = f", label {self.label}" if self.label else ""
        return f"{verb} {self.type}{label}"


class SettleFormat(Struct, frozen=True):
    """Complete the durable note of a format that was observed to have succeeded."""

    kind: ClassVar[str] = "settle-format"
    uuid: str

    def describe(self) -> str:
        return f"note that filesystem {self.uuid} is made"


class Check(Struct, frozen=True):
    """Check an unmounted filesystem, repairing only what is always safe to repair."""

    kind: ClassVar[str] = "check"
    type: FsType
    partition: int | None = None

    def describe(self) -> str:
        return f"check the {self.type} filesystem"


class GrowPartition(Struct, frozen=True):
    """Let the only partition reach the end of the device; its start and contents stay."""

    kind: ClassVar[str] = "grow-partition"
    partition: int
    from_bytes: int
    to_bytes: int

    def describe(self) -> str:
        return f"grow partition {self.partition} from {self.from_bytes} to {self.to_bytes} bytes"


class GrowFilesystem(Struct, frozen=True):
    """Let a mounted filesystem fill its device, while it is in use."""

    kind: ClassVar[str] = "grow"
    type: FsType
    path: str
    from_bytes: int | None
    to_bytes: int
    partition: int | None = None

    def describe(self) -> str:
        return f"grow {self.type} at {self.path} to {self.to_bytes} bytes"


class MountFilesystem(Struct, frozen=True):
    """Mount at the policy path; owner, group and mode are set before anyone can see it."""

    kind: ClassVar[str] = "mount"
    type: FsType
    uuid: str | None
    """The filesystem that was looked at; None only in a plan shown before it is made."""
    path: str
    options: tuple[str, ...] = ()
    partition: int | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def describe(self) -> str:
        return f"mount at {self.path} ({','.join(self.options)})"


class Remount(Struct, frozen=True):
    """Change the options of a mount in place."""

    kind: ClassVar[str] = "remount"
    path: str
    device_number: DeviceNumber
    options: tuple[str, ...]
    undoing: tuple[str, ...] = ()
    """Words that take back options that are not wanted any more."""
    left: tuple[str, ...] = ()
    """Options that are not wanted any more, and that nothing but a new mount takes back."""

    def describe(self) -> str:
        return f"remount {self.path} ({','.join((*self.options, *self.undoing))})"


class MoveMount(Struct, frozen=True):
    """Take a mount from one path to another without unmounting it."""

    kind: ClassVar[str] = "move"
    from_path: str
    to_path: str
    ring: tuple[Relocation, ...] = ()
    """This move and those of other volumes that are made at once, since each is in the way of another."""

    def describe(self) -> str:
        others = (f"{one.volume_id} from {one.path} to {one.to_path}" for one in self.ring[1:])
        return ", and at once ".join((f"move the mount from {self.from_path} to {self.to_path}", *others))


class Unmount(Struct, frozen=True):
    """Take a mount away: a stale one lazily, since its device is gone; any other only when nobody uses it."""

    kind: ClassVar[str] = "unmount"
    mount: Mount
    is_stale: bool = False

    def describe(self) -> str:
        return (
            f"detach the stale mount at {self.mount.path}" if self.is_stale else f"unmount {self.mount.path}"
        )


class SetRootOwnership(Struct, frozen=True):
    """Give the root directory of the mounted filesystem its owner, group and mode."""

    kind: ClassVar[str] = "set-ownership"
    path: str
    device_number: DeviceNumber
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def describe(self) -> str:
        mode = "as is" if self.mode is None else f"{self.mode:04o}"
        return f"set owner {self.uid}:{self.gid}, mode {mode} on {self.path}"


class Link(Struct, frozen=True):
    """Make a stable link below ``/dev/ebs`` lead to the device."""

    kind: ClassVar[str] = "link"
    path: str

    def describe(self) -> str:
        return f"link {self.path}"


class Unlink(Struct, frozen=True):
    """Remove a link below ``/dev/ebs`` that leads where it must not: to another volume, or to none."""

    kind: ClassVar[str] = "unlink"
    path: str

    def describe(self) -> str:
        return f"remove the link {self.path}"


class NoteRaw(Struct, frozen=True):
    """Write down that the volume is handed out raw, before anybody can have it open as that."""

    kind: ClassVar[str] = "note-raw"

    def describe(self) -> str:
        return "note that it is handed out raw"


class SetNodeOwnership(Struct, frozen=True):
    """Give the device node of a raw volume its owner, group and mode."""

    kind: ClassVar[str] = "set-node-ownership"
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def describe(self) -> str:
        mode = "as is" if self.mode is None else f"{self.mode:04o}"
        return f"set owner {self.uid}:{self.gid}, mode {mode} on the device node"


class RestoreNodeOwnership(Struct, frozen=True):
    """Give the device node back the owner, group and mode it had before the volume was handed out raw."""

    kind: ClassVar[str] = "restore-node-ownership"
    owner: RootInode

    def describe(self) -> str:
        owner = self.owner
        return f"put owner {owner.uid}:{owner.gid}, mode {owner.mode:04o} back on the device node"


class EndRaw(Struct, frozen=True):
    """See that nobody has the volume open any more that was handed out raw, and forget that it was."""

    kind: ClassVar[str] = "end-raw"

    def describe(self) -> str:
        return "see that nobody has it open raw"


class Tune(Struct, frozen=True):
    """Set read-ahead and I/O scheduler of the device."""

    kind: ClassVar[str] = "tune"
    read_ahead_bytes: int | None = None
    scheduler: str | None = None

    def describe(self) -> str:
        parts = []
        if self.read_ahead_bytes is not None:
            parts.append(f"read-ahead {self.read_ahead_bytes} bytes")
        if self.scheduler is not None:
            parts.append(f"scheduler {self.scheduler}")
        return f"set {', '.join(parts)}"


class Relinquish(Struct, frozen=True):
    """Write back what the kernel keeps for the device, once nobody has it any more, so that it can go.

    ``is_forced``: whoever has it.
    """

    kind: ClassVar[str] = "relinquish"
    is_forced: bool = False

    def describe(self) -> str:
        return "flush the device under its users" if self.is_forced else "flush the device, unused"


Action: TypeAlias = (
    "Format | SettleFormat | Check | GrowPartition | GrowFilesystem | MountFilesystem | Remount | MoveMount"
    " | Unmount | SetRootOwnership | Link | Unlink | NoteRaw | SetNodeOwnership | RestoreNodeOwnership"
    " | EndRaw | Tune | Relinquish | Publish | PublishNode | Unpublish"
)
