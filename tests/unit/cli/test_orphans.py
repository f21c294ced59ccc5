"""``orphans`` deletes only by order: what was named, or all that may be once somebody said yes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.cli.client import Client
from agent.core.errors import AgentError

FREE, KEPT = "vol-0123456789abcdef0", "vol-0fedcba9876543210"
ORPHAN = {
    "volume_id": FREE,
    "claim": "ckpt",
    "size_bytes": 5 << 30,
    "type": "gp3",
    "zone": "us-west-2a",
    "created_at": "2026-11-01T12:00:00+00:00",
    "held_since": "2026-11-02T12:00:00Z",
    "last_holder": "hyperpod-i-0123456789abcdef0",
    "may_be_deleted": True,
    "obstacle": None,
}


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Return the orders the agent was given."""
    orders: list[tuple[str, str | None]] = []

    def order(_client: Client, name: str, words: dict[str, Any]) -> Iterator[dict[str, Any]]:
        orders.append((name, words.get("volume")))
        kept = {**ORPHAN, "volume_id": KEPT, "may_be_deleted": False, "obstacle": "it is in use"}
        yield {"done": True, "orphans": [ORPHAN, kept], "volume_id": words.get("volume")}

    monkeypatch.setattr(Client, "order", order)
    return orders


@pytest.mark.parametrize(
    ("arguments", "answer", "deleted"),
    [
        ([], "", []),
        (["--delete", KEPT], "", [KEPT]),
        (["--delete", "--all"], "y\n", [FREE]),
        (["--delete", "--all"], "n\n", []),
        (["--delete", "--all"], "", []),
        (["--delete", "--all", "--yes"], "", [FREE]),
        (["--delete"], "", []),
        (["--all"], "", []),
        ([FREE], "", []),
        (["--delete", "--all", FREE], "", []),
    ],
)
def test_nothing_goes_but_by_order(
    ordered: list[tuple[str, str | None]], arguments: list[str], answer: str, deleted: list[str]
) -> None:
    """Listing deletes nothing, nor does an order that is not whole, or one that is not confirmed."""
    CliRunner().invoke(app, ["orphans", *arguments], input=answer)
    assert [volume for name, volume in ordered if name == "delete-orphan"] == deleted


def test_json_tells_what_was_deleted_where_another_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone is gone, whatever becomes of the next; and nothing to delete is an answer as well."""

    def order(_client: Client, _name: str, words: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if words.get("volume") == KEPT:
            raise AgentError("It is in use.")
        yield {"done": True, "orphans": [], "volume_id": words.get("volume")}

    monkeypatch.setattr(Client, "order", order)
    told = CliRunner().invoke(app, ["orphans", "--delete", FREE, KEPT, "--json"])
    assert isinstance(told.exception, AgentError)
    assert json.loads(told.stdout) == {"deleted": [FREE]}
    told = CliRunner().invoke(app, ["orphans", "--delete", KEPT, "--json"])
    assert isinstance(told.exception, AgentError)
    assert told.stdout == ""
    told = CliRunner().invoke(app, ["orphans", "--delete", "--all", "--yes", "--json"])
    assert (told.exit_code, json.loads(told.stdout)) == (0, {"deleted": []})


def test_many_are_counted(ordered: list[tuple[str, str | None]]) -> None:
    """Of several volumes it is told how far the deleting is; with JSON on standard error."""
    told = CliRunner().invoke(app, ["orphans", "--delete", FREE, KEPT])
    assert "1 of 2 volumes are deleted." in told.stdout
    assert "2 of 2 volumes are deleted." in told.stdout
    told = CliRunner().invoke(app, ["orphans", "--delete", FREE, KEPT, "--json"])
    assert json.loads(told.stdout) == {"deleted": [FREE, KEPT]}
    assert "2 of 2 volumes are deleted." in told.stderr
    assert len(ordered) == 4
