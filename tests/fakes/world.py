"""A node in memory: volumes with contents, mounts and records that steps really change.

It holds the rules the real node must keep and fails a test that breaks one: it formats nothing that is not
blank or its own half-made work, and knows no step but those of ``agent.core.steps``. It can die at every
point where the real agent could, leaving what would be left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agent.core.errors import AgentError
from agent.core.model import (
    Blank,
    Checked,
    Content,
    Device,
    DeviceNumber,
    Filesystem,
    Foreign,
    FormatRecord,
    FormatStage,
    FsType,
    Identity,
    Mount,
    Observed,
    RawRecord,
    Reason,
    RootInode,
    Tuning,
    VolumeId,
    Wanted,
)
from agent.core.replace import replace
from agent.core.steps import (
    Action,
    Check,
    EndRaw,
    Format,
    GrowFilesystem,
    Link,
    MountFilesystem,
    MoveMount,
    NoteRaw,
    Publish,
    Relinquish,
    Remount,
    RestoreNodeOwnership,
    SetNodeOwnership,
    SetRootOwnership,
    SettleFormat,
    Tune,
    Unlink,
    Unmount,
    Unpublish,
)

GIB = 1024**3
HALF_MADE = Foreign("data at byte 4096", 4096, is_signed=False, is_own_remains=True)


class AgentDiedError(BaseException):
    """The agent was killed here: nothing catches it, as nothing catches SIGKILL."""


def is_death(error: BaseException) -> bool:
    """Tell whether the agent died, alone or in a group of tasks that all died."""
    if isinstance(error, AgentDiedError):
        return True
    inner = getattr(error, "exceptions", ())
    return bool(inner) and all(is_death(one) for one in inner)


class RuleBrokenError(BaseException):
    """The loop broke a rule that the real node must keep. No barrier of the agent's catches it."""


async def reach_nothing(_: str) -> None:
    """Let every step go on."""


@dataclass
class FakeVolume:
    """A volume's state outside the agent: on its device, in the kernel and in the state directory."""

    volume_id: VolumeId
    size_bytes: int = 10 * GIB
    content: Content = field(default_factory=lambda: Blank(1024))
    is_attached: bool = True
    mount: Mount | None = None
    stale_mount: Mount | None = None
    views: tuple[Mount, ...] = ()
    record: FormatRecord | None = None
    links: frozenset[str] = frozenset()
    root_inode: RootInode = field(default_factory=lambda: RootInode(0, 0, 0o755))
    node_owner: RootInode = field(default_factory=lambda: RootInode(0, 6, 0o660))
    tuning: Tuning = field(default_factory=lambda: Tuning(128 * 1024, "mq-deadline"))
    raw: RawRecord | None = None
    raw_users: int = 0
    """Processes that have the device open, since it was handed out raw."""
    applied_options: tuple[str, ...] | None = None
    formats: int = 0
    user_data: str | None = None
    """Written by someone into the mounted filesystem; must never be gone."""
    executed: list[Action] = field(default_factory=list)

    def vanish(self) -> None:
        """Be pulled without warning."""
        self.is_attached = False
        self.stale_mount, self.mount = self.mount, None
        self.links = frozenset()


class FakeNode:
    """The machine; ``interrupt`` is called at every instant at which the agent may die."""

    def __init__(self, *volumes: FakeVolume, interrupt: Callable[[str], None] = lambda _: None) -> None:
        self.volumes = {volume.volume_id: volume for volume in volumes}
        self.interrupt = interrupt
        self.refuse_step: Callable[[Action], Exception | None] = lambda _: None
        self.reach: Callable[[str], Awaitable[None]] = reach_nothing
        """Awaited at every instant of a look or a step, so that a test can do something meanwhile."""
        self.blind: Exception | None = None
        """What a look raises, as long as it is set."""
        self.looks: list[bool] = []
        """Whether each look was for show."""
        self.find_shown: Callable[[VolumeId], frozenset[str]] = lambda _: frozenset()
        """Returns where a volume of the policy is published to pods."""
        self.lost: set[VolumeId] = set()
        self.open_sessions: set[VolumeId] = set()

    @asynccontextmanager
    async def open(self, volume: VolumeId) -> AsyncIterator[FakeSession]:
        """Begin a pass; two at once for a volume break the loop's first promise."""
        if volume in self.open_sessions:
            raise RuleBrokenError(f"two passes over {volume} at once")
        self.open_sessions.add(volume)
        try:
            yield FakeSession(self, self.volumes.get(volume) or FakeVolume(volume, is_attached=False))
        finally:
            self.open_sessions.discard(volume)

    async def find_changed(self, wants: Mapping[VolumeId, Wanted | None]) -> frozenset[VolumeId]:
        """Say of all volumes that they may be otherwise."""
        return frozenset(wants)


