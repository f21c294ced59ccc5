"""Staging: what kubelet wants is put beside what the policy wants, and the engine brings it about."""

from __future__ import annotations

import anyio

from agent.base.log import get_logger
from agent.core.errors import AgentError, OvertakenError, RefusedError
from agent.core.model import Reason, VolumeId, Wanted
from agent.core.plan import plan_unstage
from agent.core.replace import replace
from agent.core.steps import Relinquish
from agent.csi.calls import StageCall
from agent.csi.volumes.engine import Engine, carry_out, do_step, find_fault
from agent.csi.volumes.kubelet_wants import KubeletWants, make_want
from agent.csi.volumes.staged_record import StagedRecord, make_bare_record, make_record
from agent.csi.volumes.staged_records import StagedRecords
from agent.loop.wake_causes import Cause

ATTACH_PATIENCE_S = 15.0
"""EC2 says "attached" before the node's kernel has met the device; mostly it takes a second."""
HELD_PATIENCE_S = 10.0
"""Every container that is started has a copy of all mounts for a moment, which keeps their devices."""
HELD_PAUSE_S = 0.5
PATIENCE_S = 5.0
"""After which it is asked again whether the call's want still holds; a pass itself may take hours."""

log = get_logger(__name__)


class Stager:
    """Stages volumes, and takes them back."""

    def __init__(
        self,
        engine: Engine,
        records: StagedRecords,
        wants: KubeletWants,
    ) -> None:
        self._engine = engine
        self._records = records
        self._wants = wants

    async def stage(self, call: StageCall) -> None:
        """Have the volume mounted where kubelet wants it, or usable as a device; return when it is."""
        wanted = make_record(call, self._records.boot_id)
        record = await self._records.note(call.volume_id, lambda known: join(known, wanted))
        self._wants.refusals.pop(call.volume_id, None)
        self._engine.refresh()
        self._engine.passes.wake(call.volume_id, Cause.ORDER)
        try:
            await self._wait(record)
        except RefusedError as error:
            await self._withdraw(record, error)
            raise

    async def _wait(self, record: StagedRecord) -> None:
        """Return when the volume is as wanted; raise what keeps it from that."""
        volume = record.volume_id
        path = None if record.is_block else self._wants.resolve(record.staging_path)
        began = self._engine.clock()
        with self._engine.board.subscribe() as changes:
            while True:
                is_settled = await self._engine.passes.wait_settled([volume], PATIENCE_S)
                noted = self._records.find(volume)
                if noted is None or noted.is_leaving or noted.staging_path != record.staging_path:
                    raise OvertakenError(f"Something else is wanted of {volume} by now.")
                if not is_settled:
                    continue
                fault = find_fault(self._engine.board.get(volume), volume, path)
                if fault is None:
                    return
                is_early = self._engine.clock() - began < ATTACH_PATIENCE_S
                if fault.reason is not Reason.NOT_ATTACHED or not is_early:
                    raise fault
                with anyio.move_on_after(PATIENCE_S):
                    await anext(changes)

    async def _withdraw(self, record: StagedRecord, error: RefusedError) -> None:
        """Do nothing more for a call that was refused: kubelet removes the directory, and asks anew.

        A volume that pods have stays wanted, since it was not this call that brought it here.
        """

        def withdraw(known: StagedRecord | None) -> StagedRecord | None:
            return known if known is not None and (known.published or known != record) else None

        if await self._records.change(record.volume_id, withdraw) is None:
            self._wants.refusals[record.volume_id] = error
            self._engine.refresh()

    async def unstage(self, volume: VolumeId, staging_path: str) -> None:
        """Unmount the volume and have its device unused, or raise; one that is not here is so already."""
        self._wants.refusals.pop(volume, None)
        known = self._records.find(volume)
        if known is not None and known.staging_path != staging_path:
            return  # staged elsewhere since: at this path there is nothing of it
        if known is not None:
            await self._records.change(volume, lambda noted: noted and replace(noted, is_leaving=True))
            self._engine.refresh()
        # Where its note is lost, or it was never staged, what is there is judged by what is seen.
        meant = known or make_bare_record(volume, self._records.boot_id, staging_path)
        path = self._wants.resolve(staging_path)
        wanted = replace(make_want(meant, self._wants.resolve), is_leaving=True)
        try:
            observed = await carry_out(self._engine, volume, wanted, lambda seen: plan_unstage(seen, path))
            if observed.device is not None and observed.exclusion is None:
                await self._flush(volume, wanted)
        except RefusedError:
            await self._keep(volume)
            raise
        await self._records.change(volume, lambda noted: noted if noted and not noted.is_leaving else None)
        self._engine.refresh()

    async def _flush(self, volume: VolumeId, wanted: Wanted) -> None:
        """See that nobody has the device, and have everything on it, so that it can be detached.

        What a device that fails does not take is lost whatever is done, and keeps nobody from detaching it.
        """
        began = self._engine.clock()
        while True:
            try:
                await do_step(self._engine, volume, wanted, Relinquish())
            except AgentError as error:
                if error.reason is Reason.STEP_FAILED:
                    log.warning("volume.unflushed", volume_id=volume, error=error.message)
                    return
                is_patient = self._engine.clock() - began < HELD_PATIENCE_S
                if error.reason is not Reason.DEVICE_BUSY or not is_patient:
                    raise
            else:
                return
            await anyio.sleep(HELD_PAUSE_S)

    async def _keep(self, volume: VolumeId) -> None:
        """Go on caring for a volume that could not be taken back, since pods have it."""
        await self._records.change(
            volume,
            lambda noted: noted and replace(noted, is_leaving=noted.is_leaving and not noted.published),
        )
        self._engine.refresh()


def join(known: StagedRecord | None, wanted: StagedRecord) -> StagedRecord:
    """Return the note about a volume from a call to stage it on; raise where it is staged otherwise."""
    if known is None:
        return wanted
    is_same = known.staging_path == wanted.staging_path and known.is_block == wanted.is_block
    if not known.is_leaving and not is_same:
        how = "as a block device" if known.is_block else "with a filesystem"
        raise RefusedError(
            f"{wanted.volume_id} is staged already, {how}, at {known.staging_path}.",
            hint="NodeUnstageVolume for that path comes first; kubelet asks for it by itself.",
            reason=Reason.PATH_IN_USE,
            retryable=False,
        )
    return replace(wanted, published=known.published)
