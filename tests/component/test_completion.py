"""Completion in a real bash, of the volumes a running agent knows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent.report.control.serve import serve_control
from agent.report.endpoints.control import make_control_app
from tests.component.test_control import ScriptedEngine
from tests.unit.report.samples import CHECKPOINTS, DATASETS, READY, REFUSED, make_board

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bash")]

SCRIPT = r"""
mkdir bin
printf '#!/bin/sh\nexec "$PYTHON" -m agent "$@"\n' > bin/ebs-agent
chmod +x bin/ebs-agent
PATH=$PWD/bin:$PATH
source <(ebs-agent --show-completion)
while IFS='|' read -r words last; do
    COMP_WORDS=($words "$last")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _ebs_agent_completion ebs-agent "$last" "${COMP_WORDS[COMP_CWORD - 1]}" </dev/null
    echo "${COMPREPLY[@]}"
done
"""
OFFERED = {
    ("ebs-agent", "stat"): ["status"],
    ("ebs-agent status", "che"): ["checkpoints"],
    ("ebs-agent explain", "vol-"): [CHECKPOINTS, DATASETS],
    ("ebs-agent wait checkpoints", "d"): ["datasets"],
    ("ebs-agent detach", ""): ["checkpoints", CHECKPOINTS, "datasets", DATASETS],
    ("ebs-agent snapshots", "da"): ["datasets"],
    ("ebs-agent expand", "x"): [],
}
"""What is offered for which word, after which others."""


def complete(directory: Path) -> list[list[str]]:
    """Return what one bash offers, in the table's order. Blocks."""
    done = subprocess.run(
        ["bash", "-euc", SCRIPT],
        cwd=directory,
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "EBS_AGENT_SOCKET": str(directory / "agent.sock"),
        },
        input="".join(f"{words}|{last}\n" for words, last in OFFERED),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [line.split() for line in done.stdout.splitlines()]


async def test_volumes_are_completed(tmp_path: Path) -> None:
    """Wherever a volume is meant, its name and its ID are offered."""
    board = make_board(READY, REFUSED)
    async with anyio.create_task_group() as tasks:
        make_app = lambda: make_control_app(board, ScriptedEngine(board))  # noqa: E731
        await tasks.start(serve_control, make_app, tmp_path / "agent.sock")
        assert await anyio.to_thread.run_sync(complete, tmp_path) == list(OFFERED.values())
        tasks.cancel_scope.cancel()
