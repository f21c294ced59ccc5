"""Names of any length and script, as tags."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.controller.name_tags import write_name

names = st.text(max_size=600)


@given(names)
def test_any_name_fits_and_is_written_to_itself(name: str) -> None:
    written = write_name(name)
    assert 0 < len(written) <= 256
    assert written.isprintable()
    assert write_name(written) == written


@given(names, names)
def test_names_that_differ_stay_so(one: str, other: str) -> None:
    assert (write_name(one) == write_name(other)) is (one == other)


def test_names_of_kubernetes_are_tags_as_they_are() -> None:
    """AWS's driver finds what was made so, and the agent what that has made."""
    for name in ("pvc-0b5c1a52-7f2e-4f0e-9d0e-3f6b1f1c2d3e", "snapshot-1", "größe"):
        assert write_name(name) == name
