"""A volume that was handed out raw: that is known over restarts, and its node goes back to what it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.base.paths import Paths
from agent.core.errors import RefusedError
from agent.core.model import (
    Blank,
    Condition,
    Device,
    DeviceNumber,
    Exclusion,
    FormatRule,
    FsType,
    Identity,
    Ids,
    Mount,
    Observed,
    RawRecord,
    Reason,
    RootInode,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
)
from agent.core.plan import make_plan, needs_proof
from agent.core.replace import replace
from agent.core.steps import EndRaw, Link, NoteRaw, RestoreNodeOwnership, SetNodeOwnership, Step, Unlink
from agent.node.isolate.workers import Workers
from agent.node.machine import Machine
from agent.node.standins.source import LoopbackSource
from agent.node.state.volume_records import read_notes
from agent.node.volume_session.inspect import DeviceFacts
from agent.node.volume_session.raw_handover import find_raw_note
from tests.fakes.world import AgentDiedError, FakeNode, FakeVolume, is_death
from tests.unit.loop.test_reconcile import reconciling, wait_condition, wait_for

pytestmark = pytest.mark.anyio

VOLUME = VolumeId("vol-0123456789abcdef0")
BY_ID = f"by-id/{VOLUME}"
NUMBER = DeviceNumber(259, 3)
IDENTITY = Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0")
DEVICE = Device("/dev/nvme1n1", NUMBER, IDENTITY, 1 << 30, diskseq=7)
BEFORE, GIVEN = RootInode(0, 6, 0o660), RootInode(0, 6, 0o666)
NOTE = RawRecord(VOLUME, "this boot", 7, BEFORE)
RESTORED = replace(NOTE, node_owner=None)
RESTORE = RestoreNodeOwnership(BEFORE)
RAW = Wanted(VOLUME, "rawdb", block=WantedBlock(mode=0o666))
FILES = Wanted(
    VOLUME,
    "ckpt",
    filesystem=WantedFilesystem(FsType.EXT4, FormatRule.IF_BLANK),
    mount=WantedMount("/data/ckpt"),
)
MOUNT = Mount(50, 20, NUMBER, "/", "/data/ckpt", frozenset({"rw"}), "ext4", DEVICE.path, frozenset({"rw"}))
EXPOSED = Observed(VOLUME, DEVICE, links=frozenset({BY_ID, "rawdb"}), node_owner=GIVEN, raw=NOTE)
UNLINKED = replace(EXPOSED, links=frozenset({BY_ID}), wrong_links=frozenset({"rawdb"}))
BUSY = Exclusion(Reason.DEVICE_BUSY, "LVM stands on it.")
CSI = Exclusion(Reason.MANAGED_BY_CSI, "It is the CSI driver's.")

ROWS: dict[str, tuple[Observed, Wanted | None, tuple[Step, ...]]] = {
    "as wanted": (EXPOSED, RAW, ()),
    "noted, and killed before the link": (replace(EXPOSED, links=frozenset({BY_ID})), RAW, (Link("rawdb"),)),
    "taken back once": (replace(EXPOSED, raw=RESTORED), RAW, (NoteRaw(),)),
    "not noted": (replace(EXPOSED, raw=None), RAW, (NoteRaw(),)),
    "mode is no more wanted": (
        EXPOSED,
        replace(RAW, block=WantedBlock()),
        (SetNodeOwnership(0, 6, 0o660),),
    ),
    "owner is not known now": (
        replace(EXPOSED, node_owner=RootInode(70, 6, 0o666), ids=Ids(missing="The user 'db'")),
        replace(RAW, block=WantedBlock(owner="db", mode=0o666)),
        (),
    ),
    "no entry": (UNLINKED, None, (Unlink("rawdb"), RESTORE)),
    "no entry, and taken back": (replace(EXPOSED, raw=RESTORED, links=frozenset({BY_ID})), None, ()),
    "no entry, and another builds on it": (
        replace(UNLINKED, exclusion=BUSY),
        None,
        (Unlink("rawdb"), RESTORE),
    ),
    "no entry, and Kubernetes'": (replace(UNLINKED, exclusion=CSI), None, (Unlink("rawdb"),)),
    "no entry before AWS has answered": (replace(UNLINKED, is_origin_awaited=True), None, ()),
    "no entry before it is known which node this is": (replace(UNLINKED, is_entry_awaited=True), None, ()),
    "no entry before that, and never handed out": (
        replace(UNLINKED, is_origin_awaited=True, raw=None),
        None,
        (Unlink("rawdb"),),
    ),
    "no entry before that, and taken back": (
        replace(UNLINKED, is_origin_awaited=True, raw=RESTORED),
        None,
        (Unlink("rawdb"),),
    ),
    "no entry before that, and mounted": (
        replace(UNLINKED, is_origin_awaited=True, mounts=(MOUNT,)),
        None,
        (Unlink("rawdb"),),
    ),
    "filesystem": (UNLINKED, FILES, (Unlink("rawdb"), RESTORE, EndRaw())),
    "filesystem, and Ready before": (replace(UNLINKED, mounts=(MOUNT,)), FILES, (Unlink("rawdb"), RESTORE)),
    "filesystem, node taken back": (
        replace(EXPOSED, raw=RESTORED, links=frozenset({BY_ID})),
        FILES,
        (EndRaw(),),
    ),
    "mounted by hand": (replace(UNLINKED, mounted_at="at /mnt"), RAW, (Unlink("rawdb"), RESTORE)),
}


@pytest.mark.parametrize(("observed", "wanted", "actions"), ROWS.values(), ids=ROWS.keys())
def test_raw_volume_is_taken_back(
    observed: Observed, wanted: Wanted | None, actions: tuple[Step, ...]
) -> None:
    """Noted before it is handed out; its node goes back at once, its note once nobody has it open."""
    plan = make_plan(observed, wanted)
    assert tuple(step for step in plan.actions if step.kind not in {"remount", "tune"}) == actions


def test_note_comes_before_anybody_is_given_the_volume() -> None:
    """Alone, so that the next look finds it on disk before link, owner or mode follow."""
    plan = make_plan(replace(EXPOSED, raw=None, links=frozenset({BY_ID}), node_owner=BEFORE), RAW)
    assert plan.next_actions == (NoteRaw(),)
    assert plan.actions[1:] == (Link("rawdb"), SetNodeOwnership(None, None, 0o666))


def test_nothing_is_read_for_a_proof_before_nobody_has_it_raw() -> None:
    """A proof would be out of date by the time the volume is free."""
    observed = replace(UNLINKED, wrong_links=frozenset(), content=Blank(1))
    assert not needs_proof(observed, FILES)
    assert needs_proof(replace(observed, raw=None), FILES)


# -- Whatever the agent dies of ------------------------------------------------------------------------------

INSTANTS = 24


async def live(node: FakeNode, wanted: Wanted | None, is_reached: Condition) -> bool:
    """Run an agent until the volume is in a condition; return False where it died first."""
    try:
        async with reconciling(node, {VOLUME: wanted}) as (_, board):
            await wait_condition(board, is_reached)
    except BaseException as error:
        if not is_death(error):
            raise
        return False
    return True


async def meet_user(node: FakeNode) -> None:
    """Run an agent that wants a filesystem, and see that the raw user stops it."""
    async with reconciling(node, {VOLUME: FILES}) as (_, board):
        await wait_for(board, lambda status: status.reason is Reason.DEVICE_BUSY)


def die_at(instant: int, volume: FakeVolume) -> FakeNode:
    countdown = [instant]

    def die_once(_: str) -> None:
        countdown[0] -= 1
        if countdown[0] == -1:
            raise AgentDiedError

    return FakeNode(volume, interrupt=die_once)


@pytest.mark.parametrize("instant", range(INSTANTS))
async def test_raw_user_outlives_an_agent_that_dies_at_any_instant(instant: int) -> None:
    """Whoever could open the volume while it was handed out is never written under; then it is mounted."""
    volume = FakeVolume(VOLUME, node_owner=BEFORE)
    await live(die_at(instant, volume), RAW, Condition.READY)
    was_open = "rawdb" in volume.links or volume.node_owner != BEFORE
    volume.raw_users = int(was_open)
    if was_open:
        await live(die_at(instant, volume), None, Condition.UNMANAGED)
        await meet_user(FakeNode(volume))
        assert volume.node_owner == BEFORE
        assert "rawdb" not in volume.links
        volume.raw_users = 0
    await live(die_at(instant, volume), FILES, Condition.READY)
    assert await live(FakeNode(volume), FILES, Condition.READY)
    assert (volume.raw, volume.node_owner, volume.formats) == (None, BEFORE, 1)
    assert await live(FakeNode(volume), FILES, Condition.READY)


# -- The note ------------------------------------------------------------------------------------------------

LOOK = DeviceFacts(DEVICE, None, node_owner=GIVEN, links=frozenset({BY_ID}))
LINKED = replace(LOOK, links=frozenset({BY_ID, "rawdb"}))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Machine]:
    """Give a node with an empty state directory."""
    async with Workers() as workers:
        node = Machine(Paths(tmp_path), LoopbackSource(tmp_path, workers), workers)
        node.boot_id = "this boot"
        yield node


async def find_note(
    node: Machine, look: DeviceFacts, wanted: Wanted | None, *, for_show: bool
) -> RawRecord | None:
    """Return the note as a look has it, read and judged."""
    notes = await node.read(read_notes, node.records, VOLUME)
    return await find_raw_note(node, look, wanted, notes.raw, for_show=for_show)


def file_of(node: Machine) -> Path:
    return node.paths.state / "raw" / f"{VOLUME}.json"


async def test_note_holds_for_one_appearance(node: Machine) -> None:
    """Another boot's, and that of a device that has gone since, says nothing; one without a number may."""
    for note, is_found in (
        (NOTE, True),
        (RESTORED, True),
        (replace(NOTE, boot_id="another boot"), False),
        (replace(NOTE, diskseq=6), False),
        (replace(NOTE, diskseq=None), True),
    ):
        node.records.raws.write(note)
        assert await find_note(node, LOOK, FILES, for_show=False) == (note if is_found else None)


