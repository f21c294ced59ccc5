"""Publishing: a staged volume is shown to a pod at a target of kubelet's, and taken from there again."""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.errors import RefusedError
from agent.core.model import Reason, VolumeId, WantedView
from agent.core.plan import plan_publish
from agent.core.replace import replace
from agent.core.steps import Unpublish
from agent.csi.calls import AccessMode, PublishCall
from agent.csi.volumes.engine import Engine, carry_out, do_step
from agent.csi.volumes.kubelet_wants import KubeletWants, make_want
from agent.csi.volumes.staged_record import Publication, StagedRecord, make_bare_record
from agent.csi.volumes.staged_records import StagedRecords


class Publisher:
    """Shows staged volumes to pods."""

    def __init__(self, engine: Engine, records: StagedRecords, wants: KubeletWants) -> None:
        self._engine = engine
        self._records = records
        self._wants = wants

    async def publish(self, call: PublishCall) -> None:
        """Have the volume seen at the target, as the call wants it; return when it is."""
        is_read_only = is_read_only_use(call)
        publication = Publication(call.target_path, is_read_only, call.capability.access)
        before: Publication | None = None

        def note(known: StagedRecord | None) -> StagedRecord:
            nonlocal before
            record = find_staged(known, call)
            refuse_second_pod(record.published, publication, str(call.volume_id))
            before = record.find_publication(call.target_path)
            return record.publishes(publication, call.target_path)

        # Before the deed, so that what is there after a crash is known to be of this volume.
        record = await self._records.note(call.volume_id, note)
        view = WantedView(
            self._wants.resolve(call.target_path),
            is_read_only=is_read_only,
            options=call.capability.mount_flags,
        )
        wanted = make_want(record, self._wants.resolve)
        try:
            await carry_out(
                self._engine, call.volume_id, wanted, lambda observed: plan_publish(observed, wanted, view)
            )
        except RefusedError:
            # Nothing was touched: what was noted of the target before holds.
            await self._note(call.volume_id, before, call.target_path)
            raise

    async def _note(self, volume: VolumeId, publication: Publication | None, target_path: str) -> None:
        """Have it noted what is published at a target: nothing, for None."""
        await self._records.change(
            volume, lambda known: None if known is None else known.publishes(publication, target_path)
        )

    async def unpublish(self, volume: VolumeId, target_path: str) -> None:
        """Have nothing at the target any more, nor the target; return when that is so."""
        record = self._records.find(volume)
        is_noted = record is not None and record.find_publication(target_path) is not None
        known = record or make_bare_record(volume, self._records.boot_id, target_path)
        path = self._wants.resolve(target_path)
        wanted = replace(make_want(known, self._wants.resolve), is_leaving=True)
        await do_step(self._engine, volume, wanted, Unpublish(path, is_noted=is_noted))
        await self._note(volume, None, target_path)


def is_read_only_use(call: PublishCall) -> bool:
    """Tell whether the pod is to see the volume read-only, whichever way it was said."""
    capability = call.capability
    return call.is_read_only or capability.access.is_read_only or "ro" in capability.mount_flags


def find_staged(record: StagedRecord | None, call: PublishCall) -> StagedRecord:
    """Return the note of how the volume is staged; raise where it is not, or otherwise."""
    volume = call.volume_id
    if record is None or record.is_leaving or record.staging_path != call.staging_path:
        known = "" if record is None else f" It is at {record.staging_path}."
        raise RefusedError(
            f"{volume} is not staged at {call.staging_path}.{known}",
            hint="NodeStageVolume comes first; kubelet asks for it when the pod is made anew.",
            reason=Reason.NOT_STAGED,
            retryable=False,
        )
    if record.is_block != call.capability.is_block:
        how = "a block device" if record.is_block else "a filesystem"
        raise RefusedError(
            f"{volume} is staged as {how}, and is to be published as the other.",
            hint="volumeMode of the PersistentVolume says which it is; stage it anew.",
            reason=Reason.NOT_STAGED,
            retryable=False,
        )
    return record


def refuse_second_pod(published: Iterable[Publication], wanted: Publication, subject: str) -> None:
    """Raise where a volume is for one pod at a time, and another has it (ReadWriteOncePod)."""
    others = [one for one in published if one.target_path != wanted.target_path]
    alone = AccessMode.SINGLE_NODE_SINGLE_WRITER
    if others and any(one.access is alone for one in (wanted, *others)):
        raise RefusedError(
            f"{subject} is for one pod at a time, and is published at {others[0].target_path}.",
            hint="It is free once that pod is gone; ReadWriteOnce lets several pods of a node have it.",
            reason=Reason.DEVICE_BUSY,
            retryable=False,
        )
