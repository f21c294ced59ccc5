"""Stand-in volumes and a real agent over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, Scratch


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    """Give directories for an agent, and take down all that was mounted and attached there."""
    scratch = Scratch(tmp_path).prepare()
    yield scratch
    scratch.clean()


@pytest.fixture
def agent(scratch: Scratch) -> Iterator[AgentProcess]:
    """Give an agent that the test writes a policy for and starts."""
    process = AgentProcess(scratch)
    yield process
    process.end_anyhow()
