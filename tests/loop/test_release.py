"""``release --all`` on a real node: mounts and raw volumes let go, over restarts, and given back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.node.kernel.mountinfo import read_mounts
from tests.agent_process import AgentProcess, Scratch
from tests.waiting import wait_until

DATA, BUSY, RAW = "vol-0123456789abcde01", "vol-0123456789abcde02", "vol-0123456789abcde03"


def write_policy(scratch: Scratch, cloud: dict[str, Any] | None = None, **data: Any) -> None:
    def mounted(name: str, volume: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "match": {"volume_id": volume},
            "filesystem": {"type": "ext4", "format": "if-blank"},
            "mount": {"path": str(scratch.data / name)},
            **more,
        }

    raw = {"name": "rawdb", "match": {"volume_id": RAW}, "block": {}}
    entries = mounted("data", DATA, **data), mounted("busy", BUSY), raw
    scratch.write_policy(*entries, cloud=cloud or {"enabled": False}, resync="1s")


def start(scratch: Scratch, agent: AgentProcess) -> None:
    for volume in (DATA, BUSY, RAW):
        scratch.add_volume(volume)
    agent.start()
    for volume in (DATA, BUSY, RAW):
        agent.wait_condition(volume, "Ready")


def run(scratch: Scratch, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "agent", "--root", str(scratch.root), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)


def list_mounted(scratch: Scratch) -> list[str]:
    return sorted(Path(mount.path).name for mount in read_mounts() if Path(mount.path).parent == scratch.data)


def test_everything_is_released_until_it_is_given_back(scratch: Scratch, agent: AgentProcess) -> None:
    """Unmounted, flushed, and left so over a crash; a required one leaves the node not ready meanwhile."""
    write_policy(scratch, required=True)
    start(scratch, agent)
    (scratch.data / "data" / "kept").write_text("kept")
    done = run(scratch, "release", "--all", "--json")
    assert done.returncode == 0, done.stderr
    assert {one["state"] for one in json.loads(done.stdout)["volumes"]} == {"released"}
    assert "Still attached" in done.stderr
    assert list_mounted(scratch) == []
    for restarts in (False, True):
        if restarts:
            agent.kill()
            agent.start()
        for volume in (DATA, BUSY, RAW):
            status = agent.wait_condition(volume, "Pending", "Released")
            assert status["name"] in {"data", "busy", "rawdb"}
        assert list_mounted(scratch) == []
        assert not (scratch.paths.dev_ebs / "rawdb").is_symlink()
        (told,) = list(agent.client.wait([], 0.0))
        assert not told["ready"]
        assert [(one["name"], one["reason"]) for one in told["waiting"]] == [("data", "Released")]
    assert "taken away by hand" in json.dumps(agent.client.plan())
    assert list(agent.client.order("attach", {"volume": "data"}))[-1]["done"]
    agent.wait_condition(DATA, "Ready")
    assert (scratch.data / "data" / "kept").read_text() == "kept"
    assert list_mounted(scratch) == ["data"]
    agent.kill()
    agent.start()
    agent.wait_condition(DATA, "Ready")
    agent.wait_condition(BUSY, "Pending", "Released")
    agent.client.reload()
    for volume in (DATA, BUSY, RAW):
        agent.wait_condition(volume, "Ready")


def test_volume_in_use_is_named_and_stays(scratch: Scratch, agent: AgentProcess) -> None:
    """Code 5 and who it is; it stays mounted and the policy's, over a restart too, and the others go."""
    write_policy(scratch)
    start(scratch, agent)
    with (scratch.data / "busy" / "open").open("w"):
        done = run(scratch, "release", "--all")
        assert done.returncode == 5, done.stderr
        assert f"{BUSY} is in use by" in done.stderr
        assert list_mounted(scratch) == ["busy"]
        agent.wait_condition(BUSY, "Ready")
        agent.kill()
        agent.start()
        agent.wait_condition(BUSY, "Ready")
        agent.wait_condition(DATA, "Pending", "Released")
    assert list(agent.client.release_all())[-1]["done"]
    assert list_mounted(scratch) == []


def test_volume_that_comes_after_a_release_is_left_alone(scratch: Scratch, agent: AgentProcess) -> None:
    """A volume of the policy's that arrives later is not used either, until the policy is read again."""
    write_policy(scratch)
    scratch.add_volume(DATA)
    agent.start()
    agent.wait_condition(DATA, "Ready")
    assert list(agent.client.release_all())[-1]["done"]
    scratch.add_volume(BUSY)
    agent.wait_condition(BUSY, "Pending", "Released")
    assert list_mounted(scratch) == []
    agent.client.reload()
    agent.wait_condition(BUSY, "Ready")


def test_detach_without_aws_lets_go_and_says_what_is_left(scratch: Scratch, agent: AgentProcess) -> None:
    """The node's part of ``detach`` needs no AWS: done, kept over a crash, and what was not done is told."""
    write_policy(scratch)
    start(scratch, agent)
    done = run(scratch, "detach", "data")
    assert done.returncode == 1
    assert f"{DATA} is unmounted and flushed, and stays so; it is still attached" in done.stderr
    assert list_mounted(scratch) == ["busy"]
    agent.kill()
    agent.start()
    agent.wait_condition(DATA, "Pending", "Released")
    assert list_mounted(scratch) == ["busy"]


@pytest.mark.parametrize("has_begun", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_release_cut_off_mounts_nothing_again(
    scratch: Scratch, agent: AgentProcess, *, has_begun: bool
) -> None:
    """Killed once the release is noted: no restart mounts anything, and releasing again completes it."""
    write_policy(scratch)
    start(scratch, agent)
    argv = [sys.executable, "-m", "agent", "--root", str(scratch.root), "release", "--all"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as releasing:
        wait_until((scratch.paths.state / "released.json").exists, "the release was noted")
        if has_begun:
            wait_until(lambda: len(list_mounted(scratch)) < 2 or None, "a volume was let go")
        agent.kill()
        releasing.wait(timeout=60)
    mounted = list_mounted(scratch)
    agent.start()
    for volume in (DATA, BUSY, RAW):
        agent.wait_condition(volume, "Pending", "Released")
    assert list_mounted(scratch) == mounted
    assert list(agent.client.release_all())[-1]["done"]
    assert list_mounted(scratch) == []


def test_stop_that_is_no_power_off_lets_nothing_go(scratch: Scratch, agent: AgentProcess) -> None:
    """Where the policy has volumes leave at a power-off, a stop for any other reason leaves them mounted."""
    write_policy(scratch, cloud={"release_on": ["power-off"]})
    start(scratch, agent)
    before = list_mounted(scratch)
    assert agent.stop() == 0
    assert before == list_mounted(scratch) == ["busy", "data"]
