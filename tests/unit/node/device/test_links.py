from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import RefusedError
from agent.node.device import links
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


def test_everybody_may_look_into_what_was_made(tmp_path: Path) -> None:
    """Links are for all users of the node, whatever umask the agent's unit has."""
    before = os.umask(0o077)
    try:
        set_link(tmp_path / "dev/ebs", BY_ID, "/dev/nvme1n1")
    finally:
        os.umask(before)
    for place in ("dev", "dev/ebs", "dev/ebs/by-id"):
        assert (tmp_path / place).stat().st_mode & 0o777 == 0o755


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


def age(directory: Path) -> None:
    """Have a directory and its by-id look as if nothing had changed there for a minute."""
    for place in (directory, directory / "by-id"):
        if place.exists():
            then_ns = place.stat().st_mtime_ns - 60 * 10**9
            os.utime(place, ns=(then_ns, then_ns))


def write_over(link: Path) -> None:
    """Put a file in a link's place."""
    link.unlink()
    link.touch()


CHANGES: dict[str, Callable[[Path], object]] = {
    "made": lambda directory: set_link(directory, "new", "/dev/nvme1n1"),
    "made by-id": lambda directory: set_link(directory, BY_ID, "/dev/nvme1n1"),
    "led elsewhere": lambda directory: set_link(directory, "rawdb", "/dev/nvme2n1"),
    "removed": lambda directory: remove_links(directory, ()),
    "all gone": shutil.rmtree,
    "no link any more": lambda directory: write_over(directory / "rawdb"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("is_old", [True, False])
def test_links_are_found_as_they_are_now(tmp_path: Path, what: str, is_old: bool) -> None:  # noqa: FBT001 -- a table
    """Whatever is done to the links, by anybody, those found are those there are."""
    directory = tmp_path / "ebs"
    set_link(directory, "rawdb", "/dev/nvme1n1")
    for change in (CHANGES[what], CHANGES["made by-id"], CHANGES["removed"]):
        if is_old:
            age(directory)
        for device in ("/dev/nvme1n1", "/dev/nvme2n1"):
            there = {name for name, target in list_links(directory).items() if target == device}
            assert find_links_to(directory, device) == there
        change(directory)
        for device in ("/dev/nvme1n1", "/dev/nvme2n1"):
            there = {name for name, target in list_links(directory).items() if target == device}
            assert find_links_to(directory, device) == there


def test_links_are_not_read_again_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links of a directory that has not changed are read once for all looks."""
    set_link(tmp_path, BY_ID, "/dev/nvme1n1")
    age(tmp_path)
    assert find_links_to(tmp_path, "/dev/nvme1n1") == {BY_ID}
    monkeypatch.setattr(links, "list_links", lambda _: pytest.fail("they were read again"))
    assert find_links_to(tmp_path, "/dev/nvme1n1") == {BY_ID}
    assert find_links_to(tmp_path, "/dev/nvme2n1") == frozenset()
