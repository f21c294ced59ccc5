"""docs/examples.md is what the commands print: on files for volumes, and with an emulated AWS."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.__main__ import main
from tests.agent_process import AgentProcess, Scratch
from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer
from tests.loop.cluster_node import ClusterNode
from tests.loop.pages.fences import Block, find_difference, read_blocks
from tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs/examples.md"
VOLUMES = ("vol-0123456789abcdef0", "vol-0123456789abcdef1")
_NUMBERED = re.compile(r"\b(vol|snap)-0123456789abcdef([0-8])\b")
TYPO = "version: 1\nvolumse: []\nagent:\n  resync: soon\n"


def read_part(number: int) -> tuple[dict[str, Any], list[Block]]:
    """Return the policy of one of the page's nodes, and the commands that follow it."""
    blocks = read_blocks(PAGE.read_text())
    begins = [place for place, block in enumerate(blocks) if block.language == "yaml"] + [len(blocks)]
    part = blocks[begins[number] : begins[number + 1]]
    return yaml.safe_load(part[0].text), [block for block in part if block.is_command]


def write_policy(scratch: Scratch, policy: dict[str, Any]) -> None:
    """Have the node go by the page's policy, in its own directory."""
    said = yaml.safe_load(json.dumps(policy).replace("/data", str(scratch.data)))
    scratch.write_policy(*said["volumes"], classes=said.get("classes"), **said["agent"])


def surround(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give commands the surroundings that they have on the page."""
    for name in [name for name in os.environ if name.startswith("EBS_AGENT_")]:
        monkeypatch.delenv(name)
    for name, value in {"EBS_AGENT_ROOT": str(scratch.root), "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(scratch.base)


@pytest.fixture
def node(scratch: Scratch, agent: AgentProcess, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """Give a node with the page's policy and volumes, and the commands' surroundings."""
    write_policy(scratch, read_part(0)[0])
    for volume in (*VOLUMES, "vol-0123456789abcdef3"):
        scratch.add_volume(volume)
    (scratch.base / "typo.yaml").write_text(TYPO)
    agent.start()
    for volume in VOLUMES:
        agent.wait_condition(volume, "Ready")
    wait_until(lambda: agent.status(VOLUMES[0])["filesystem"], "how full it is has been sampled")
    surround(scratch, monkeypatch)
    return scratch


def test_commands_print_what_the_page_shows(
    node: Scratch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block of the first node, in its order: what it prints, errors with it, is what is shown."""
    blocks = read_part(0)[1]
    assert len(blocks) > 40
    compare(blocks, lambda words: run(words, node, monkeypatch, capsys))


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_what_is_asked_of_aws_prints_what_the_page_shows(
    short_path: Path,
    aws: AwsServer,
    files: FileVolumes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """So does every block of the second node, whose AWS is emulated."""
    policy, blocks = read_part(1)
    assert len(blocks) > 20
    aws.cloud.pace.modify_s = 1.0
    node = ClusterNode(short_path / "node", aws, files, "i-00000000000000001", "compute-1")

    def name_things(text: str) -> str:
        """Return a command with the IDs that there are: the page numbers them in the order they are made."""
        made = {"vol": [*aws.cloud.made], "snap": [*aws.cloud.ec2.snapshots]}
        return _NUMBERED.sub(lambda found: made[found[1]][int(found[2])], text)

    try:
        write_policy(node.scratch, policy)
        surround(node.scratch, monkeypatch)
        node.start(monkeypatch)
        node.wait_ready("checkpoints")
        client = node.agent.client
        wait_until(lambda: node.agent.status("checkpoints")["filesystem"], "how full it is has been sampled")
        wait_until(lambda: (client.status()["attachments"] or {}).get("used") == 1, "AWS counts it")
        wait_until(lambda: client.plan()["cloud"] == [], "nothing is left to do")
        compare(blocks, lambda text: run(name_things(text), node.scratch, monkeypatch, capsys))
    finally:
        node.end()


def compare(blocks: list[Block], run_command: Callable[[str], str]) -> None:
    """Run commands in their order, and fail with all that print something else than the page shows."""
    wrong: list[str] = []
    for block in blocks:
        printed = run_command(block.text)
        difference = find_difference(block.expected, printed)
        if difference is not None:
            wrong.append(f"line {block.line}: {block.text}{difference}\n")
    assert not wrong, "\n".join(wrong)


def run(text: str, node: Scratch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command prints, the node's own directory as the page calls it."""
    words = shlex.split(text.replace("/data", str(node.data)))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        main()
    captured = capsys.readouterr()
    printed = (captured.out + captured.err).replace(str(node.data), "/data")
    return re.sub(rf"{re.escape(str(node.base))}(?:/root)?", "", printed)
