"""What was probably meant by a word that nothing is called."""

from __future__ import annotations

import pytest

from agent.core.suggestions import find_meant, hint_at_known, suggest_word

VOLUMES = ("checkpoints", "datasets", "vol-0123456789abcdef0")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("chekpoints", "checkpoints"),
        ("DATASET", "datasets"),
        ("vol-0123456789abcdef1", "vol-0123456789abcdef0"),
        ("vol-0123456789abcde0", "vol-0123456789abcdef0"),
        ("vol-0fedcba9876543210", None),  # IDs are all alike by half: another volume is not meant
        ("scratch", None),
        ("", None),
        ("d" * 10_000, None),
        ("\udcff\x00", None),
    ],
)
def test_what_is_meant(word: str, meant: str | None) -> None:
    """A slip of the hand is seen through; another name is not taken for one."""
    assert find_meant(word, VOLUMES) == meant


def test_hint_names_those_there_are() -> None:
    """What was meant comes first, then what there is, in its order, and how much more of it."""
    assert hint_at_known("dataset", VOLUMES[:2], "There are") == (
        "Did you mean datasets? There are checkpoints, datasets."
    )
    assert hint_at_known("x", [], "There are") == "There are none."
    assert hint_at_known("/mnt/dat", ["a"], "There are", also=["/mnt/data"]) == (
        "Did you mean /mnt/data? There are a."
    )
    assert hint_at_known("x", map(str, range(100)), "Known are").endswith("15 and 84 more.")


def test_few_words_are_all_said() -> None:
    """Where no word is like it, all are said, unless they are many."""
    assert suggest_word("colour", ["size"]) == "Write size."
    assert suggest_word("colour", ["size", "type"]) == "Known are size, type."
    assert suggest_word("colour", list(map(str, range(100)))) is None
    assert suggest_word("szie", ["size", "type"]) == "Did you mean size?"
