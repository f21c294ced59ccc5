"""Mounts that stand in each other's way: each is to be where the next is, and the last where the first is.

None of them can go first, so they change places at once. They are found by the agent's notes and by where
each volume is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol, TypeVar

import anyio
from msgspec import Struct, field
from typing_extensions import TypeVarTuple, Unpack

from agent.core.errors import AgentError, OvertakenError
from agent.core.model import MountRecord, Reason, Relocation, VolumeId
from agent.core.replace import replace
from agent.node.filesystem.frozen_filesystems import Freezes
from agent.node.isolate.workers import Workers
from agent.node.mounts.exchange_mounts import are_seen, exchange_mounts, refuse_used
from agent.node.state.volume_records import Records

_TIMEOUT_S = 600.0
"""As for any other mount: it may have to wait for its device."""
_PATIENCE_S = 10.0
"""Until the passes over the others have come as well; each was woken, and most take milliseconds."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Node(Protocol):
    """What is asked of the node whose mounts these are."""

    workers: Workers
    records: Records
    freezes: Freezes
    boot_id: str
    allowed_roots: tuple[str, ...]

    def list_recorded(self) -> Iterable[VolumeId]:
        """Return the volumes that the agent has mounted and not unmounted, here or not."""

    async def read(self, read: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Return what ``read`` finds among the notes."""

    async def note_mount(self, note: MountRecord) -> None:
        """Write down what was mounted where."""


class _Meeting(Struct):
    """The passes that have come to move one ring."""

    present: set[VolumeId] = field(default_factory=set)
    is_begun: bool = False
    is_over: anyio.Event = field(default_factory=anyio.Event)
    error: AgentError | None = None


class Rings:
    """Finds and moves them. ``find_path`` returns where a volume is wanted; ``call`` has it looked at now.

    ``hear_free`` is told of a path that a mount has left. All are put here by whoever follows volumes.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._meetings: dict[frozenset[Relocation], _Meeting] = {}
        self.find_path: Callable[[VolumeId], str | None] = lambda _: None
        self.call: Callable[[VolumeId], None] = lambda _: None
        self.hear_free: Callable[[str], None] = lambda _: None

    async def find(self, volume: VolumeId) -> tuple[Relocation, ...]:
        """Return what has to change places for a mounted volume to get to its path; nothing where no ring."""
        notes: dict[VolumeId, MountRecord] = {}
        for other in self._node.list_recorded():
            with suppress(AgentError):  # a note that cannot be trusted is told by its own volume
                note = await self._node.read(self._node.records.mounts.read, other)
                if note is not None and note.boot_id == self._node.boot_id:
                    notes[other] = note
        ring = find_ring(volume, notes, self.find_path)
        if not ring:
            return ()
        is_there: bool = await self._call(are_seen, ring)
        return ring if is_there else ()

    async def move(self, ring: tuple[Relocation, ...]) -> None:
        """Take all of them to their new paths at once, or raise AgentError and leave each where it was.

        Each is moved by a pass of its own volume, so all of these meet here, and the last to come moves all:
        no pass looks at a volume in the midst of it.
        """
        await self._call(refuse_used, ring)
        meeting = self._meetings.setdefault(frozenset(ring), _Meeting())
        meeting.present.add(ring[0].volume_id)
        try:
            if len(meeting.present) == len(ring):
                await self._move_all(ring, meeting)
            else:
                await self._wait_for_all(ring, meeting)
        finally:
            meeting.present.discard(ring[0].volume_id)
            if not meeting.present:
                self._meetings.pop(frozenset(ring), None)

    async def _move_all(self, ring: tuple[Relocation, ...], meeting: _Meeting) -> None:
        meeting.is_begun = True
        meeting.error = AgentError("The exchange was interrupted.", reason=Reason.PATH_IN_USE)
        try:
            await self._exchange(ring)
            meeting.error = None
        except AgentError as error:
            meeting.error = error
            raise
        finally:
            meeting.is_over.set()

    async def _wait_for_all(self, ring: tuple[Relocation, ...], meeting: _Meeting) -> None:
        for one in ring:
            if one.volume_id not in meeting.present:
                self.call(one.volume_id)
        with anyio.move_on_after(_PATIENCE_S):
            await meeting.is_over.wait()
        if not meeting.is_begun:
            missing = ", ".join(one.volume_id for one in ring if one.volume_id not in meeting.present)
            raise AgentError(
                f"{ring[0].path} changes places with others, and {missing} cannot go yet.",
                hint="ebs-agent explain tells why. Nothing was moved; the old paths in the policy end it.",
                reason=Reason.PATH_IN_USE,
            )
        await meeting.is_over.wait()
        if meeting.error is not None:
            raise replace(meeting.error)

    async def _exchange(self, ring: tuple[Relocation, ...]) -> None:
        if any(self.find_path(one.volume_id) != one.to_path for one in ring):
            raise OvertakenError("Something else is wanted of one of them by now.")
        for one in ring:
            await self._node.freezes.refuse_frozen(one.volume_id, one.path, one.device_number)
        # What was asked for since it was mounted goes with it; else no option would be changed any more.
        notes = [await self._node.read(self._node.records.mounts.read, one.volume_id) for one in ring]
        await self._call(exchange_mounts, ring, self._node.allowed_roots)
        for one, note in zip(ring, notes, strict=True):
            if note is not None:
                await self._node.note_mount(replace(note, path=one.to_path))

    async def _call(
        self,
        function: Callable[[tuple[Relocation, ...], Unpack[Ts]], T],
        ring: tuple[Relocation, ...],
        *args: Unpack[Ts],
    ) -> T:
        return await self._node.workers.call(
            function, ring, *args, timeout_s=_TIMEOUT_S, subject=ring[0].volume_id
        )


def find_ring(
    volume: VolumeId,
    notes: Mapping[VolumeId, MountRecord],
    find_path: Callable[[VolumeId], str | None],
) -> tuple[Relocation, ...]:
    """Return what has to change places for ``volume`` to get to its path, itself first; nothing if no ring.

    ``notes`` are the agent's own mounts of this boot, ``find_path`` returns where a volume is wanted.
    """
    by_path = {note.path: note for note in notes.values()}
    ring: list[Relocation] = []
    note = notes.get(volume)
    while note is not None and note.volume_id not in {one.volume_id for one in ring}:
        to_path = find_path(note.volume_id)
        if to_path is None or to_path == note.path:
            return ()
        ring.append(Relocation(note.volume_id, note.path, note.device_number, to_path))
        note = by_path.get(to_path)
    # One that leads into a ring of others waits for them.
    is_closed = note is not None and note.volume_id == volume and len(ring) > 1
    return tuple(ring) if is_closed else ()
