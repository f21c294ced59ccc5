"""Notes about what kubelet wants: on disk before the deed, of this boot alone, and none lost to another."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest

from agent.core.errors import RefusedError, ShortageError
from agent.core.model import FsType, Reason, VolumeId
from agent.core.replace import replace
from agent.csi.calls import AccessMode, Capability, StageCall
from agent.csi.volumes.staged_record import DIRECTORY, Publication, StagedRecord, make_record
from agent.csi.volumes.staged_records import StagedRecords

if sys.version_info >= (3, 11):
    from typing import TypeVarTuple, Unpack
else:
    from typing_extensions import TypeVarTuple, Unpack

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

VOLUME = VolumeId("vol-0123456789abcdef0")
OTHER = VolumeId("vol-0fedcba9876543210")
POD = Publication("/k/pods/a/mount", is_read_only=True, access=AccessMode.SINGLE_NODE_WRITER)
CALL = StageCall(
    VOLUME,
    "/k/globalmount",
    Capability(AccessMode.SINGLE_NODE_WRITER, fs_type=FsType.XFS, mount_flags=("noatime",)),
    mkfs_options=("-i", "size=512"),
    partition=1,
    is_copy=True,
)
RECORD = replace(make_record(CALL, "boot"), published=(POD,))


class Notes:
    """A disk that takes a moment for each thing."""

    async def read(self, read: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Read it after a moment."""
        await anyio.lowlevel.checkpoint()
        return read(*args)

    async def save(self, write: Callable[[Unpack[Ts]], None], *args: Unpack[Ts]) -> None:
        """Write it after a moment."""
        await anyio.lowlevel.checkpoint()
        write(*args)


async def open_records(state: Path, boot_id: str = "boot") -> StagedRecords:
    """Return the notes as a start of the agent finds them."""
    records = StagedRecords(state, Notes(), boot_id, "machine")
    await records.load()
    return records


async def test_restart_finds_what_was_noted(tmp_path: Path) -> None:
    """Every field outlasts the process."""
    records = await open_records(tmp_path)
    await records.change(VOLUME, lambda _: RECORD)
    assert (await open_records(tmp_path)).all == {VOLUME: RECORD}


async def test_reboot_ends_all_of_it(tmp_path: Path) -> None:
    """What was staged in another boot is not: kubelet begins anew, and its file goes."""
    await (await open_records(tmp_path)).change(VOLUME, lambda _: RECORD)
    records = await open_records(tmp_path, "next boot")
    assert records.all == {}
    assert records.find(VOLUME) is None
    assert list((tmp_path / DIRECTORY).iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("access", "ROOT"),
        ("is_block", 1),
        ("published", [{"target_path": "/x"}]),
        ("mount_flags", [7]),
        ("volume_id", "vol-1; rm"),
        ("partition", -1),
    ],
)
async def test_note_that_is_none_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    """A volume whose note was tampered with is left alone; the others are served."""
    records = await open_records(tmp_path)
    await records.change(VOLUME, lambda _: RECORD)
    await records.change(OTHER, lambda _: replace(RECORD, volume_id=OTHER))
    path = tmp_path / DIRECTORY / f"{VOLUME}.json"
    note = json.loads(path.read_text("utf-8"))
    note["record"][field] = value
    path.write_text(json.dumps(note), "utf-8")
    records = await open_records(tmp_path)
    assert set(records.all) == {OTHER}
    with pytest.raises(RefusedError, match=str(path)):
        records.find(VOLUME)


async def test_changes_at_once_lose_nothing(tmp_path: Path) -> None:
    """Fifty pods are published at once, and each is noted."""
    records = await open_records(tmp_path)
    await records.change(VOLUME, lambda _: replace(RECORD, published=()))

    async def publish(number: int) -> None:
        pod = replace(POD, target_path=f"/k/pods/{number}/mount")

        def add(known: StagedRecord | None) -> StagedRecord:
            assert known is not None
            return known.publishes(pod, pod.target_path)

        await records.change(VOLUME, add)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(publish, number)
    assert len(records.all[VOLUME].published) == 50
    assert (await open_records(tmp_path)).all == records.all


async def test_what_a_change_refuses_stays(tmp_path: Path) -> None:
    """The note before holds, on disk as well."""
    records = await open_records(tmp_path)
    await records.change(VOLUME, lambda _: RECORD)

    def refuse(_: StagedRecord | None) -> StagedRecord:
        raise RefusedError("No.")

    with pytest.raises(RefusedError):
        await records.change(VOLUME, refuse)
    assert (await open_records(tmp_path)).all == {VOLUME: RECORD}


class ShortNotes(Notes):
    """A disk that is read by a node which is short of something, as long as it is."""

    def __init__(self) -> None:
        self.refused = {"list_volumes", "read"}

    async def read(self, read: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Fail where what is asked is refused."""
        if read.__name__ in self.refused:
            raise ShortageError("There is no descriptor left.", reason=Reason.NODE_EXHAUSTED)
        return await super().read(read, *args)


async def test_note_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    """A node that was short of something at the start has lost nothing of what kubelet wants."""
    await (await open_records(tmp_path)).change(VOLUME, lambda _: RECORD)
    notes = ShortNotes()
    records = StagedRecords(tmp_path, notes, "boot", "machine")
    for refused in ({"list_volumes"}, {"read"}):
        notes.refused = refused
        await records.load()
        assert not records.is_read
        with pytest.raises(ShortageError):
            records.find(VOLUME)
        with pytest.raises(ShortageError):  # or a pod's view would be forgotten
            await records.change(VOLUME, lambda _: make_record(CALL, "boot"))
    assert set(records.faults) == {VOLUME}
    notes.refused = set()
    await records.load()
    assert records.is_read
    assert records.find(VOLUME) == RECORD
    assert not records.faults


async def test_nothing_is_kept_of_volumes_that_are_gone(tmp_path: Path) -> None:
    """An agent runs for years, and volumes come and go by thousands."""
    records = await open_records(tmp_path)
    before = _count_locks()
    for number in range(200):
        volume = VolumeId(f"vol-{number:017x}")
        record = replace(RECORD, volume_id=volume)
        await records.change(volume, partial(_put, record))
        await records.change(volume, lambda _: None)
    assert records.all == {}
    assert _count_locks() - before < 10


def _put(record: StagedRecord, _: StagedRecord | None) -> StagedRecord:
    return record


def _count_locks() -> int:
    return sum(isinstance(one, anyio.Lock) for one in gc.get_objects())


@pytest.mark.parametrize(
    ("staging", "target", "name"),
    [
        ("/k/plugins/kubernetes.io/csi/d/0a1b/globalmount", None, None),
        ("/k/globalmount", "/k/pods/u/volumes/kubernetes.io~csi/pvc-1/mount", "pvc-1"),
        ("/k/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-2", None, "pvc-2"),
        ("/k/other", "/k/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-3/u-1", "pvc-3"),
    ],
)
def test_persistent_volume_is_named_by_kubelets_paths(
    staging: str, target: str | None, name: str | None
) -> None:
    """No call of a filesystem's staging says it; a pod's path does."""
    published = () if target is None else (replace(POD, target_path=target),)
    record = replace(RECORD, staging_path=staging, published=published)
    assert record.persistent_volume == name
