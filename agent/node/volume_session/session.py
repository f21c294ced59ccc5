"""One pass over one volume, as the loop's ``Session``: looking at it. Doing is in ``actions``."""

from __future__ import annotations

from collections.abc import Callable

from agent.core.errors import AgentError, FrozenError, InconclusiveError, NotAnsweringError, VanishedError
from agent.core.model import (
    Content,
    Filesystem,
    Ids,
    MountRecord,
    Observed,
    OriginAnswer,
    OriginRecord,
    Process,
    Reason,
    Relocation,
    Unproven,
    VolumeId,
    Wanted,
)
from agent.core.replace import replace
from agent.core.steps import Action
from agent.node.device import links
from agent.node.filesystem.frozen_filesystems import explain_frozen
from agent.node.mounts.detached_mounts import list_left
from agent.node.mounts.mount_users import SEARCH_S, find_processes
from agent.node.state.volume_records import Notes
from agent.node.volume_session.actions import VolumeActions
from agent.node.volume_session.assess import (
    exclude_duplicate,
    explain_bad_answer,
    find_here,
    find_mount_to_leave,
    find_stale_mounts,
    is_decided,
    keep_look,
    make_note,
    make_request,
    needs_contents,
    prove_content,
    recall_check,
)
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.inspect import DeviceFacts, LookRequest, PastLook
from agent.node.volume_session.pin import Pin
from agent.node.volume_session.raw_handover import find_raw_note

PROCESSES_TIMEOUT_S = 10.0