SPOILT = {
    "torn": b'{"version": 1, "kin',
    "empty": b"",
    "not text": b"\xff\xfe\x00",
    "nothing": b"{}",
    "no owner that there can be": None,
}


@pytest.mark.parametrize("content", SPOILT.values(), ids=SPOILT.keys())
async def test_spoilt_note_counts_as_handed_out(node: Machine, content: bytes | None) -> None:
    """What cannot be trusted is taken for the worse, and written anew, so that it can be taken back."""
    node.records.raws.write(replace(NOTE, boot_id="another boot", node_owner=RootInode(1 << 40, 0, 0o660)))
    if content is not None:
        file_of(node).write_bytes(content)
    before = file_of(node).read_bytes()
    shown = await find_note(node, LOOK, FILES, for_show=True)
    assert shown is not None
    assert file_of(node).read_bytes() == before
    found = await find_note(node, LOOK, FILES, for_show=False)
    assert found == shown
    assert found.node_owner is not None
    assert found.node_owner.mode in {0o600, 0o660}
    assert node.records.raws.read(VOLUME) == found


async def test_note_that_others_could_have_changed_is_not_followed(node: Machine) -> None:
    """In a directory that others write in nothing is noted; nothing is handed out or made there either."""
    node.records.raws.write(NOTE)
    file_of(node).parent.chmod(0o777)
    with pytest.raises(RefusedError, match="others may write to it"):
        await find_note(node, LOOK, FILES, for_show=False)
    with pytest.raises(RefusedError, match="others may write to it"):
        node.records.raws.remove(VOLUME)


@pytest.mark.parametrize("wanted", [None, FILES, RAW], ids=["no entry", "filesystem", "raw"])
async def test_link_without_a_note_counts_as_handed_out(node: Machine, wanted: Wanted | None) -> None:
    """An agent that kept no notes has made it: noted before the link is taken away."""
    found = await find_note(node, LINKED, wanted, for_show=False)
    assert found is not None
    assert found.node_owner is not None
    assert found.node_owner.mode in {0o600, 0o660}
    assert await find_note(node, LOOK, wanted, for_show=False) == found
    node.records.raws.remove(VOLUME)
    named = replace(RAW, block=WantedBlock())
    kept = await find_note(node, LINKED, named, for_show=False)
    assert kept is not None
    assert kept.node_owner == GIVEN, "what the entry does not name was never changed"


async def test_volume_that_was_never_raw_has_no_note(node: Machine) -> None:
    """Nothing is written for a volume that nobody was given."""
    left = replace(LOOK, links=frozenset({BY_ID, "by-id/vol-0fedcba9876543210"}))
    for wanted in (None, FILES, RAW):
        for look in (LOOK, left):
            assert await find_note(node, look, wanted, for_show=False) is None
    assert not file_of(node).parent.exists()
