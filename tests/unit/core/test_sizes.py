from __future__ import annotations

import pytest

from agent.core.sizes import show_size


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (500 << 30, "500 GiB"),
        (64 << 40, "64 TiB"),
    ],
)
def test_size_reads_like_the_policy(size_bytes: int, text: str) -> None:
    """Sizes are shown with the binary units the policy is written in."""
    assert show_size(size_bytes) == text
