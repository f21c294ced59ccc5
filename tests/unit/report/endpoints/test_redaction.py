"""What everybody may see of the board, and what stands for the rest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import Process
from agent.report.endpoints.redaction import WITHHELD, redact

ROLE = "arn:aws:sts::123456789012:assumed-role/sagemaker-node/i-0123456789abcdef0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"AWS does not permit it to {ROLE}.", f"AWS does not permit it to {WITHHELD}."),
        ("key (arn:aws-cn:kms:cn-north-1:123456789012:key/x)", f"key ({WITHHELD})"),
        ("It belongs to account 123456789012.", f"It belongs to account {WITHHELD}."),
        ("grow ext4 to 536870912000 bytes", "grow ext4 to 536870912000 bytes"),
        ("vol-0123456789abcdef0 of snap-012345678901", "vol-0123456789abcdef0 of snap-012345678901"),
        ("In use by python3 (pid 77, bob), db (pid 9, al).", f"In use by {WITHHELD}, {WITHHELD}."),
        ("In use by python3 (pid 4711).", f"In use by {WITHHELD}."),
        ("mount at /data/ckpt (rw, noatime)", "mount at /data/ckpt (rw, noatime)"),
    ],
)  # fmt: skip
def test_names_are_withheld_and_the_sentence_stays(text: str, shown: str) -> None:
    """Roles, accounts, keys, and processes with their users are nobody else's business; the rest is told."""
    assert redact({"volumes": [{"message": text, "size_bytes": 123456789012}]}) == {
        "volumes": [{"message": shown, "size_bytes": 123456789012}]
    }


def test_a_hook_s_words_are_its_owner_s() -> None:
    """That a hook failed is told, and what it said is not; an event's other fields are as they were."""
    failed = {
        "event": "hook.failed",
        "hook": "10-tell",
        "told": "ready",
        "error": "x: token=abc",
        "hint": None,
    }
    assert redact(failed) == {**failed, "error": WITHHELD}
    reloaded = {"event": "policy.rejected", "error": "line 3"}
    assert redact(reloaded) == reloaded


@given(name=st.text(), user=st.from_regex(r"[a-z_][a-z0-9_-]*", fullmatch=True))
def test_no_name_of_a_process_hides_it(name: str, user: str) -> None:
    """Whatever a process calls itself, nothing of it and its user is left."""
    described = Process(77, name, user).describe()
    assert redact(f"In use by {described}, {described}.") == f"In use by {WITHHELD}, {WITHHELD}."


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_not_private_is_as_it_was(content: object) -> None:
    """Shape, keys and numbers stay, and to withhold twice is to withhold once."""
    shown = redact(content)
    assert redact(shown) == shown
    if isinstance(content, dict):
        assert isinstance(shown, dict)
        assert shown.keys() == content.keys()
    json.dumps(shown)


@pytest.mark.parametrize(
    "piece", ["x", "x(", " (pid 1", " (pid 1, x", "arn:aws:", "123456789012.", "arn:aws:x.", "a (pid 1)"]
)
def test_long_text_takes_no_longer_than_its_length(piece: str) -> None:
    """Text that others chose, of megabytes, is looked through in passing: the event loop does it."""
    shown = redact(piece * ((1 << 22) // len(piece)))
    assert redact(shown) == shown
