"""What of a volume, and of what is on it, bears on what may be done with it; when to look at all that again.

A signature answers at once. What has none is proven blank or not where a format would follow, under the lock
that is kept until the pass ends. Where one was interrupted, what it left is told from what it did not. At
rest it is enough that a look would find what the last one did, where a pass hangs on nothing else.
"""

from __future__ import annotations

import os

from agent.core.errors import AgentError, InconclusiveError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import (
    Checked,
    Content,
    Device,
    Exclusion,
    Filesystem,
    Foreign,
    FormatRecord,
    FormatStage,
    FsType,
    Ids,
    Mount,
    MountRecord,
    Reason,
    VolumeId,
    Wanted,
    WantedFilesystem,
)
from agent.core.mount_options import needs_check_first
from agent.node.content.blankness import holds_data
from agent.node.content.interrupted_format import REFERENCE_LIMIT_BYTES, explain_remains
from agent.node.filesystem.mkfs import make_reference
from agent.node.isolate.messages import Fd
from agent.node.mounts.own_mounts import find_mounts_of_absent
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.inspect import DeviceFacts, LookRequest, PastLook
from agent.node.volume_session.pin import LOOK_TIMEOUT_S, PROBE_TIMEOUT_S, Pin
from agent.node.volume_session.recheck import read_state
from agent.node.volume_session.volume_memory import VolumeMemory


def is_decided(look: DeviceFacts, record: FormatRecord | None) -> bool:
    """Tell whether the signatures that a look found say all there is to know of what is on the device."""
    is_interrupted = record is not None and record.stage is FormatStage.INTENDED
    return look.content is not None and not is_interrupted


async def recall_check(
    pin: Pin, memory: VolumeMemory, look: DeviceFacts, *, for_show: bool
) -> Checked | None:
    """Return what a check in an earlier pass found wrong with what is there, if nobody has written since.

    ``for_show``: nothing is flushed for it.
    """
    if not memory.has_fault or look.mounts or not isinstance(look.content, Filesystem):
        return None
    state = await pin.call(read_state, pin.fd, look.device, not for_show, timeout_s=LOOK_TIMEOUT_S)
    return memory.recall_check(state)


async def prove_content(
    pin: Pin,
    look: DeviceFacts,
    kind: WantedFilesystem,
    record: FormatRecord | None,
    *,
    seen: Foreign | None = None,
    for_show: bool = False,
) -> Content:
    """Find out what is on a device that is formatted if it is blank, locked from here to the end.

    ``seen``: unsigned data that an earlier proof found; where it is there still, the device is not read anew.
    ``for_show``: it will not be formatted on the strength of this, so it is not locked.
    """
    size_bytes = look.device.size_bytes
    if (
        seen is not None
        and seen.offset_bytes is not None
        and await pin.call(holds_data, pin.fd, seen.offset_bytes, size_bytes, timeout_s=LOOK_TIMEOUT_S)
    ):
        return seen
    find = pin.probe if for_show else pin.lock_and_probe
    content = await find(look.device)
    if record is None or record.stage is not FormatStage.INTENDED:
        return content
    if isinstance(content, Foreign) and not content.is_signed:
        return await _explain(pin, content, look.device, kind, record)
    if isinstance(content, Filesystem) and _would_remake(pin, content):
        unfinished = Foreign("an unfinished filesystem")
        remains = await _explain(pin, unfinished, look.device, kind, record)
        return content if isinstance(remains, Foreign) and remains.is_own_remains else remains
    return content


def _would_remake(pin: Pin, content: Filesystem) -> bool:
    """Whether a filesystem is one that an interrupted format left, as far as its superblock tells."""
    is_damaged = content.has_errors or (pin.checked is not None and not pin.checked.is_clean)
    return content.is_pristine is True and is_damaged


async def _explain(
    pin: Pin, content: Foreign, device: Device, kind: WantedFilesystem, record: FormatRecord
) -> Content:
    """Find out whether the format that was interrupted left what is there."""
    if (kind.type, device.size_bytes) != (record.type, record.size_bytes):
        return content
    if record.type is not FsType.EXT4:
        return await pin.call(explain_remains, pin.fd, device, record, None, timeout_s=PROBE_TIMEOUT_S)
    if device.size_bytes > REFERENCE_LIMIT_BYTES:
        return content
    reference = await make_reference(
        device.size_bytes, uuid=record.uuid, label=kind.label, options=kind.mkfs_options
    )
    try:
        return await pin.call(
            explain_remains, pin.fd, device, record, Fd(reference), timeout_s=PROBE_TIMEOUT_S
        )
    finally:
        os.close(reference)


def is_raw(wanted: Wanted | None) -> bool:
    """Tell whether the volume is to be handed out raw."""
    return wanted is not None and wanted.block is not None


def needs_contents(wanted: Wanted | None) -> bool:
    """Whether what is on the volume bears on what is done: of a raw one it is its owner's business."""
    return wanted is not None and wanted.block is None


def find_mount_to_leave(look: DeviceFacts, wanted: Wanted | None) -> Mount | None:
    """Return the agent's mount that is to be taken away, if nobody uses it."""
    if wanted is None or not look.mounts:
        return None
    here = find_here(look, wanted)
    if here is None:
        return look.mounts[0]
    is_unchecked = wanted.mount is not None and needs_check_first(here, wanted.mount.options)
    return here if is_unchecked else look.cut_off


