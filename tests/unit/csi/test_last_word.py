"""What kubelet said of a socket is known as long as there is that socket, and of no other."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.csi.last_word import LastWord, Word

DRIVER = "ebs.csi.aws.com"
WORDS = [Word(None), Word(""), Word('driver "ebs.csi.aws.com" is already registered')]


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
    LastWord(tmp_path, DRIVER).keep(sockets[0], Word("something else"))
    LastWord(tmp_path, DRIVER).keep(sockets[0], word)
    with sockets[0].dup() as handed_on:
        assert LastWord(tmp_path, DRIVER).recall(handed_on) == word


def test_nothing_is_known_of_another_socket_or_driver(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """Not even of one that took the path, and the inode, of one that kubelet knew."""
    old, new = sockets
    LastWord(tmp_path, DRIVER).keep(old, Word(None))
    assert LastWord(tmp_path, DRIVER).recall(new) is None
    assert LastWord(tmp_path, "another.driver").recall(old) is None


def test_other_settings_are_not_what_kubelet_was_told(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """Of a socket at which it said something, and of one at which it did not; of others nothing is known."""
    old, new = sockets
    before, after = LastWord(tmp_path, DRIVER, "reserved=0"), LastWord(tmp_path, DRIVER, "reserved=2")
    before.begin(old)
    assert before.recall(old) is None
    for _ in range(2):
        assert before.is_current(old)
        assert not after.is_current(old)
        assert after.is_current(new)
        before.keep(old, Word(None))


def test_word_of_an_older_agent_stands(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """It kept no settings, and no node registers anew for that."""
    LastWord(tmp_path, DRIVER).keep(sockets[0], Word(None))
    (kept,) = tmp_path.glob("*.json")
    said = json.loads(kept.read_text())
    del said["told"]
    kept.write_text(json.dumps(said))
    word = LastWord(tmp_path, DRIVER, "reserved=2")
    assert word.is_current(sockets[0])
    assert word.recall(sockets[0]) == Word(None)


@pytest.mark.parametrize(
    "content", ["", "[]", "1", '{"socket": NUMBER}', '{"socket": NUMBER, "error": 0}', '{"error": null}', "{"]
)
def test_what_nobody_said_is_not_known(tmp_path: Path, sockets: list[socket.socket], content: str) -> None:
    """A file that is torn, or another's, says nothing."""
    LastWord(tmp_path, DRIVER).keep(sockets[0], Word(None))
    (kept,) = tmp_path.glob("*.json")
    number = kept.read_text().split('"socket": ')[1].split(",")[0]
    kept.write_text(content.replace("NUMBER", number))
    assert LastWord(tmp_path, DRIVER).recall(sockets[0]) is None


def test_directory_that_is_gone_ends_nothing(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """Registration goes on where its word cannot be kept."""
    words = LastWord(tmp_path / "gone", DRIVER)
    words.keep(sockets[0], Word(None))
    assert words.recall(sockets[0]) is None
