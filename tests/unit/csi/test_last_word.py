"""What kubelet said of a socket is known as long as there is that socket, and of no other."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.csi.calls import NodeInfo
from agent.csi.last_word import LastWord, Word
from agent.csi.volumes.node_info import ZONE_NAME, Told

DRIVER = "ebs.csi.aws.com"
WORDS = [Word(None), Word(""), Word('driver "ebs.csi.aws.com" is already registered')]


def make_word(runtime: Path, driver: str = DRIVER, told: Told = Told()) -> LastWord:  # noqa: B008 -- a value
    """Return the word about a driver of an agent that would say this of the node."""
    return LastWord(runtime, driver, lambda: told)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """Give two sockets that were bound to one path, one after the other."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        path = tmp_path / "registration.sock"
        for each in made:
            path.unlink(missing_ok=True)
            each.bind(str(path))
        yield made


@pytest.mark.parametrize("word", WORDS)
def test_next_agent_knows_what_was_said_to_the_one_before(
    tmp_path: Path, sockets: list[socket.socket], word: Word
) -> None:
    """The socket is handed on, by another descriptor; what was said last counts."""
    make_word(tmp_path).keep(sockets[0], Word("something else"))
    make_word(tmp_path).keep(sockets[0], word)
    with sockets[0].dup() as handed_on:
        assert make_word(tmp_path).recall(handed_on) == word


def test_nothing_is_known_of_another_socket_or_driver(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """Not even of one that took the path, and the inode, of one that kubelet knew."""
    old, new = sockets
    make_word(tmp_path).keep(old, Word(None))
    assert make_word(tmp_path).recall(new) is None
    assert make_word(tmp_path, "another.driver").recall(old) is None


@pytest.mark.parametrize(
    ("told", "now", "is_current"),
    [
        (Told("reserved=0", "i-1"), Told("reserved=0", "i-1"), True),
        (Told("reserved=0", "i-1"), Told("reserved=2", "i-1"), False),
        (Told("", "i-1"), Told("", "hyperpod-c-i-1"), False),
        (Told("", "hyperpod-c-i-1"), Told("", None), True),
        (Told("", "i-1"), Told("", "i-1", has_room=True), False),
        (Told("", "i-1"), Told("", "i-1", has_zone=True), False),
        (Told("", "i-1", has_room=True, has_zone=True), Told("", "i-1"), True),
        (Told("", "i-1", has_zone=True), Told("", "i-1", has_room=True), False),
    ],
    ids=[
        "the same",
        "other settings",
        "another name",
        "a name that is not known now",
        "a count that was not known",
        "a zone that was not known",
        "what is not known now",
        "a count beside what is not known now",
    ],
)
def test_what_kubelet_was_told_holds_or_not(
    tmp_path: Path, sockets: list[socket.socket], told: Told, now: Told, *, is_current: bool
) -> None:
    """Of a socket at which it asked, before and after it said something; of others nothing is known."""
    old, new = sockets
    before, after = make_word(tmp_path, told=told), make_word(tmp_path, told=now)
    before.begin(old)
    assert make_word(tmp_path, told=now).is_current(old)
    zone = {ZONE_NAME: "us-west-2a"} if told.has_zone else {}
    before.note_told(NodeInfo(told.node_id or "", 1 if told.has_room else None, zone))
    assert before.recall(old) is None
    for _ in range(2):
        assert before.is_current(old)
        assert make_word(tmp_path, told=now).is_current(old) is is_current
        assert after.is_current(new)
        before.keep(old, Word(None))


def test_what_was_told_is_kept_when_kubelet_says_something(
    tmp_path: Path, sockets: list[socket.socket]
) -> None:
    """It asks first, and may speak to the next agent; an answer that is the same is written once."""
    make_word(tmp_path, told=Told("", "i-1")).begin(sockets[0])
    before = make_word(tmp_path, told=Told("", "i-1"))
    assert before.recall(sockets[0]) is None
    before.note_told(NodeInfo("i-1"))
    (kept,) = tmp_path.glob("*.json")
    inode = kept.stat().st_ino
    before.note_told(NodeInfo("i-1"))
    assert kept.stat().st_ino == inode
    after = make_word(tmp_path, told=Told("", "hyperpod-c-i-1"))
    after.begin(sockets[0])
    after.keep(sockets[0], Word(None))
    assert not after.is_current(sockets[0])


def test_word_of_an_older_agent_stands(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """It kept nothing of what it told, and no node registers anew for that."""
    make_word(tmp_path).keep(sockets[0], Word(None))
    word = make_word(tmp_path, told=Told("reserved=2", "i-1"))
    assert word.is_current(sockets[0])
    assert word.recall(sockets[0]) == Word(None)


@pytest.mark.parametrize(
    ("said", "is_current"), [({"error": None}, False), ({"error": "no"}, True), ({}, True)]
)
def test_word_of_an_agent_that_kept_no_name_is_asked_for_anew(
    tmp_path: Path, sockets: list[socket.socket], said: dict[str, str | None], *, is_current: bool
) -> None:
    """Where kubelet took it for the plugin: on HyperPod the name may have been a wrong one, for good."""
    make_word(tmp_path).begin(sockets[0])
    (kept,) = tmp_path.glob("*.json")
    number = json.loads(kept.read_text())["socket"]
    kept.write_text(json.dumps({"socket": number, "told": "attach_limit=None reserved=0 zone=None", **said}))
    assert make_word(tmp_path, told=Told("", "i-1")).is_current(sockets[0]) is is_current


@pytest.mark.parametrize(
    "content", ["", "[]", "1", '{"socket": NUMBER}', '{"socket": NUMBER, "error": 0}', '{"error": null}', "{"]
)
def test_what_nobody_said_is_not_known(tmp_path: Path, sockets: list[socket.socket], content: str) -> None:
    """A file that is torn, or another's, says nothing."""
    make_word(tmp_path).keep(sockets[0], Word(None))
    (kept,) = tmp_path.glob("*.json")
    number = json.loads(kept.read_text())["socket"]
    kept.write_text(content.replace("NUMBER", str(number)))
    assert make_word(tmp_path).recall(sockets[0]) is None


def test_directory_that_is_gone_ends_nothing(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """Registration goes on where its word cannot be kept."""
    make_word(tmp_path / "gone").keep(sockets[0], Word(None))
    assert make_word(tmp_path / "gone").recall(sockets[0]) is None
