"""docs/safety.md and docs/security.md claim nothing that no test holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("document", "least"), [("safety.md", 60), ("security.md", 40)])
def test_every_test_named_exists(document: str, least: int) -> None:
    """Each test that the document names is defined somewhere below tests/, and there are many."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / document).read_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(named) > least
    assert named - defined == set()
