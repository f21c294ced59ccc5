"""Volumes of the policy are shown to pods, and taken from there: by the engine, as kubelet's own are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from msgspec import Struct

from agent.core.errors import AgentError, OvertakenError, RefusedError
from agent.core.model import Observed, Reason, VolumeId, Wanted, WantedView
from agent.core.plan import plan_publish
from agent.core.steps import Plan, Unpublish
from agent.csi.calls import NodeInfo, SpaceUsage
from agent.csi.policy_volumes.calls import EntryName, PublishEntryCall
from agent.csi.policy_volumes.entries import Entries
from agent.csi.policy_volumes.record import EntryPublication, PublishedRecord
from agent.csi.policy_volumes.records import PublishedRecords
from agent.csi.volumes.engine import Engine, carry_out, do_step
from agent.csi.volumes.publish import refuse_second_pod
from agent.csi.volumes.usage import TakeSample, measure_volume
from agent.loop.wake_causes import Cause

LIMIT_S = 90.0
"""How long a volume is waited for that gets ready: less than kubelet waits for an answer."""
PATIENCE_S = 1.0
"""After which it is asked again whether the call still holds."""


class Kubelet(Struct, frozen=True):
    """What is needed of the node for kubelet's calls."""

    resolve: Callable[[str], str]
    """Returns where a path of kubelet's leads."""
    remove_target: Callable[[str], Awaitable[None]]
    """Removes the empty directory or file at a resolved path; raises where anything is mounted there."""
    sample: TakeSample
    get_info: Callable[[], Awaitable[NodeInfo]]
    are_devices_known: anyio.Event
    """Until then each call about a volume waits: one that was not met yet is not absent."""


