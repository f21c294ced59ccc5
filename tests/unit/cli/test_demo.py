from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.demo.busy_writer import BLOCK_BYTES, Writer, make_block
from agent.cli.demo.run_demo import write_policy
from agent.cli.demo.sandbox import Stage
from agent.cli.demo.scenarios import SCENES, BlankVolume
from agent.cli.demo.scene import Scene
from agent.cli.demo.view import View
from agent.core.model import parse_volume_id
from agent.policy.reading import check_policy
from agent.report import api
from tests.unit.report.samples import READY, make_board, make_status


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Return a stage, and take it away."""
    stage = Stage.build()
    yield stage
    shutil.rmtree(stage.directory, ignore_errors=True)


def test_demo_s_policy_is_valid(stage: Stage) -> None:
    """The policy the demo writes has no problems, and an entry for each scene's volume."""
    scenes = [scene(stage) for scene in SCENES]
    write_policy(stage, scenes)
    text = stage.paths.policy.read_text()
    assert check_policy(text) == []
    assert all(parse_volume_id(scene.volume_id) in text for scene in scenes)


def test_stage_is_closed_to_others(stage: Stage) -> None:
    """Nobody else can plant anything where the demo mounts as root."""
    assert stage.directory.stat().st_mode & 0o077 == 0


def test_cleared_stage_leaves_nothing(stage: Stage) -> None:
    """Once cleared, a stage has no directory, mount or loop device left; before, the directory is told."""
    assert stage.find_leftovers() == [str(stage.directory)]
    stage.clear()
    assert stage.find_leftovers() == []


def write_some(writer: Writer) -> None:
    writer.start()
    while writer.written < 3 and writer.error is None:
        pass
    writer.stop()


def test_writer_verifies_what_it_wrote(tmp_path: Path) -> None:
    """A writer that is stopped has read back every block it wrote."""
    writer = Writer(tmp_path)
    write_some(writer)
    assert writer.error is None
    assert writer.verified == writer.written >= 3


def test_writer_notices_a_changed_block(tmp_path: Path) -> None:
    """A block that does not read back as it was written is an error."""
    writer = Writer(tmp_path)
    write_some(writer)
    with (tmp_path / "training.log").open("r+b") as file:
        file.seek(BLOCK_BYTES)
        file.write(make_block(7))
    writer._verify_file()
    assert writer.error == "block 1 does not read back as it was written"


def test_writer_tells_that_its_volume_is_gone(tmp_path: Path) -> None:
    """A directory that cannot be written to is the writer's error, not a traceback of a thread."""
    writer = Writer(tmp_path / "gone")
    writer.start()
    writer.stop()
    assert "No such file" in str(writer.error)


def make_views(stage: Stage) -> tuple[Scene, View]:
    scene = BlankVolume(stage)
    return scene, View([scene], stage.directory, ["Ctrl-C ends it."])


def test_lines_are_said_once(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal each scene, event and proof is one passage, however often it is shown."""
    scene, view = make_views(stage)
    volumes = {scene.volume_id: api.show_status(make_status(READY))}
    events = [{"number": 1, "at": "now", "event": "volume.ready"}]
    with view.open():
        view.show(volumes, [])
        scene.is_over, scene.proof = True, "ext4, ready for use"
        view.show(volumes, events)
        view.show(volumes, events)
    out = capsys.readouterr().out
    for text in (scene.title, scene.story, "volume.ready", "=> ext4, ready for use"):
        assert out.count(text) == 1


def test_picture_shows_the_last_view(stage: Stage, tmp_path: Path) -> None:
    """The saved picture holds what was on the screen last."""
    scene, view = make_views(stage)
    view.show({scene.volume_id: api.show_node(make_board(READY))["volumes"][0]}, [], is_over=True)
    view.save_picture(tmp_path / "demo.svg")
    picture = (tmp_path / "demo.svg").read_text()
    assert picture.startswith("<svg")
    assert "url(http" not in picture
    assert "new,&#160;blank&#160;volume" in picture
