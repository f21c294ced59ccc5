"""What the lifecycle scripts ask of the agent when one release takes the place of another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agent as package
from tests.agent_process import AgentProcess, Scratch
from tests.fakes.bundle import SCRIPTS
from tests.loop.test_daemon import OTHER, VOLUME, entry

TAGS = {"team": "vision"}
CHANGES: dict[str, tuple[dict[str, Any] | None, str, bool]] = {
    "one less": (None, "ckpt", True),
    "renamed": ({"name": "another"}, "ckpt another", True),
    "for another volume": ({"match": {"volume_id": "vol-0123456789abcdef9"}}, "ckpt", True),
    "with tags that are not known": (
        {"match": {"volume_id": OTHER, "tags": TAGS}},
        "ckpt other",
        False,
    ),
}
"""What becomes of the second entry, what of the usable volumes is wanted then, and whether it is usable."""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Give a node's root, where this agent is the release in force."""
    root = tmp_path / "node"
    place = root / "opt/ebs-agent/1.0"
    (place / "bin").mkdir(parents=True)
    (place / "share/ebs-agent").mkdir(parents=True)
    (place / "share/ebs-agent/VERSION").write_text(f"{package.__version__}\n")
    (place / "bin/python").symlink_to(sys.executable)
    program = place / "bin/ebs-agent"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent "$@"\n')
    program.chmod(0o755)
    (place.parent / "current").symlink_to("1.0")
    return root


def ask(release: Path, scratch: Scratch, *words: str) -> subprocess.CompletedProcess[str]:
    """Call a function of the scripts."""
    call = f'set -euo pipefail; source {SCRIPTS / "common.sh"}; "$@"'
    environment = {
        **os.environ,
        "EBS_AGENT_DESTDIR": str(release),
        "EBS_AGENT_ROOT": str(scratch.root),
        "EBS_AGENT_HEALTH_S": "1",
    }
    return subprocess.run(
        ["bash", "-c", call, "ask", *words], env=environment, capture_output=True, text=True, check=False
    )


def test_only_what_the_policy_has_let_go_is_not_waited_for(
    scratch: Scratch, agent: AgentProcess, release: Path
) -> None:
    """The agent that begins with another policy says what of that it still has to have."""
    first, second = entry(scratch), entry(scratch, name="other", volume=OTHER)
    scratch.write_policy(first, second, cloud={"enabled": False})
    for volume in (VOLUME, OTHER):
        scratch.add_volume(volume)
    agent.start()
    for volume in (VOLUME, OTHER):
        agent.wait_condition(volume, "Ready")
    usable = ask(release, scratch, "usable_volumes").stdout.strip()
    for what, (change, wanted, is_healthy) in CHANGES.items():
        agent.stop()
        entries = [first] if change is None else [first, {**second, **change}]
        scratch.write_policy(*entries, cloud={"enabled": False})
        agent.start()
        assert ask(release, scratch, "still_wanted", usable).stdout.split() == wanted.split(), what
        judged = ask(release, scratch, "is_healthy", "1.0", usable)
        assert (judged.returncode == 0) is is_healthy, f"{what}: {judged.stderr}"
        assert is_healthy or "volumes that were usable before are not: ckpt other" in judged.stderr
