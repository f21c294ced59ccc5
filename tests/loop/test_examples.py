"""docs/examples.md is what the commands print, on files that stand in for volumes."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from agent.__main__ import main
from tests.agent_process import AgentProcess, Scratch
from tests.loop.pages.fences import Block, find_difference, read_blocks
from tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs/examples.md"
VOLUMES = ("vol-0123456789abcdef0", "vol-0123456789abcdef1")
TYPO = "version: 1\nvolumse: []\nagent:\n  resync: soon\n"


@pytest.fixture
def node(scratch: Scratch, agent: AgentProcess, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """Give a node with the page's policy and volumes, and the commands' surroundings."""
    [text] = [block.text for block in read_blocks(PAGE.read_text()) if block.language == "yaml"]
    policy = yaml.safe_load(text.replace("/data", str(scratch.data)))
    scratch.write_policy(*policy["volumes"], **policy["agent"])
    for volume in (*VOLUMES, "vol-0123456789abcdef3"):
        scratch.add_volume(volume)
    (scratch.base / "typo.yaml").write_text(TYPO)
    agent.start()
    for volume in VOLUMES:
        agent.wait_condition(volume, "Ready")
    wait_until(lambda: agent.status(VOLUMES[0])["filesystem"], "how full it is has been sampled")
    for name in [name for name in os.environ if name.startswith("EBS_AGENT")]:
        monkeypatch.delenv(name)
    for name, value in {"EBS_AGENT_ROOT": str(scratch.root), "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(scratch.base)
    return scratch


def test_commands_print_what_the_page_shows(
    node: Scratch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block of the page, in its order: what it prints, errors with it, is what is shown."""
    blocks = [block for block in read_blocks(PAGE.read_text()) if block.is_command]
    assert len(blocks) > 40
    wrong: list[str] = []
    for block in blocks:
        printed = run(block, node, monkeypatch, capsys)
        difference = find_difference(block.expected, printed)
        if difference is not None:
            wrong.append(f"line {block.line}: {block.text}{difference}\n")
    assert not wrong, "\n".join(wrong)


def run(
    block: Block, node: Scratch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Return what the command prints, the node's own directory as the page calls it."""
    words = shlex.split(block.text.replace("/data", str(node.data)))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        main()
    captured = capsys.readouterr()
    printed = (captured.out + captured.err).replace(str(node.data), "/data")
    return re.sub(rf"{re.escape(str(node.base))}(?:/root)?", "", printed)