class PolicyVolumes:
    """Serves kubelet by the engine: the ``EntryVolumes`` of this node."""

    def __init__(
        self,
        engine: Engine,
        entries: Entries,
        records: PublishedRecords,
        kubelet: Kubelet,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._engine = engine
        self._entries = entries
        self._records = records
        self._kubelet = kubelet
        self._limit_s = limit_s
        self._asked: dict[str, PublishEntryCall] = {}
        """What was asked for last at each target, until that is done."""

    async def publish(self, call: PublishEntryCall) -> None:
        """Have the entry's volume seen at the target; wait for one that gets ready, up to the limit.

        A pod keeps the volume that it has, whatever the entry means by now: kubelet asks anew about every pod
        that runs when it was restarted.
        """
        self._asked[call.target_path] = call
        try:
            await self._kubelet.are_devices_known.wait()
            if not await self._is_kept(call):
                await self._show(call, await self._wait_usable(call))
        finally:
            if self._asked.get(call.target_path) is call:
                del self._asked[call.target_path]

    async def _is_kept(self, call: PublishEntryCall) -> bool:
        """Tell whether the target shows, just so, a volume that its entry does not mean any more."""
        found = self._records.find_target(call.target_path)
        wanted = self._entries.find_wanted(call.entry)
        if found is None or found[1] != note_of(call) or (wanted and wanted.volume_id == found[0]):
            return False
        async with self._engine.passes.hold(found[0]) as session:
            observed = await session.observe(None)
        path = self._kubelet.resolve(call.target_path)
        return any(mount.path == path for mount in observed.shown)

    async def _wait_usable(self, call: PublishEntryCall) -> Wanted:
        """Return what is wanted of the entry's volume once it is so; raise what keeps it from that."""
        deadline = self._engine.clock() + self._limit_s
        with self._engine.board.subscribe() as changes:
            while True:
                self._entries.refuse_unknown(call.entry)
                wanted = self._entries.find_wanted(call.entry)
                if wanted is not None:
                    refuse_other_kind(call, wanted)
                is_settled = wanted is None or await self._engine.passes.wait_settled(
                    [wanted.volume_id], PATIENCE_S
                )
                self._check_asked(call)
                fault = self._entries.find_fault(call, wanted)
                if is_settled and fault is None and wanted is not None:
                    return wanted
                if is_settled and fault is not None and not self._may_wait(call.entry, fault):
                    raise fault
                if self._engine.clock() >= deadline:
                    raise self._explain_delay(call.entry, fault)
                with anyio.move_on_after(PATIENCE_S):
                    await anext(changes)

    def _may_wait(self, entry: EntryName, fault: AgentError) -> bool:
        return not isinstance(fault, RefusedError) and self._entries.is_on_the_way(entry)

    def _explain_delay(self, entry: EntryName, fault: AgentError | None) -> AgentError:
        doing = fault.message if fault is not None else f"A pass over {entry!r} is under way."
        return AgentError(
            f"{entry!r} is not ready yet. {doing}",
            hint=f"{fault.hint if fault and fault.hint else 'It goes on by itself.'} kubelet asks again.",
            reason=None if fault is None else fault.reason,
        )

    def _check_asked(self, call: PublishEntryCall) -> None:
        if self._asked.get(call.target_path) is not call:
            raise OvertakenError(f"Something else is wanted at {call.target_path} by now.")

    async def _show(self, call: PublishEntryCall, wanted: Wanted) -> None:
        """Note that a pod has the volume, and publish it."""
        volume = wanted.volume_id
        publication = note_of(call)
        before: EntryPublication | None = None

        def note(known: PublishedRecord | None) -> PublishedRecord:
            nonlocal before
            self._check_asked(call)
            self._refuse_taken(call, volume)
            record = known or PublishedRecord(volume, self._records.boot_id)
            before = record.find(call.target_path)
            return record.publishes(publication, call.target_path)

        # Before the deed, so that what is there after a crash is known to be of this volume.
        await self._records.note(volume, note)
        path = self._kubelet.resolve(call.target_path)
        view = WantedView(path, is_read_only=call.is_read_only, options=call.flags)

        def plan(observed: Observed) -> Plan:
            # While it is looked at nobody else changes it: what the entry means now is what is shown.
            self._check_asked(call)
            if self._entries.find_wanted(call.entry) != wanted:
                raise OvertakenError(f"The policy wants something else of {call.entry!r} by now.")
            return plan_publish(observed, wanted, view)

        try:
            await carry_out(self._engine, volume, wanted, plan)
        except RefusedError:
            # Nothing was touched: what was noted of the target before holds.
            await self._note(volume, before, call.target_path)
            raise

    def _refuse_taken(self, call: PublishEntryCall, volume: VolumeId) -> None:
        """Raise where the target shows another volume, or the entry's only pod is another one."""
        found = self._records.find_target(call.target_path)
        if found is not None and found[0] != volume:
            raise RefusedError(
                f"{call.target_path} shows {found[0]}, and {call.entry!r} is {volume} by now.",
                hint="The pod keeps what it has. Made anew, it gets the other one.",
                reason=Reason.PATH_IN_USE,
                retryable=False,
            )
        of_entry = [one for _, one in self._records.list_published() if one.entry == call.entry]
        refuse_second_pod(of_entry, note_of(call), repr(call.entry))

    async def _note(self, volume: VolumeId, publication: EntryPublication | None, target_path: str) -> None:
        """Have it noted what is published at a target: nothing, for None; and nothing of what no pod has."""

        def change(known: PublishedRecord | None) -> PublishedRecord | None:
            record = None if known is None else known.publishes(publication, target_path)
            return record if record is not None and record.published else None

        await self._records.change(volume, change)

    async def unpublish(self, entry: EntryName, target_path: str) -> None:
        """Have nothing at the target any more, nor the target; whatever the policy says by now."""
        self._asked.pop(target_path, None)
        await self._kubelet.are_devices_known.wait()
        found = self._records.find_target(target_path)
        wanted = self._entries.find_wanted(entry)
        path = self._kubelet.resolve(target_path)
        if found is not None:
            volume, publication = found
            if publication.entry != entry:
                raise RefusedError(
                    f"{target_path} shows {publication.entry!r}, and {entry!r} is to be taken from there.",
                    reason=Reason.PATH_IN_USE,
                    retryable=False,
                )
            # Of a raw volume it is noted by whose wish it is, and of no other is anything asked.
            is_raw = wanted is not None and wanted.volume_id == volume and wanted.block is not None
            await do_step(self._engine, volume, wanted if is_raw else None, Unpublish(path, is_noted=True))
            await self._note(volume, None, target_path)
            self._engine.refresh()
            self._engine.passes.wake(volume, Cause.ORDER)
        elif wanted is not None:
            # Its note is lost, or was taken away by an earlier call: what is there is judged by what is seen.
            goal = wanted if wanted.block is not None else None
            await do_step(self._engine, wanted.volume_id, goal, Unpublish(path))
        else:
            await self._kubelet.remove_target(path)

    async def measure(self, entry: EntryName, target_path: str) -> SpaceUsage:
        """Return how full the volume at the target is, whichever the entry means by now."""
        await self._kubelet.are_devices_known.wait()
        found = self._records.find_target(target_path)
        if found is None or found[1].entry != entry:
            raise RefusedError(
                f"{entry!r} is not published at {target_path}.", reason=Reason.NOT_STAGED, retryable=False
            )
        volume, publication = found
        path = None if publication.is_block else self._kubelet.resolve(target_path)
        return await measure_volume(self._engine.board, self._kubelet.sample, volume, path)

    async def describe_node(self) -> NodeInfo:
        """Return who this node is."""
        return await self._kubelet.get_info()

    def tell_progress(self, entry: EntryName) -> str | None:
        """Return how the volume of an entry is, as a clause."""
        status = self._entries.find_status(entry)
        return None if status is None else status.message.removesuffix(".")


def note_of(call: PublishEntryCall) -> EntryPublication:
    """Return what is noted of a target once it is as the call wants it."""
    return EntryPublication(call.target_path, call.is_read_only, call.access, call.entry, call.is_block)


def refuse_other_kind(call: PublishEntryCall, wanted: Wanted) -> None:
    """Raise where the PersistentVolume says that the volume is what it is not."""
    is_raw = wanted.block is not None
    if is_raw != call.is_block:
        kind, mode = ("raw", "Block") if is_raw else ("a filesystem", "Filesystem")
        raise RefusedError(
            f"The policy has {call.entry!r} as {kind}, and it is to be published as the other.",
            hint=f"Write volumeMode: {mode} in the PersistentVolume and its claim.",
            reason=Reason.FILESYSTEM_MISMATCH,
            retryable=False,
        )
    if wanted.mount is None and not is_raw:
        raise RefusedError(
            f"The policy has no mount path for {call.entry!r}, and what is not mounted is not published.",
            hint="Give the entry a mount.",
            reason=Reason.NOT_STAGED,
            retryable=False,
        )
    if call.fs_type is not None and wanted.filesystem is not None and wanted.filesystem.type != call.fs_type:
        raise RefusedError(
            f"The policy has {call.entry!r} as {wanted.filesystem.type}, and the PersistentVolume says"
            f" {call.fs_type}.",
            hint="Leave fsType out of the PersistentVolume: it is the policy that decides.",
            reason=Reason.FILESYSTEM_MISMATCH,
            retryable=False,
        )
