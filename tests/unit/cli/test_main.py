"""The program as a shell sees it: what it prints where, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent.__main__ import print_error
from agent.core.errors import AgentError


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120", **environment},
        timeout=60,
    )


def test_version_is_the_package_s() -> None:
    """``--version`` prints the version and nothing else."""
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"{agent.__version__}\n")


@pytest.mark.parametrize(
    "command", [["status"], ["status", "--json"], ["plan"], ["explain", "x"], ["events"]]
)
def test_no_agent_is_exit_code_4_in_two_sentences(command: list[str], tmp_path: Path) -> None:
    """Without an agent: exit code 4, what and what to do on standard error, no traceback, no output."""
    done = run("--socket", str(tmp_path / "none.sock"), *command)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines() == [
        f"ebs-agent: No agent answers at {tmp_path / 'none.sock'}.",
        "Start it with: systemctl start ebs-agent. Why it stopped: journalctl -u ebs-agent.",
    ]


@pytest.mark.parametrize("command", [["wait"], ["csi", "migrate", "--all"]])
def test_time_that_is_no_number_is_wrong_usage(command: list[str]) -> None:
    """Nothing is later than it, so it would never be up."""
    done = run(*command, "--timeout", "nan")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nan is not a number of seconds" in done.stderr


def test_others_words_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What a broker, AWS or a cluster said in an error is printed without what a terminal obeys."""
    print_error(AgentError("It said \x1b]0;title\x07.", hint="See\n  \x1b[2Jthat."))
    assert capsys.readouterr().err == "ebs-agent: It said ?]0;title?.\nSee\n  ?[2Jthat.\n"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """``--debug`` is for those who want to know where it happened."""
    done = run("--debug", "--socket", str(tmp_path / "none.sock"), "status")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "command", [["no-such-command"], ["explain"], ["wait", "--timeout", "soon"], ["--no"]]
)
def test_wrong_usage_is_exit_code_2(command: list[str]) -> None:
    """What cannot be understood is exit code 2."""
    assert run(*command).returncode == 2


def test_root_moves_the_socket(tmp_path: Path) -> None:
    """``--root`` and its variable move every path of the agent."""
    expected = f"No agent answers at {tmp_path}/run/ebs-agent/agent.sock."
    assert expected in run("--root", str(tmp_path), "status").stderr
    assert expected in run("status", EBS_AGENT_ROOT=str(tmp_path)).stderr


def test_unreadable_policy_is_wrong_usage(tmp_path: Path) -> None:
    """``check`` of a file that is not there is exit code 2 and names the file."""
    done = run("check", str(tmp_path / "policy.yaml"))
    assert done.returncode == 2
    assert str(tmp_path / "policy.yaml") in done.stderr


def test_check_lists_every_problem_like_a_compiler(tmp_path: Path) -> None:
    """``check`` prints all problems at once, each with file, line and column, and exits 2."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nvolumes:\n  - name: a\n    match: {volume_id: vol-x}\n    color: red\n")
    done = run("check", str(policy))
    assert done.returncode == 2
    assert f"{policy}:4:24: volumes[0].match.volume_id: " in done.stdout
    assert f"{policy}:5:" in done.stdout
    problems = json.loads(run("check", "--json", str(policy)).stdout)["problems"]
    assert {4, 5} <= {problem["line"] for problem in problems}
    assert json.loads(run("check", "--json", str(policy)).stdout)["required"] is None


def test_check_says_that_all_is_well(tmp_path: Path) -> None:
    """A policy without problems is exit code 0 and one line."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\n")
    done = run("check", str(policy))
    assert (done.returncode, done.stdout) == (0, f"{policy}: no problems\n")


@pytest.mark.parametrize(
    ("required", "names"),
    [("true", ["a"]), ("TRUE", ["a"]), ("&r True", ["a"]), ("false", []), ("false # required: true", [])],
)
def test_check_names_what_is_required(tmp_path: Path, required: str, names: list[str]) -> None:
    """``check --json`` tells scripts which volumes a policy requires, however it is written."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nvolumes:\n  - name: a\n    match: {volume_id: vol-0123456789abcdef0}\n    block: {}\n"
        f"    'required': {required}\n"
    )
    done = run("check", "--json", str(policy))
    assert (done.returncode, json.loads(done.stdout)["required"]) == (0, names)
    assert f'"required": {"[]" if not names else "["}' in done.stdout, "as on_create.sh looks for it"


def test_schema_is_json_schema() -> None:
    """``schema`` prints a JSON Schema that knows the policy's sections."""
    schema = json.loads(run("schema").stdout)
    assert {"agent", "classes", "volumes", "version"} <= set(schema["properties"])


def test_commands_start_without_what_they_do_not_need() -> None:
    """Asking the agent imports none of the daemon's libraries: prologs and completion run it often."""
    heavy = (
        "h11",
        "pydantic",
        "prometheus_client",
        "boto3",
        "yaml",
        "structlog",
        "anyio",
        "pyudev",
        "agent.core.model",
    )
    code = f"import sys, agent.cli.app; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_agent_that_cannot_start_says_why_in_a_sentence(tmp_path: Path) -> None:
    """What ends the daemon's tasks reaches the user as its own sentence, not as a group of exceptions."""
    root = tmp_path / ("x" * 90)
    policy = root / "etc/ebs-agent/policy.yaml"
    policy.parent.mkdir(parents=True)
    policy.write_text("version: 1\n")
    (tmp_path / "volumes").mkdir()
    done = run("--root", str(root), "run", "--devices", str(tmp_path / "volumes"))
    assert done.returncode == 2
    assert "cannot be made: its path has more than 107 bytes" in done.stderr
    assert "Traceback" not in done.stderr
