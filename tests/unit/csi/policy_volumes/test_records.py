"""Notes about which pods have which volume of the policy: on disk before the deed, and of this boot alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.core.errors import RefusedError
from agent.core.model import VolumeId
from agent.csi.calls import AccessMode
from agent.csi.policy_volumes.calls import EntryName
from agent.csi.policy_volumes.record import DIRECTORY, EntryPublication, PublishedRecord
from agent.csi.policy_volumes.records import PublishedRecords
from tests.unit.csi.volumes.kubelet_scene import resolve
from tests.unit.csi.volumes.test_staged_records import Notes

pytestmark = pytest.mark.anyio

VOLUME = VolumeId("vol-0123456789abcdef0")
ROOT = "/var/lib/kubelet"
REAL = "/opt/sagemaker/kubelet"
POD = EntryPublication(
    f"{ROOT}/pods/u/volumes/kubernetes.io~csi/pv/mount",
    is_read_only=True,
    access=AccessMode.MULTI_NODE_READER_ONLY,
    entry=EntryName("cache"),
    is_block=False,
)
DEVICE = EntryPublication(
    f"{ROOT}/plugins/kubernetes.io/csi/volumeDevices/publish/pv/u",
    is_read_only=False,
    access=AccessMode.MULTI_NODE_MULTI_WRITER,
    entry=EntryName("cache"),
    is_block=True,
)


async def load(directory: Path, boot_id: str = "boot") -> PublishedRecords:
    records = PublishedRecords(directory, Notes(), boot_id, "machine")
    await records.load()
    return records


@pytest.mark.parametrize("publication", [POD, DEVICE])
async def test_note_is_read_as_it_was_written(tmp_path: Path, publication: EntryPublication) -> None:
    """The next agent knows what pods have; after a reboot none has anything."""
    records = await load(tmp_path)
    record = PublishedRecord(VOLUME, "boot", (publication,))
    await records.note(VOLUME, lambda _: record)
    assert (await load(tmp_path)).all == {VOLUME: record}
    assert record.persistent_volume == "pv"
    assert (await load(tmp_path, "another boot")).all == {}
    assert (await load(tmp_path)).all == {}


async def test_note_that_is_not_sound_is_not_guessed_at(tmp_path: Path) -> None:
    """Whoever is asked about that volume says so; it is not overwritten."""
    records = await load(tmp_path)
    await records.note(VOLUME, lambda _: PublishedRecord(VOLUME, "boot", (POD,)))
    (path,) = (tmp_path / DIRECTORY).iterdir()
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said).replace("cache", "other"))
    again = await load(tmp_path)
    with pytest.raises(RefusedError):
        await again.note(VOLUME, lambda _: PublishedRecord(VOLUME, "boot"))


async def test_places_are_those_that_kubelet_makes_of_a_view(tmp_path: Path) -> None:
    """A device kubelet mounts again, for the pod and to hold it; nowhere else is a mount the agent's."""
    records = await load(tmp_path)
    assert records.find_shown(VOLUME, resolve) == frozenset()
    await records.note(VOLUME, lambda _: PublishedRecord(VOLUME, "boot", (POD,)))
    assert records.find_shown(VOLUME, resolve) == {POD.target_path.replace(ROOT, REAL)}
    await records.note(VOLUME, lambda _: PublishedRecord(VOLUME, "boot", (DEVICE,)))
    assert records.find_shown(VOLUME, resolve) == {
        DEVICE.target_path.replace(ROOT, REAL),
        f"{REAL}/plugins/kubernetes.io/csi/volumeDevices/pv/dev/u",
        f"{REAL}/pods/u/volumeDevices/kubernetes.io~csi/pv",
    }
