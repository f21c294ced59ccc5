from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import RefusedError
from agent.node.device.links import find_links_to, list_links, remove_links, set_link

BY_ID = "by-id/vol-0123456789abcdef0"


def test_link_is_made_and_moved(tmp_path: Path) -> None:
    """A link leads to the device named last, and nothing else is left of the change."""
    directory = tmp_path / "dev/ebs"
    set_link(directory, BY_ID, "/dev/nvme1n1")
    set_link(directory, BY_ID, "/dev/nvme2n1")
    set_link(directory, "rawdb", "/dev/nvme2n1")
    assert list_links(directory) == {BY_ID: "/dev/nvme2n1", "rawdb": "/dev/nvme2n1"}
    assert find_links_to(directory, "/dev/nvme2n1") == {BY_ID, "rawdb"}
    assert find_links_to(directory, "/dev/nvme1n1") == frozenset()


def test_no_directory_is_no_links(tmp_path: Path) -> None:
    """Before the first link there are none."""
    assert list_links(tmp_path / "none") == {}
    assert remove_links(tmp_path / "none", ()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "by-id", "../x", "/etc/x", "a/b", "by-id/../x", "by-id/", ".new-x", "a\n", "a\0"]
)
def test_link_name_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    """A name is one plain component, by itself or below by-id."""
    with pytest.raises(RefusedError):
        set_link(tmp_path / "ebs", name, "/dev/nvme1n1")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", [BY_ID, "rawdb"])
def test_what_is_no_link_is_left_alone(tmp_path: Path, name: str) -> None:
    """A file or directory in a link's place is refused, kept, and never removed with old links."""
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("precious")
    with pytest.raises(RefusedError):
        set_link(tmp_path, name, "/dev/nvme1n1")
    assert remove_links(tmp_path, ()) == []
    assert place.read_text() == "precious"


def test_only_dead_links_are_removed(tmp_path: Path) -> None:
    """Links that are still to be there stay, whatever they lead to."""
    set_link(tmp_path, BY_ID, "/dev/nvme1n1")
    set_link(tmp_path, "rawdb", "/dev/nvme1n1")
    set_link(tmp_path, "old", "/dev/nvme9n1")
    assert remove_links(tmp_path, {BY_ID, "rawdb"}) == ["old"]
    assert set(list_links(tmp_path)) == {BY_ID, "rawdb"}


def test_killed_linker_leaves_no_hindrance(tmp_path: Path) -> None:
    """A half-made link is not listed, and the next attempt passes over it."""
    (tmp_path / ".new-rawdb").symlink_to("/dev/nvme1n1")
    assert list_links(tmp_path) == {}
    set_link(tmp_path, "rawdb", "/dev/nvme2n1")
    assert list_links(tmp_path) == {"rawdb": "/dev/nvme2n1"}