class FakeSession:
    """One pass over one fake volume."""

    def __init__(self, node: FakeNode, volume: FakeVolume) -> None:
        self._node = node
        self._volume = volume
        self._checked: Checked | None = None

    async def observe(self, wanted: Wanted | None, *, for_show: bool = False) -> Observed:
        """Return the volume's state as the real node would find it."""
        volume = self._volume
        self._node.looks.append(for_show)
        self._node.interrupt("observe")
        await self._node.reach("observe")
        if self._node.blind is not None:
            raise self._node.blind
        device = None
        if volume.is_attached:
            serial = volume.volume_id.replace("-", "")
            identity = Identity(volume.volume_id, "Amazon Elastic Block Store", serial)
            device = Device("/dev/nvme1n1", DeviceNumber(259, 1), identity, volume.size_bytes, diskseq=1)
        shown_at = self._node.find_shown(volume.volume_id)
        has_views = bool(shown_at) or (wanted is not None and wanted.is_kubelets)
        views = volume.views if has_views else ()
        names = {f"by-id/{volume.volume_id}"}
        if wanted is not None and wanted.block is not None:
            names.add(wanted.name)
        needs_content = device is not None and wanted is not None and wanted.block is None
        return Observed(
            volume.volume_id,
            device=device,
            content=volume.content if needs_content else None,
            mounts=() if volume.mount is None else (volume.mount, *views),
            views=views,
            shown=tuple(view for view in views if view.path in shown_at),
            stale_mounts=() if volume.stale_mount is None else (volume.stale_mount,),
            obstacle=None if device is None or volume.stale_mount is None else "what is left of it",
            was_lost=device is None and volume.volume_id in self._node.lost,
            checked=self._checked,
            format_record=volume.record,
            root_inode=volume.root_inode if volume.mount else None,
            links=volume.links & names,
            wrong_links=volume.links - names,
            node_owner=volume.node_owner,
            raw=volume.raw,
            tuning=volume.tuning,
            applied_options=volume.applied_options,
        )

    async def execute(
        self, action: Action, observed: Observed, confirm: Callable[[], None] = lambda: None
    ) -> None:
        """Do what the step says to the state, dying or failing where the test asks for it."""
        error = self._node.refuse_step(action)
        if error is not None:
            raise error
        self._node.interrupt(f"before {action.kind}")
        await self._node.reach(f"before {action.kind}")
        if isinstance(action, Format):
            confirm()
        if isinstance(action, (Format, Check, MountFilesystem)) and self._volume.raw_users:
            raise RuleBrokenError(f"{action.describe()} below a process that has it open raw")
        self._volume.executed.append(action)
        try:
            assert observed.volume_id == self._volume.volume_id
            self._do(action)
        except AssertionError as broken:
            raise RuleBrokenError(str(broken)) from broken
        self._node.interrupt(f"after {action.kind}")
        await self._node.reach(f"after {action.kind}")

    def _do(self, action: Action) -> None:  # noqa: C901, PLR0912, PLR0915 -- one branch a step
        volume = self._volume
        if isinstance(action, Format):
            self._format(action)
        elif isinstance(action, SettleFormat):
            assert volume.record is not None
            volume.record = replace(volume.record, stage=FormatStage.DONE)
        elif isinstance(action, Check):
            self._checked = Checked(is_clean=not _is_damaged(volume.content))
        elif isinstance(action, MountFilesystem):
            self._mount(action)
        elif isinstance(action, GrowFilesystem):
            assert isinstance(volume.content, Filesystem)
            volume.content = replace(volume.content, size_bytes=volume.size_bytes)
        elif isinstance(action, Link):
            assert volume.raw is not None or action.path.startswith("by-id/"), "handed out without a note"
            volume.links |= {action.path}
        elif isinstance(action, Unlink):
            volume.links -= {action.path}
        elif isinstance(action, Unmount) and action.is_stale:
            self._node.lost.add(volume.volume_id)
            volume.stale_mount = None
        elif isinstance(action, Unmount):
            assert not volume.views, "unmounted below a pod"
            volume.mount = None
        elif isinstance(action, Relinquish):
            if volume.raw_users:
                raise failing(Reason.DEVICE_BUSY)
            assert volume.mount is None
        elif isinstance(action, Publish):
            view = replace(action.staged, mount_id=70 + len(volume.views), path=action.path)
            options = frozenset(action.options) | ({"rw"} - set(action.options))
            volume.views += (replace(view, options=options),)
        elif isinstance(action, Unpublish):
            volume.views = tuple(view for view in volume.views if view.path != action.path)
        elif isinstance(action, Remount):
            assert volume.mount is not None
            volume.mount = replace(volume.mount, options=frozenset({"rw", "relatime", *action.options}))
            volume.applied_options = action.options
        elif isinstance(action, MoveMount):
            assert volume.mount is not None
            volume.mount = replace(volume.mount, path=action.to_path)
        elif isinstance(action, SetRootOwnership):
            volume.root_inode = _own(volume.root_inode, action)
        elif isinstance(action, NoteRaw):
            volume.raw = RawRecord(volume.volume_id, "boot", 1, volume.node_owner)
        elif isinstance(action, SetNodeOwnership):
            assert volume.raw is not None, "handed out without a note"
            volume.node_owner = _own(volume.node_owner, action)
        elif isinstance(action, RestoreNodeOwnership):
            assert volume.raw is not None
            volume.node_owner = action.owner
            self._node.interrupt("node restored")
            volume.raw = replace(volume.raw, node_owner=None)
        elif isinstance(action, EndRaw):
            if volume.raw_users:
                raise failing(Reason.DEVICE_BUSY)
            volume.raw = None
        elif isinstance(action, Tune):
            volume.tuning = Tuning(
                action.read_ahead_bytes or volume.tuning.read_ahead_bytes,
                action.scheduler or volume.tuning.scheduler,
            )
        else:
            raise AssertionError(f"a step the fake node does not know: {action}")

    def _format(self, action: Format) -> None:
        volume = self._volume
        assert volume.user_data is None, f"{volume.volume_id}: a volume with data was formatted"
        is_ours = action.resume_uuid is not None and volume.content == HALF_MADE
        assert isinstance(volume.content, Blank) or is_ours, f"formatted {volume.content}"
        uuid = action.resume_uuid or f"00000000-0000-4000-8000-{volume.formats:012d}"
        volume.record = FormatRecord(
            volume.volume_id,
            uuid,
            action.type,
            volume.size_bytes,
            FormatStage.INTENDED,
            "2026-01-01T00:00:00Z",
        )
        self._node.interrupt("format intended")
        volume.content = HALF_MADE
        self._node.interrupt("format half made")
        volume.content = Filesystem(action.type, uuid, action.label, volume.size_bytes)
        volume.formats += 1
        self._node.interrupt("format made")
        volume.record = replace(volume.record, stage=FormatStage.DONE)

    def _mount(self, action: MountFilesystem) -> None:
        volume = self._volume
        assert isinstance(volume.content, Filesystem)
        assert volume.content.uuid == action.uuid
        assert volume.mount is None
        options = frozenset({"ro" if "ro" in action.options else "rw", "relatime", *action.options})
        volume.mount = Mount(
            mount_id=50,
            parent_id=20,
            device_number=DeviceNumber(259, 1),
            root="/",
            path=action.path,
            options=options,
            fs_type=volume.content.type.value,
            source="/dev/nvme1n1",
            super_options=frozenset({"rw"}),
        )
        volume.applied_options = action.options
        self._node.lost.discard(volume.volume_id)


def _is_damaged(content: Content) -> bool:
    return isinstance(content, Filesystem) and content.has_errors


def _own(inode: RootInode, action: SetRootOwnership | SetNodeOwnership) -> RootInode:
    return RootInode(
        inode.uid if action.uid is None else action.uid,
        inode.gid if action.gid is None else action.gid,
        inode.mode if action.mode is None else action.mode,
    )


def failing(reason: Reason = Reason.STEP_FAILED) -> AgentError:
    """Return an error as a failing step raises."""
    return AgentError("mkfs.ext4 ended with 1.", hint="See the log.", reason=reason)


EXT4 = Filesystem(FsType.EXT4, "6a6e2f2a-6a0c-4b8e-9d5e-3f8d2f6d1a11", size_bytes=10 * GIB)