def find_here(look: DeviceFacts, wanted: Wanted | None) -> Mount | None:
    """Return the mount that is where it is wanted."""
    if wanted is None or wanted.mount is None:
        return None
    return next((mount for mount in look.mounts if mount.path == wanted.mount.path), None)


def make_note(here: Mount, device: Device, boot_id: str, record: MountRecord | None) -> MountRecord:
    """Return the note that is true of the mount, whoever made it: its stale rest is known by it later."""
    options = record.options if record is not None and record.path == here.path else ()
    volume = device.identity.volume_id
    return MountRecord(volume, here.path, here.device_number, boot_id, device.diskseq, options)


def explain_bad_answer(volume: VolumeId, error: OSError) -> AgentError:
    """Say what it means that a device or its mounted filesystem answered a simple question with an error."""
    if is_shortage(error):
        return explain_shortage(f"{volume} could not be looked at", error)
    return AgentError(
        f"{volume} answers with an error: {error.strerror or error}.",
        hint="Its filesystem may be shut down or its device failing; see the kernel log. What was written and"
        " not flushed may be lost; unmount it, and it is checked and mounted again.",
        reason=Reason.IO_ERRORS,
    )


async def find_stale_mounts(pin: Pin, node: NodeContext, record: MountRecord) -> tuple[Mount, ...]:
    """Return the mounts that a volume without a device has left; raise InconclusiveError where they live."""
    left = await pin.call(
        find_mounts_of_absent, record, node.boot_id, node.source.is_present, timeout_s=LOOK_TIMEOUT_S
    )
    if left.alive:
        raise InconclusiveError(
            f"{record.volume_id} is mounted at {left.alive[0].path}, and no device node leads to it now.",
            hint=f"The kernel still has its device, {left.alive[0].device_number}. If this lasts, see the"
            " kernel log and: udevadm trigger --subsystem-match=block",
            reason=Reason.UNREACHABLE,
        )
    return left.stale


def exclude_duplicate(volume: VolumeId, paths: tuple[str, ...]) -> Exclusion | None:
    """Return that several devices say they are this volume, where they do."""
    if len(paths) <= 1:
        return None
    return Exclusion(
        Reason.DUPLICATE_DEVICE,
        f"Several devices say they are {volume}: {', '.join(paths)}.",
        hint="Which of them is meant cannot be known; detach the volume and attach it again.",
    )


def make_request(
    node: NodeContext,
    volume: VolumeId,
    paths: tuple[str, ...],
    wanted: Wanted | None,
    record: MountRecord | None,
    known: Filesystem | None = None,
) -> LookRequest:
    """Return what to look for, at the first of the volume's device nodes."""
    return LookRequest(
        path=paths[0],
        identify=node.source.identify,
        is_present=node.source.is_present,
        dev_ebs=node.paths.dev_ebs,
        boot_id=node.boot_id,
        wanted_path=None if wanted is None or wanted.mount is None else wanted.mount.path,
        record=record,
        reads_contents=needs_contents(wanted) and exclude_duplicate(volume, paths) is None,
        is_raw=is_raw(wanted),
        is_kubelets=wanted is not None and wanted.is_kubelets,
        shown_at=node.find_shown(volume),
        is_leaving=wanted is not None and wanted.is_leaving,
        known=known,
    )


def keep_look(
    node: NodeContext, paths: tuple[str, ...], wanted: Wanted | None, past: PastLook, ids: Ids
) -> None:
    """Remember a look if all that a pass goes by is in it and in what is known beside it; else none.

    Not where more was asked for it: what is on a device that is not mounted, or who uses one that is to go.
    """
    memory, facts = node.remember(past.volume), past.facts
    reads_more = needs_contents(wanted) and not facts.mounts and facts.exclusion is None
    is_whole = not (reads_more or memory.has_fault or memory.leftovers or find_mount_to_leave(facts, wanted))
    memory.last_look = past if is_whole else None
    memory.last_known = _list_known(node, past, paths, wanted, ids)


def recall_look(
    node: NodeContext, volume: VolumeId, paths: tuple[str, ...], wanted: Wanted | None, ids: Ids
) -> PastLook | None:
    """Return the last look at a volume where a pass would make the same, and all beside it is as it was."""
    memory = node.remember(volume)
    past = memory.last_look
    if past is None or not paths:
        return None
    request = make_request(node, volume, paths, wanted, past.notes.mount)
    if request != past.request:
        return None
    return past if _list_known(node, past, paths, wanted, ids) == memory.last_known else None


def _list_known(
    node: NodeContext, past: PastLook, paths: tuple[str, ...], wanted: Wanted | None, ids: Ids
) -> tuple[object, ...]:
    volume, content = past.volume, past.facts.content
    memory = node.remember(volume)
    is_duplicate = isinstance(content, Filesystem) and content.uuid in node.duplicate_uuids
    answer, is_frozen = node.find_answer(volume), node.freezes.is_frozen(volume)
    return paths, wanted, ids, answer, is_frozen, is_duplicate, memory.was_lost, memory.leftovers
