"""What is remembered of a volume that was handed out raw, over restarts of the agent.

Counted as handed out are also volumes whose note cannot be trusted, and those that an agent without such
notes has linked by name. What cannot be told is taken for the worse: nothing is made below a process that may
have the device open.
"""

from __future__ import annotations

from agent.base.log import get_logger
from agent.core.errors import AgentError, RefusedError
from agent.core.model import Device, Observed, RawRecord, Reason, RootInode, Wanted
from agent.core.replace import replace
from agent.node.device.links import BY_ID
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.inspect import DeviceFacts

log = get_logger(__name__)

NODE_GROUP = "disk"
"""Of block devices, by systemd's rules.d/50-udev-default.rules."""


async def find_raw_note(
    node: NodeContext,
    look: DeviceFacts,
    wanted: Wanted | None,
    noted: RawRecord | AgentError | None,
    *,
    for_show: bool,
) -> RawRecord | None:
    """Return the note that a volume was handed out raw; None where nobody can have it open since it was.

    ``noted`` is what its file holds, or why it holds none. Where there is reason to have a note and none that
    is sound, it is written first, unless ``for_show``: what tells it now, as a link does, may go. Raises
    AgentError where the note cannot be read or written.
    """
    if isinstance(noted, AgentError) and not isinstance(noted, RefusedError):
        raise noted
    note = None if isinstance(noted, RefusedError) else noted
    is_trusted = note is noted
    if isinstance(noted, RefusedError) and not for_show:
        log.warning("raw.untrusted", volume_id=look.device.identity.volume_id, why=noted.message)
    if note is not None and _is_current(note, node.boot_id, look.device):
        return note
    if is_trusted and all(link.startswith(f"{BY_ID}/") for link in look.links):
        return None
    owner = look.node_owner
    if owner is not None and note is None:  # else its node is a new one, which has what udev gave it
        owner = _guess_owner(owner, await _find_usual_owner(node), wanted)
    adopted = _make_note(node, look.device, owner)
    if not for_show:
        await node.save(node.records.raws.write, adopted)
    return adopted


async def note_raw(node: NodeContext, device: Device, owner: RootInode | None) -> None:
    """Write down, and sync, that a volume is about to be handed out; ``owner`` is its node's until then."""
    await node.save(node.records.raws.write, _make_note(node, device, owner))


async def note_restored(node: NodeContext, note: RawRecord) -> None:
    """Write down that the node has its owner and mode again. Who has the volume open has it on."""
    await node.save(node.records.raws.write, replace(note, node_owner=None))


def refuse_raw(observed: Observed) -> RefusedError:
    """Return why nothing is made, checked or mounted on a volume that somebody may have open raw.

    A filesystem below which a process writes to the device is lost, and no kernel minds.
    """
    return RefusedError(
        f"{observed.volume_id} was handed out raw, and whether anybody has it open as that is not known.",
        hint="That is seen to first; it is looked at again by itself.",
        reason=Reason.DEVICE_BUSY,
    )


def need_raw_note(observed: Observed) -> RawRecord:
    """Return the note without which a volume is not handed out; RefusedError where there is none."""
    if observed.raw is None:
        raise RefusedError(
            f"{observed.volume_id} is not noted to be handed out raw yet.",
            hint="That is noted first; it is looked at again by itself.",
            reason=Reason.STEP_FAILED,
        )
    return observed.raw


def _make_note(node: NodeContext, device: Device, owner: RootInode | None) -> RawRecord:
    return RawRecord(device.identity.volume_id, node.boot_id, device.diskseq, owner)


def _is_current(note: RawRecord, boot_id: str, device: Device) -> bool:
    """Whether the note is of this appearance of the device; where that has no number, it may be."""
    return note.boot_id == boot_id and (note.diskseq is None or note.diskseq == device.diskseq)


def _guess_owner(now: RootInode, usual: RootInode, wanted: Wanted | None) -> RootInode:
    """Return what a node had, as far as can be told, before an agent that did not note it changed that."""
    block = None if wanted is None else wanted.block
    if block is None:
        return usual
    return RootInode(
        now.uid if block.owner is None else usual.uid,
        now.gid if block.group is None else usual.gid,
        now.mode if block.mode is None else usual.mode,
    )


async def _find_usual_owner(node: NodeContext) -> RootInode:
    """Return what udev gives a block device's node where no rule of the node's says otherwise."""
    ids = await node.find_ids(None, NODE_GROUP)
    return RootInode(0, 0, 0o600) if ids.gid is None else RootInode(0, ids.gid, 0o660)
