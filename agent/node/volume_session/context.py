"""What the passes over volumes share: the notes, what the cloud said, and what was seen of each volume.

Knows no pass; each is given it. What is put here by others is said where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import anyio
from typing_extensions import TypeVarTuple, Unpack

from agent.base.paths import Paths
from agent.core.errors import NotAnsweringError
from agent.core.model import (
    Ids,
    MountRecord,
    Observed,
    Origin,
    OriginAnswer,
    OriginRecord,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedMount,
)
from agent.core.replace import replace
from agent.node.device.links import list_links
from agent.node.device.source import DeviceSource
from agent.node.filesystem.frozen_filesystems import Freezes
from agent.node.filesystem.owner_ids import resolve_ids
from agent.node.isolate.workers import Workers, make_aside
from agent.node.kernel.disk_counters import BlockCounters, read_block_counters
from agent.node.kernel.mountinfo import find_node_number
from agent.node.mounts.exchange_paths import Rings
from agent.node.state.gathered_notes import Found, GatheredNotes
from agent.node.state.volume_records import Records, read_boot_id, read_notes_of
from agent.node.volume_session.volume_memory import VolumeMemory

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DEATH_PATIENCE_S = 5.0
STANDSTILL_S = 5.0
"""A volume that completes nothing for so long, and was asked to, does not answer. What it is asked takes it
milliseconds, and seconds where it is throttled."""
NAMES_TIMEOUT_S = 5.0
SAVE_TIMEOUT_S = 30.0


class NodeContext:
    """What all passes of a node work with."""

    def __init__(self, paths: Paths, source: DeviceSource, workers: Workers) -> None:
        self.paths = paths
        self.source = source
        self.workers = workers
        self.aside = make_aside(workers)
        self.confined = workers.confined
        self.records = Records(paths.state)
        self.notes = GatheredNotes(self._read_notes)
        self.boot_id = read_boot_id()
        self.allowed_roots: tuple[str, ...] = ()
        self.kubelet_root: str | None = None
        """The real path of kubelet's directory, below which the mounts are that kubelet asks for."""
        self.find_shown: Callable[[VolumeId], frozenset[str]] = lambda _: frozenset()
        """Returns where a volume of the policy is published to pods; put here by whoever keeps the notes."""
        self.recorded: set[VolumeId] = set()
        """Volumes with a note about a mount: listed at the start, since nobody else writes such notes."""
        self.find_answer: Callable[[VolumeId], OriginAnswer] = lambda _: OriginAnswer()
        """Returns what the cloud answered about a volume; put here by whoever asks it."""
        self.may_want_raw: Callable[[VolumeId], bool] = lambda _: False
        """Tells whether an entry may yet have a volume raw that none means now; put here by whoever knows."""
        self.needs_proof: Callable[[Observed, Wanted], bool] = lambda _observed, _wanted: True
        """Tells whether anything follows from a proof that a volume is blank; put here by whoever plans."""
        self._memories: dict[VolumeId, VolumeMemory] = {}
        self.duplicate_uuids: set[str] = set()
        """UUIDs that the kernel would not mount because another filesystem in use has them."""
        self.doubt: Callable[[str], None] = lambda _: None
        """Told of a device that is not the volume it was taken for; put here by whoever keeps the list."""
        self.freezes, self.rings = Freezes(workers), Rings(self)

    def allow_roots(self, roots: Sequence[str]) -> None:
        """Say beneath which directories volumes may be mounted."""
        self.allowed_roots = tuple(roots)

    def remember(self, volume: VolumeId) -> VolumeMemory:
        """Return what is remembered of a volume from pass to pass; whoever asks may add to it."""
        return self._memories.setdefault(volume, VolumeMemory())

    def choose_roots(self, path: str) -> tuple[tuple[str, ...], bool]:
        """Return beneath which directories a mount at ``path`` may be, and whether it is made for it.

        What is kubelet's is made by kubelet.
        """
        root = self.kubelet_root
        if root is not None and path.startswith(f"{root}/"):
            return (root,), False
        return self.allowed_roots, True

    def list_recorded(self) -> Iterable[VolumeId]:
        """Return the volumes that the agent has mounted and not unmounted, here or not."""
        return tuple(self.recorded)

    async def is_stuck(self, volume: VolumeId) -> bool:
        """Tell whether a worker that was asked about the volume hangs in the kernel since.

        One that merely got no processor in time dies when it is killed, if not at once.
        """
        is_stuck = await self.workers.is_stuck(volume, DEATH_PATIENCE_S)
        return is_stuck or await self.freezes.is_stuck(volume, DEATH_PATIENCE_S)

    async def is_stalled(self, volume: VolumeId, path: str | None) -> bool:
        """Tell whether a volume that was asked in vain is to blame, and not a machine that is short of time.

        It is where it holds on to who asked it, or to what others asked, and completes nothing meanwhile.
        """
        number = None if path is None else find_node_number(path)
        before = None if number is None else read_block_counters(number)
        is_stuck = await self.is_stuck(volume)
        if number is None or before is None:
            return is_stuck
        if not is_stuck:
            await anyio.sleep(STANDSTILL_S)
        return stands_still(before, read_block_counters(number), is_stuck=is_stuck)

    async def resolve_ids(self, wanted: WantedMount | WantedBlock | None) -> Ids:
        """Return the IDs of the policy's owner and group. A name service that is silent knows nobody."""
        if wanted is None or (wanted.owner is None and wanted.group is None):
            return Ids()
        return await self.find_ids(wanted.owner, wanted.group)

    async def find_ids(self, owner: str | None, group: str | None) -> Ids:
        """Return the IDs of a user and a group; ``missing`` names one that is not known."""
        try:
            return await self.workers.call(
                resolve_ids, owner, group, timeout_s=NAMES_TIMEOUT_S, subject="name service"
            )
        except NotAnsweringError:
            return Ids(missing="The owner (the name service does not answer)")

    async def read(self, read: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Return what ``read`` finds among the notes, on whose disk the loop does not wait either."""
        return await self.workers.call(read, *args, timeout_s=SAVE_TIMEOUT_S, subject="state directory")

    async def _read_notes(self, volumes: tuple[VolumeId, ...]) -> Found:
        return await self.read(read_notes_of, self.records, volumes)

    async def list_notes(self) -> None:
        """Find out which volumes have a note about a mount."""
        self.recorded = set(await self.read(self.records.mounts.list_volumes))

    async def note_mount(self, note: MountRecord) -> None:
        """Write down what was mounted where."""
        self.recorded.add(note.volume_id)
        await self.save(self.records.mounts.write, note)

    async def forget_mount(self, volume: VolumeId) -> None:
        """Take away the note about a mount."""
        await self.save(self.records.mounts.remove, volume)
        self.recorded.discard(volume)

    async def save(self, write: Callable[[Unpack[Ts]], None], *args: Unpack[Ts]) -> None:
        """Have a note written and synced. Its disk may be slow, and the loop does not wait on disks."""
        await self.workers.call(write, *args, timeout_s=SAVE_TIMEOUT_S, subject="state directory")

    async def note_origin(self, volume: VolumeId) -> OriginRecord | None:
        """Note what the cloud says a volume was made from, for when it does not answer; None where nothing.

        Raises AgentError where that cannot be written.
        """
        origin = self.find_answer(volume).origin
        if origin is None or origin.made_from is None:
            return None
        note = OriginRecord(volume, origin.snapshot_id, origin.source_volume_id)
        await self.save(self.records.origins.write, note)
        return note

    def find_origin(self, volume: VolumeId, noted: OriginRecord | None) -> OriginAnswer:
        """Return what is known of where a volume comes from: what the cloud says, or said and was noted."""
        answer = self.find_answer(volume)
        origin = answer.origin
        if noted is None or (origin is not None and origin.made_from is not None):
            return answer
        known = replace(
            origin or Origin(),
            snapshot_id=noted.snapshot_id,
            source_volume_id=noted.source_volume_id,
        )
        return replace(answer, origin=known)

    def find_links_named(self, names: Iterable[str]) -> frozenset[str]:
        """Return those of ``names`` that are links below ``/dev/ebs`` now, wherever they lead."""
        return frozenset(names) & list_links(self.paths.dev_ebs).keys()


def stands_still(before: BlockCounters, after: BlockCounters | None, *, is_stuck: bool) -> bool:
    """Tell whether a device completed nothing between two counts, though it was asked all the time."""
    if after is None or after.completed != before.completed:
        return False
    # What the agent asked is not counted, where it was no read or write.
    return is_stuck or min(before.in_flight, after.in_flight) > 0
