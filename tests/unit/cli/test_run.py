"""How the daemon's own command is told from all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.run import read_plain_run


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("run", {}),
        ("--root /x run", {"--root": "/x"}),
        ("--root run run", {"--root": "run"}),
        ("run --devices /v --policy p", {"--devices": "/v", "--policy": "p"}),
        ("--root /x run --devices /v", {"--root": "/x", "--devices": "/v"}),
    ],
)
def test_the_daemon_s_command_is_read_without_a_parser(words: str, options: dict[str, str]) -> None:
    """What the unit, the demo and tests start the daemon with needs nothing of the command line's library."""
    assert read_plain_run(words.split()) == {name: Path(value) for name, value in options.items()}


@pytest.mark.parametrize(
    "words",
    [
        "",
        "status",
        "--version",
        "--root",
        "--root /x",
        "--root /x status",
        "--debug run",
        "run --help",
        "run run",
        "run --devices",
        "run --devices --policy p",
        "run --devices=/v",
        "run --root /x",
        "run extra",
        "--devices /v run",
    ],
)
def test_all_else_is_the_parser_s(words: str) -> None:
    """Other commands, help and every mistake are read, and answered, by the command line."""
    assert read_plain_run(words.split()) is None
