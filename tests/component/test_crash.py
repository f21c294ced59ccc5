"""A daemon that ends by a fault of its own leaves its traceback: nobody can run it again to see one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from agent import daemon
from agent.core.errors import AgentError

async def run(*_):
    raise {error}

daemon.run = run
sys.argv = ["ebs-agent", "--root", {root!r}, "run"]
from agent.__main__ import main
main()
"""


def crash(root: Path, error: str) -> subprocess.CompletedProcess[str]:
    code = RUN.format(error=error, root=str(root))
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("error", ["RuntimeError('bad')", "KeyError('bad')"])
def test_daemon_that_ends_by_a_fault_says_where(tmp_path: Path, error: str) -> None:
    """The traceback is in the log, and the command's own sentence after it."""
    done = crash(tmp_path, error)
    assert done.returncode == 1
    assert "agent.crashed" in done.stderr
    assert "in run" in done.stderr
    assert "something it does not expect" in done.stderr


def test_daemon_that_cannot_start_says_a_sentence(tmp_path: Path) -> None:
    """What was meant needs no traceback."""
    done = crash(tmp_path, "AgentError('Another agent answers.', hint='Stop it.')")
    assert (done.returncode, done.stderr) == (1, "ebs-agent: Another agent answers.\nStop it.\n")
