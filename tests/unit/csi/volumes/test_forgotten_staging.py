"""What kubelet has forgotten is told with a way out, and only that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from agent.core.errors import NotAnsweringError
from agent.core.model import Condition, Reason, VolumeId
from agent.core.replace import replace
from agent.csi.volumes.forgotten_staging import ForgottenStaging
from agent.csi.volumes.kubelet_notes import find_note
from agent.csi.volumes.staged_record import StagedRecord, make_record
from agent.report.board.board import Board
from agent.report.board.events import EventName
from tests.unit.csi.volumes.kubelet_scene import STAGE, VOLUME
from tests.unit.report.samples import make_status

if sys.version_info >= (3, 11):
    from typing import TypeVarTuple, Unpack
else:
    from typing_extensions import TypeVarTuple, Unpack

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Scene:
    """A staged volume, with kubelet's note of it on a disk that may hang."""

    def __init__(self, directory: Path) -> None:
        self.note = directory / "csi/driver/hash/vol_data.json"
        self.note.parent.mkdir(parents=True)
        self.note.touch()
        call = replace(STAGE, staging_path="/k/csi/driver/hash/globalmount")
        self.staged: dict[VolumeId, StagedRecord] = {VOLUME: make_record(call, "boot")}
        self.board = Board()
        self.board.publish(make_status(volume_id=VOLUME, condition=Condition.READY, reason=None))
        self.hangs = False
        self.forgotten = ForgottenStaging(
            self.staged,
            lambda path: path.replace("/k", str(directory), 1),
            self.aside,
            self.board,
            lambda volume: f"/state/{volume}.json",
        )

    async def aside(self, function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], subject: str) -> T:
        """Do it here, or not."""
        if self.hangs:
            raise NotAnsweringError(f"{subject} does not answer.")
        return function(*args)

    async def look(self, times: int = 1) -> Reason | None:
        """Look so often, and return why the volume is not Ready then."""
        for _ in range(times):
            await self.forgotten.look()
        [status] = self.board.statuses()
        assert (status.reason is None) is (status.condition is Condition.READY)
        return status.reason

    @property
    def events(self) -> int:
        """How often it was told."""
        return sum(event.name is EventName.KUBELET_FORGOT for event in self.board.history.latest())


async def test_volume_that_kubelet_has_forgotten_is_told(tmp_path: Path) -> None:
    """Once, with the way out; and it is over where the note is there again."""
    scene = Scene(tmp_path)
    assert await scene.look(3) is None
    scene.note.unlink()
    assert await scene.look() is None, "kubelet may be about to have it forgotten here too"
    assert await scene.look(3) is Reason.ORPHANED_STAGING
    assert scene.events == 1
    [status] = scene.board.statuses()
    assert f"umount {tmp_path}/csi/driver/hash/globalmount; rm /state/{VOLUME}.json" in (status.hint or "")
    scene.note.touch()
    assert await scene.look() is None


async def test_root_that_is_gone_is_a_note_that_is_gone(tmp_path: Path) -> None:
    """With kubelet's whole directory."""
    scene = Scene(tmp_path)
    scene.note.unlink()
    for directory in (scene.note.parent, scene.note.parent.parent):
        directory.rmdir()
    assert await scene.look(2) is Reason.ORPHANED_STAGING


async def test_what_cannot_be_looked_at_is_not_forgotten(tmp_path: Path) -> None:
    """A disk that hangs says nothing; what was known holds."""
    scene = Scene(tmp_path)
    scene.note.unlink()
    scene.hangs = True
    assert await scene.look(5) is None
    scene.hangs = False
    assert await scene.look(2) is Reason.ORPHANED_STAGING
    scene.hangs = True
    assert await scene.look() is Reason.ORPHANED_STAGING


async def test_what_kubelet_has_taken_back_is_not_forgotten(tmp_path: Path) -> None:
    """While it is being unmounted its note may be gone already."""
    scene = Scene(tmp_path)
    scene.note.unlink()
    scene.staged[VOLUME] = replace(scene.staged[VOLUME], is_leaving=True)
    assert await scene.look(5) is None


@pytest.mark.parametrize(
    ("staging", "note"),
    [
        (
            "/k/plugins/kubernetes.io/csi/d/hash/globalmount",
            "/k/plugins/kubernetes.io/csi/d/hash/vol_data.json",
        ),
        (
            "/k/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1",
            "/k/plugins/kubernetes.io/csi/volumeDevices/pvc-1/data/vol_data.json",
        ),
    ],
)
def test_note_is_where_kubelet_has_it(staging: str, note: str) -> None:
    """As in pkg/volume/csi of Kubernetes."""
    assert find_note(staging) == note