class VolumeSession:
    """One pass over one volume; ``close`` lets go of its device."""

    def __init__(self, node: NodeContext, volume: VolumeId, paths: tuple[str, ...]) -> None:
        self._node = node
        self._volume = volume
        self._paths = paths
        self._pin = Pin(node.workers, volume, paths[0] if paths else None)
        self._actions = VolumeActions(node, self._pin)
        self._memory = node.remember(volume)
        self._noted_origin: OriginRecord | AgentError | None = None

    async def close(self) -> None:
        """Let go of the device and its lock."""
        await self._pin.close()

    async def execute(
        self, action: Action, observed: Observed, confirm: Callable[[], None] = lambda: None
    ) -> None:
        """Do one step, or raise AgentError; what it brought is for the next look to find.

        ``confirm`` raises where it is not wanted any more, and is asked before what cannot be changed back.
        """
        try:
            await self._actions.execute(action, observed, confirm)
        except FrozenError as error:
            path = observed.mounts[0].path if observed.mounts else None
            raise explain_frozen(self._volume, path) from error
        except NotAnsweringError as error:
            if error.may_be_frozen or await self._is_stalled():
                raise
            raise AgentError(
                error.message,
                hint="The volume itself answers: it is slow, or the machine short of processors or memory.",
                reason=Reason.STEP_FAILED,
            ) from error

    async def observe(self, wanted: Wanted | None, *, for_show: bool = False) -> Observed:
        """Look at the volume and return all that was found.

        ``for_show``: nothing will be done on its strength, so nothing is noted, locked or flushed for it.

        Raises NotAnsweringError where the volume does not answer, InconclusiveError where it is not the
        volume that kept the look from ending, or where the kernel cannot reach its device.
        """
        try:
            return await self._observe(wanted, for_show=for_show)
        except OSError as error:
            raise explain_bad_answer(self._volume, error) from error
        except FrozenError as error:
            raise explain_frozen(self._volume, await self._find_noted_path()) from error
        except NotAnsweringError as error:
            if await self._is_stalled():
                raise
            raise InconclusiveError(
                f"A look at {self._volume} was given up, and not for want of its answers: {error.message}",
                hint="The machine is short of processors or memory; the volume is looked at again by itself.",
                reason=Reason.TOO_SLOW,
            ) from error

    async def _find_noted_path(self) -> str | None:
        record = await self._node.read(self._node.records.mounts.read, self._volume)
        return None if record is None else record.path

    async def _is_stalled(self) -> bool:
        return await self._node.is_stalled(self._volume, self._pin.path)

    async def _observe(self, wanted: Wanted | None, *, for_show: bool) -> Observed:
        if not for_show:
            self._memory.last_look = None
        notes = await self._node.notes.read(self._volume)
        self._noted_origin = notes.origin
        if self._pin.path is not None:
            known = self._pin.recognized
            request = make_request(self._node, self._volume, self._paths, wanted, notes.mount, known)
            try:
                look = await self._look(self._pin.path, request)
            except VanishedError:
                await self._pin.close()
                self._pin.path = None
            else:
                observed = await self._describe(look, wanted, notes, for_show=for_show)
                if not for_show:
                    past = PastLook(self._volume, request, notes, look)
                    keep_look(self._node, self._paths, wanted, past, observed.ids)
                return observed
        return await self._describe_absent(wanted, notes.mount)

    async def _look(self, path: str, request: LookRequest) -> DeviceFacts:
        look = await self._pin.look(request)
        found = look.device.identity.volume_id
        if found != self._volume:
            self._node.doubt(path)
            raise VanishedError(f"{path} is {found} by now, not {self._volume}.")
        return look

    async def _describe(
        self, look: DeviceFacts, wanted: Wanted | None, notes: Notes, *, for_show: bool
    ) -> Observed:
        exclusion = exclude_duplicate(self._volume, self._paths) or look.exclusion
        here = find_here(look, wanted)
        record, format_record = notes.mount, None
        if wanted is not None and needs_contents(wanted) and exclusion is None:
            if isinstance(notes.format, AgentError):
                raise notes.format
            format_record = notes.format
        if here is not None:
            note = make_note(here, look.device, self._node.boot_id, record)
            if not for_show:
                # As long as there is a mount that a move left behind, only the note of it tells whose it is.
                if note != record and look.cut_off is None:
                    await self._node.note_mount(note)
                self._memory.was_lost = False
            record = note
        rightful = self._list_rightful_links(wanted)
        if look.mounted_at is not None:
            # Whoever used it by that name would write below a mounted filesystem.
            rightful = frozenset({f"{links.BY_ID}/{self._volume}"})
        # Before any link that tells it is taken away.
        raw = await find_raw_note(self._node, look, wanted, notes.raw, for_show=for_show)
        answer = await self._find_origin(wanted, for_show=for_show)
        checked = self._pin.checked = self._pin.checked or await recall_check(
            self._pin, self._memory, look, for_show=for_show
        )
        observed = Observed(
            volume_id=self._volume,
            device=look.device,
            exclusion=exclusion,
            content=look.content,
            mounts=look.mounts,
            views=look.views,
            shown=look.shown,
            going=look.going,
            is_place_missing=look.is_place_missing,
            is_frozen=self._node.freezes.is_frozen(self._volume),
            stale_mounts=look.stale_mounts,
            was_lost=self._memory.was_lost,
            applied_options=None if record is None or here is None else record.options or None,
            obstacle=look.obstacle,
            mounted_at=look.mounted_at,
            is_hidden=look.is_hidden,
            ring=await self._find_ring(look, wanted),
            cut_off=look.cut_off,
            checked=checked,
            format_record=format_record,
            root_inode=look.root_inode,
            ids=Ids() if wanted is None else await self._node.resolve_ids(wanted.mount or wanted.block),
            processes=await self._list_processes(look, wanted),
            left_behind=() if here is None else await self._list_left_behind(),
            links=look.links & rightful,
            wrong_links=look.links - rightful,
            node_owner=look.node_owner,
            raw=raw,
            tuning=look.tuning,
            is_uuid_mounted_elsewhere=self._is_duplicate(look.content),
            origin=answer.origin,
            is_origin_awaited=answer.is_awaited,
            awaited_since=answer.since,
            awaited_until=answer.until,
            is_entry_awaited=wanted is None and self._node.may_want_raw(self._volume),
        )
        if wanted is None or not needs_contents(wanted) or exclusion is not None or look.mounts:
            return observed
        return await self._find_content(observed, look, wanted, for_show=for_show)

    async def _find_content(
        self, observed: Observed, look: DeviceFacts, wanted: Wanted, *, for_show: bool
    ) -> Observed:
        """Return what was observed with what is on the device, proven where anything hangs on that."""
        record, kind = observed.format_record, wanted.filesystem
        if is_decided(look, record):
            return observed
        if kind is None or not self._node.needs_proof(observed, wanted):
            return observed if look.content is not None else replace(observed, content=Unproven())
        seen = None if record is not None else self._memory.recall_data(look.device)
        content = await prove_content(self._pin, look, kind, record, seen=seen, for_show=for_show)
        self._memory.keep_content(look.device, content)
        # Asked again: a proof may take minutes, and what AWS says meanwhile counts.
        answer = await self._find_origin(wanted, for_show=for_show)
        return replace(
            observed,
            content=content,
            is_uuid_mounted_elsewhere=self._is_duplicate(content),
            origin=answer.origin,
            is_origin_awaited=answer.is_awaited,
            awaited_since=answer.since,
            awaited_until=answer.until,
        )

    def _is_duplicate(self, content: Content | None) -> bool:
        return isinstance(content, Filesystem) and content.uuid in self._node.duplicate_uuids

    async def _describe_absent(self, wanted: Wanted | None, record: MountRecord | None) -> Observed:
        stale = () if record is None else await find_stale_mounts(self._pin, self._node, record)
        return Observed(
            volume_id=self._volume,
            stale_mounts=stale,
            was_lost=self._memory.was_lost,
            wrong_links=self._node.find_links_named(self._list_rightful_links(wanted)),
            origin=self._node.find_answer(self._volume).origin,
        )

    async def _find_origin(self, wanted: Wanted | None, *, for_show: bool) -> OriginAnswer:
        """Return where the volume comes from, where that bears on what is done; noted unless ``for_show``.

        Raises AgentError where the note of it cannot be written, or trusted.
        """
        if not needs_contents(wanted):
            return self._node.find_answer(self._volume)
        if isinstance(self._noted_origin, AgentError):
            raise self._noted_origin
        if self._noted_origin is None and not for_show:
            self._noted_origin = await self._node.note_origin(self._volume)
        return self._node.find_origin(self._volume, self._noted_origin)

    async def _list_processes(self, look: DeviceFacts, wanted: Wanted | None) -> tuple[Process, ...]:
        mount = find_mount_to_leave(look, wanted)
        if mount is None:
            return ()
        going = tuple(one.path for one in look.going) if mount is look.mounts[0] else ()
        return await self._pin.call(
            find_processes, mount.path, mount.device_number, SEARCH_S, going, timeout_s=PROCESSES_TIMEOUT_S
        )

    async def _find_ring(self, look: DeviceFacts, wanted: Wanted | None) -> tuple[Relocation, ...]:
        is_to_move = wanted is not None and wanted.mount is not None and bool(look.mounts)
        if not is_to_move or look.obstacle is None or look.is_hidden or find_here(look, wanted) is not None:
            return ()
        return await self._node.rings.find(self._volume)

    async def _list_left_behind(self) -> tuple[Process, ...]:
        leftovers = self._memory.leftovers
        if not leftovers:
            return ()
        left = await self._pin.call(list_left, leftovers, timeout_s=PROCESSES_TIMEOUT_S)
        if not left:
            self._memory.leftovers = ()
        return left

    def _list_rightful_links(self, wanted: Wanted | None) -> frozenset[str]:
        names = {f"{links.BY_ID}/{self._volume}"}
        if wanted is not None and wanted.block is not None:
            names.add(wanted.name)
        return frozenset(names)
