"""Every exit code and every ``--json`` of the interface, from the program as a shell runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.loop.test_daemon import OTHER, VOLUME, entry

SOON = ("--timeout", "0.2")

EXIT_CODES = {
    ("status",): 0,
    ("status", "ckpt"): 0,
    ("plan",): 0,
    ("explain", VOLUME): 0,
    ("events",): 0,
    ("reconcile", "ckpt"): 0,
    ("reload",): 0,
    ("wait", "ckpt"): 0,
    ("expand", "ckpt", "1GiB"): 1,  # with no AWS to ask
    ("status", "nobody"): 2,
    ("explain", "nobody"): 2,
    ("wait", "nobody"): 2,
    ("wait", "absent", *SOON): 3,
    ("wait", *SOON): 3,  # for every required volume
    ("--socket", "/nowhere/agent.sock", "wait", "ckpt", *SOON): 4,
    ("--socket", "/nowhere/agent.sock", "status"): 4,
    ("forget", "ckpt"): 5,  # since it is mounted
}
JSON_KEYS = {
    ("status", "--json"): "volumes",
    ("plan", "--json"): "volumes",
    ("explain", VOLUME, "--json"): "volume_id",
    ("events", "--json"): "event",
    ("reconcile", "ckpt", "--json"): "woken",
    ("reload", "--json"): "reloaded",
    ("wait", "ckpt", "--json"): "ready",
    ("schema", "--json"): "properties",
    ("iam-policy", "--json"): "Statement",
}


@pytest.fixture
def settled(scratch: Scratch, agent: AgentProcess) -> Scratch:
    """Give the directories of an agent with one volume that is Ready and a required one that is not here."""
    absent = entry(scratch, volume=OTHER, name="absent", required=True)
    scratch.write_policy(entry(scratch), absent, cloud={"enabled": False})
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    return scratch


def order(scratch: Scratch, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "agent", "--root", str(scratch.root), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)


def test_exit_codes_are_those_of_the_interface(settled: Scratch) -> None:
    """Each command ends with the code that docs/commands.md gives, and an error is a sentence and a hint."""
    done = {words: order(settled, *words) for words in EXIT_CODES}
    assert {words: each.returncode for words, each in done.items()} == EXIT_CODES
    for words, each in done.items():
        assert "Traceback" not in each.stderr, words
        assert bool(each.stderr) == (each.returncode != 0), f"{words}: {each.stderr}"


def test_required_volume_that_is_here_and_is_not_as_its_entry_asks_is_not_ready(
    scratch: Scratch, agent: AgentProcess
) -> None:
    """A boot goes on without the volume only where nothing required of it is missing: so the wait fails."""
    tagged = {"volume_id": OTHER, "tags": {"team": "vision"}}
    scratch.write_policy(
        entry(scratch), entry(scratch, name="tagged", match=tagged, required=True), cloud={"enabled": False}
    )
    for volume in (VOLUME, OTHER):
        scratch.add_volume(volume)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    agent.wait_condition(OTHER, "Unmanaged")
    done = order(scratch, "wait", "--json", *SOON)
    assert done.returncode == 3, done.stderr
    (waiting,) = json.loads(done.stdout)["waiting"]
    assert (waiting["name"], waiting["condition"], waiting["reason"]) == ("tagged", "Pending", "NotInPolicy")
    explained = order(scratch, "explain", OTHER).stdout
    assert "tagged does not match: it wants the tag team=vision and its tags are not known" in explained


def test_json_is_json(settled: Scratch) -> None:
    """What ``--json`` prints is JSON with the names of the control socket's API, one object or one a line."""
    for words, key in JSON_KEYS.items():
        done = order(settled, *words)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines() if words[0] == "events" else [done.stdout]
        answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
        assert all(key in answer for answer in answers), f"{words}: {answers}"
