"""``ebs-agent forget``: the way out where a note stands against a format that is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.client import Client
from agent.cli.forget import forget_format
from agent.core.errors import RefusedError
from agent.core.model import FormatRecord, FormatStage, FsType
from tests.loop.moments import FORMAT, VOLUME, Stage, WatchedWorkers, staged


def forget(stage: Stage) -> str:
    volume, noted = forget_format(stage.node.paths, Client(stage.node.paths.socket), VOLUME)
    assert volume == VOLUME
    return noted


async def test_wiped_volume_is_formatted_again_once_its_note_is_forgotten(tmp_path: Path) -> None:
    """A blank volume that was formatted before is refused until somebody says that it was meant."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        record = FormatRecord(
            VOLUME, "0a1b2c3d-0a1b-4c3d-8e5f-0a1b2c3d4e5f", FsType.EXT4, 1, FormatStage.DONE, "2026"
        )
        stage.node.records.formats.write(record)
        assert (await stage.run_pass()).reason == "AlreadyFormatted"
        assert record.uuid in forget(stage)
        outcome = await stage.run_pass()
        assert outcome.is_done
        assert FORMAT in outcome.steps


async def test_note_of_a_mounted_volume_is_kept(tmp_path: Path) -> None:
    """What is in use is not forgotten."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        assert (await stage.run_pass()).is_done
        with pytest.raises(RefusedError, match="is mounted at"):
            forget(stage)
        assert stage.node.records.formats.read(VOLUME) is not None


async def test_unsound_note_can_be_forgotten(tmp_path: Path) -> None:
    """A note that cannot be read is named, and removed all the same."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        note = stage.node.paths.state / "formats" / f"{VOLUME}.json"
        note.parent.mkdir(parents=True)
        note.write_text("torn")
        assert str(note) in forget(stage)
        assert not note.exists()
