from __future__ import annotations

from pathlib import Path

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_dry_run_runs_nothing() -> None:
    """``make -n`` runs lines that name MAKE, and under .ONESHELL a recipe is one line."""
    text = MAKEFILE.read_text("utf-8")
    assert "\n.ONESHELL:" in text
    recipes = [line for line in text.splitlines() if line.startswith("\t")]
    assert recipes
    assert not [line for line in recipes if "$(MAKE)" in line or "${MAKE}" in line]
