from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import RefusedError
from agent.core.model import Reason
from agent.node.filesystem.directories import check_beneath, split_path

ROOTS = ("/data", "/mnt/")


@pytest.mark.parametrize("path", ["/data/a", "/data/a/b", "/mnt/x", "/data/..a", "/data/a b"])
def test_path_beneath_a_root_is_allowed(path: str) -> None:
    """Beneath means at least one component further."""
    check_beneath(path, ROOTS)


@pytest.mark.parametrize(
    "path",
    [
        "/data",
        "/data/",
        "/mnt",
        "/",
        "",
        "data/a",
        "/database/a",
        "/data/../etc",
        "/data/./a",
        "/data//a",
        "//data/a",
        "/etc/data/a",
        "/data/a\0b",
    ],
)
def test_path_elsewhere_is_refused(path: str) -> None:
    """A root itself, a neighbour with the same beginning, and every unplain way of writing are refused."""
    with pytest.raises(RefusedError) as caught:
        check_beneath(path, ROOTS)
    assert caught.value.reason is Reason.PATH_NOT_ALLOWED


def test_without_roots_nothing_is_allowed() -> None:
    """No allowed root allows no path."""
    with pytest.raises(RefusedError):
        check_beneath("/data/a", ())


@given(st.text(alphabet="/.ab\0", max_size=12))
def test_what_splits_joins_to_itself(path: str) -> None:
    """A path that is taken means exactly the components it is made of."""
    try:
        components = split_path(path)
    except RefusedError:
        return
    assert "/" + "/".join(components) == (path.rstrip("/") or "/")
    assert not {"", ".", ".."} & set(components)
