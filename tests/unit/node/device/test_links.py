from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.core.errors import AgentError, RefusedError, VanishedError
from agent.core.model import DeviceNumber, Tuning
from agent.node.device.links import (
    find_links_to,
    list_links,
    parse_scheduler,
    read_node_owner,
    read_tuning,
    remove_links,
    set_link,
    set_node_owner,
    set_tuning,
)

BY_ID = "by-id/vol-0123456789abcdef0"
NUMBER = DeviceNumber(259, 3)


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


def test_node_of_another_device_is_not_owned(tmp_path: Path) -> None:
    """Ownership is given to the node of the device that was looked at, never to what took its path."""
    impostor = tmp_path / "nvme1n1"
    impostor.write_text("")
    mode = impostor.stat().st_mode
    with pytest.raises(VanishedError):
        set_node_owner(str(impostor), NUMBER, os.geteuid(), None, 0o666)
    with pytest.raises(VanishedError):
        set_node_owner(str(tmp_path / "none"), NUMBER, None, None, 0o666)
    assert impostor.stat().st_mode == mode


def test_node_behind_a_link_is_not_owned(tmp_path: Path) -> None:
    """A link in a node's place is not followed."""
    link = tmp_path / "nvme1n1"
    link.symlink_to("/dev/null")
    with pytest.raises(VanishedError):
        read_node_owner(str(link), DeviceNumber(1, 3))


def make_queue(sysfs: Path, **settings: str) -> Path:
    queue = sysfs / "dev/block" / str(NUMBER) / "queue"
    queue.mkdir(parents=True)
    for name, value in settings.items():
        (queue / name).write_text(value)
    return queue


def test_tuning_is_read_and_set(tmp_path: Path) -> None:
    """Bytes become the KiB of sysfs, and the scheduler is the one in brackets."""
    queue = make_queue(tmp_path, read_ahead_kb="128\n", scheduler="[none] mq-deadline kyber\n")
    assert read_tuning(NUMBER, tmp_path) == Tuning(128 * 1024, "none")
    set_tuning(NUMBER, 4 << 20, "mq-deadline", tmp_path)
    assert (queue / "read_ahead_kb").read_text().startswith("4096")
    assert (queue / "scheduler").read_text().startswith("mq-deadline")


def test_unset_tuning_is_left_alone(tmp_path: Path) -> None:
    """What the policy does not name keeps its value."""
    queue = make_queue(tmp_path, read_ahead_kb="128\n", scheduler="[none]\n")
    set_tuning(NUMBER, None, None, tmp_path)
    assert (queue / "read_ahead_kb").read_text() == "128\n"


def test_gone_device_cannot_be_tuned(tmp_path: Path) -> None:
    """Settings that are not there are unknown, are not created, and setting them says so."""
    assert read_tuning(NUMBER, tmp_path) == Tuning()
    make_queue(tmp_path)
    with pytest.raises(AgentError, match="read_ahead_kb"):
        set_tuning(NUMBER, 4096, None, tmp_path)
    assert list((tmp_path / "dev/block" / str(NUMBER) / "queue").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "scheduler"),
    [("none\n", None), ("mq-deadline [kyber] bfq none\n", "kyber"), ("", None), ("[none]\n", "none")],
)
def test_scheduler_is_the_bracketed_one(text: str, scheduler: str | None) -> None:
    """Without brackets none is chosen."""
    assert parse_scheduler(text) == scheduler
