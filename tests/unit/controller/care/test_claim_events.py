from __future__ import annotations

import pytest

from agent.controller.care.claim_events import find_cause


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "rpc error: code = PermissionDenied desc = The role lacks it. Add it.",
            "The role lacks it. Add it.",
        ),
        ("failed: rpc error: code = ResourceExhausted desc = No place.", "No place."),
        ("rpc error: code = FailedPrecondition desc = The key\ncannot be used.", "The key\ncannot be used."),
        ("rpc error: code = Unavailable desc = connection refused", None),
        ("rpc error: code = DeadlineExceeded desc = context deadline exceeded", None),
        ("rpc error: code = Aborted desc = under way", None),
        ("timed out waiting for the condition", None),
        ("", None),
    ],
)
def test_only_what_somebody_has_to_do_is_told(message: str, expected: str | None) -> None:
    """What passes by itself is no news for a claim, nor what no driver answered."""
    assert find_cause(message) == expected
