"""That nothing is planned which nobody can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.base.paths import Paths
from agent.core.model import VolumeId
from agent.core.steps import actions
from agent.node.isolate.workers import Workers
from agent.node.standins.source import LoopbackSource
from agent.node.volume_session.actions import VolumeActions
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.pin import Pin


@pytest.mark.anyio
async def test_every_step_has_its_deed(tmp_path: Path) -> None:
    """A step that is declared is one of the actions, and the pass over a volume knows how it is done."""
    classes = (value for value in vars(actions).values() if isinstance(value, type))
    declared = {value for value in classes if hasattr(value, "kind")}
    workers = Workers()
    node = NodeContext(Paths(tmp_path), LoopbackSource(tmp_path, workers), workers)
    deeds = VolumeActions(node, Pin(workers, VolumeId("vol-0123456789abcdef0"), None)).deeds
    assert deeds.keys() == declared
    assert set(vars(actions)["Action"].split(" | ")) == {one.__name__ for one in declared}
