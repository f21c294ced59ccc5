"""``orphans`` deletes only by order: what was named, or all that may be once somebody said yes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.cli.client import Client

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
