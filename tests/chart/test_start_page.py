"""The page that leads from nothing to a volume in a pod, pasted as far as no cluster is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.aws.cloud import Cloud
from tests.aws.server import AwsServer
from tests.chart.helm import CHART, find_tool
from tests.loop.pages.desk import Desk
from tests.loop.pages.fences import Block, read_blocks

PAGE = CHART.parents[1] / "docs/start-eks-chart.md"
pytestmark = pytest.mark.timeout(600)


def list_commands(*, are_run: bool) -> list[Block]:
    blocks = read_blocks(PAGE.read_text("utf-8"))
    return [one for one in blocks if one.is_command and (one.not_run is None) is are_run]


def test_page_does_what_it_says(tmp_path: Path) -> None:
    """Each block can be pasted after those before it, and prints what the page shows."""
    with AwsServer(Cloud()) as aws:
        desk = Desk(tmp_path, aws.endpoint, {"helm": f'exec {find_tool("helm")} "$@"'})
        try:
            for block in list_commands(are_run=True):
                desk.paste(block)
        finally:
            desk.end()


@pytest.mark.parametrize("block", list_commands(are_run=False))
def test_block_is_not_run(block: Block) -> None:
    """What cannot be run here says why, and is counted among what was skipped."""
    pytest.skip(f"a block of docs/{PAGE.name} is not run: {block.not_run}")
