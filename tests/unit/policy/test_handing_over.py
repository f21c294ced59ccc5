"""What the daemon believes of the process that reads its policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.off_loop import answer_here
from agent.core.errors import AgentError, NotAnsweringError
from agent.policy import Policy, PolicyError, PolicyFile
from agent.policy.handing_over import read_answer, read_request, write_answer, write_request
from agent.policy.policy_file import READER
from agent.policy.reading import load_policy, read_policy
from agent.policy.reading.apart import answer
from agent.policy.yaml.problems import MAX_PROBLEMS, Loc, Problem
from tests.unit.policy.samples import VOL_A, make_entry

EXAMPLE = Path(__file__).parents[3] / "docs" / "policy.example.yaml"
PROBLEM = [1, 1, "a", "It is wrong.", None]
ENTRY = {"name": "a", "match": {"size": "1GiB"}, "block": {}}


MOUNTED = {"filesystem": {"type": "xfs"}, "mount": {"path": "/data/a"}}


def make_answer(**words: object) -> dict[str, Any]:
    return {"content": {"version": 1}, "problems": [], "lines": [], **words}


def with_volumes(*entries: object) -> dict[str, Any]:
    return make_answer(content={"version": 1, "volumes": list(entries)})


def test_a_policy_arrives_as_it_was_read() -> None:
    """What the daemon builds of the answer is what the reader has read."""
    request = write_request(EXAMPLE.read_bytes(), [("volumes", 0, "name"), ("nowhere",)])
    found = read_answer(answer(request), 2)
    assert found.policy == load_policy(EXAMPLE, trust_owner=True)
    lines = EXAMPLE.read_text().splitlines()
    assert [lines[number - 1].strip(" -").partition(":")[0] for number in found.lines] == ["name", "version"]


@pytest.mark.parametrize(
    "text", [b"", b"version: 2\nx: 1\n", b"\xff", b"version: 1\nvolumes: [{name: a}]\n", b"a: [", b"a: \x00"]
)
def test_problems_arrive_as_they_were_found(text: bytes) -> None:
    """Each keeps its line, its words and its remedy."""
    assert list(read_answer(answer(write_request(text, [])), 0).problems) == read_policy(text)[1]


@given(st.binary(), st.lists(st.lists(st.text() | st.integers()).map(tuple)))
def test_requests_arrive_as_they_were_made(content: bytes, locs: list[Loc]) -> None:
    """Whatever a file holds, a line break at its begin too."""
    assert read_request(write_request(content, locs)) == (content, locs)


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        make_answer(problems=None),
        make_answer(problems=[[]]),
        make_answer(problems=[["1", 1, "", "", None]]),
        make_answer(problems=[[1, True, "", "", None]]),
        make_answer(problems=[[1, 1, "", 5, None]]),
        make_answer(problems=[[1, 1, "", "x" * 10_001, None]]),
        make_answer(problems=[PROBLEM] * (MAX_PROBLEMS + 1)),
        make_answer(lines=[1]),
        make_answer(lines={}),
        make_answer(content=None),
        make_answer(content={}),
        make_answer(content={"version": 1, "agent": {"resync": 0.1}}),
        with_volumes({**ENTRY, "name": "../a"}),
        with_volumes(ENTRY, ENTRY),
        with_volumes({**ENTRY, "filesystem": {"type": "xfs"}}),
        with_volumes({"name": "a", "match": {"size": "1GiB"}, **MOUNTED, "mount": {"path": "/etc"}}),
        with_volumes({"name": "a", "claim": {"class": "c", "size": "1GiB"}, **MOUNTED}),
    ],
)
def test_what_is_not_sound_is_not_believed(said: object) -> None:
    """A reader that was taken over can say another policy, and nothing that no policy could."""
    with pytest.raises(AgentError, match="answered cannot be used: "):
        read_answer(json.dumps(said).encode(), 0)


@given(st.binary() | st.from_type(dict[str, int]).map(lambda said: json.dumps(said).encode()))
def test_any_bytes_are_an_answer_or_an_error(raw: bytes) -> None:
    """Nothing else comes of them."""
    with pytest.raises(AgentError):
        read_answer(raw, 0)


def test_nesting_without_end_is_an_error() -> None:
    """It ends at Python's own limit, and that is told as any other nonsense."""
    with pytest.raises(AgentError, match="cannot be used"):
        read_answer(b'{"problems":' + b"[" * 1_000_000, 0)


def test_a_policy_that_is_too_large_is_told_so() -> None:
    """Of aliases that would be more than the daemon takes, it hears in words."""
    found = read_answer(write_answer({"version": 1, "x": "x" * (4 << 20)}, [], []), 0)
    assert [one.message for one in found.problems] == ["The file holds more than 3 MiB, aliases written out."]


def test_a_refusal_keeps_its_hint() -> None:
    """A remedy of several words arrives whole."""
    problem = Problem(3, 7, "volumes[0]", "It is wrong.", "Make it right.")
    assert read_answer(write_answer(None, [problem], []), 0).problems == (problem,)


async def test_the_daemon_tells_what_the_reader_found(tmp_path: Path) -> None:
    """The error is the one that reading in place raises."""
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\na: 1\n")
    with pytest.raises(PolicyError) as here:
        load_policy(path, trust_owner=True)
    with pytest.raises(PolicyError) as there:
        await PolicyFile(path).load(trust_owner=True)
    assert (there.value.message, there.value.problems) == (here.value.message, here.value.problems)


async def test_a_reader_that_says_nothing_is_no_refusal(tmp_path: Path) -> None:
    """Not to have read the policy says nothing about it: it can be tried again, and no lines are known."""
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nvolumes:\n" + make_entry("a", f"{{volume_id: {VOL_A}}}"))

    async def hang(function: str, request: bytes, *, subject: str) -> bytes:
        del function, request
        raise NotAnsweringError(f"{subject} hangs.")

    with pytest.raises(NotAnsweringError) as raised:
        await PolicyFile(path, confined=hang).load(trust_owner=True)
    assert raised.value.retryable
    policy = load_policy(path, trust_owner=True)
    place: Loc = ("volumes", 0, "name")
    assert await PolicyFile(path, confined=hang).find_lines(policy, [place]) == [None]
    assert await PolicyFile(path).find_lines(policy, [place]) == [3]
    assert await PolicyFile(path).find_lines(Policy(version=1), [place]) == [None]


async def test_the_reader_is_there_by_its_name() -> None:
    """What is asked for by name exists."""
    assert json.loads(await answer_here(READER, b"[]\nversion: 1\n", subject="it"))["content"] == {
        "version": 1
    }


PREPARED = f"""
import sys
from agent.policy.reading.apart import answer, prepare
prepare()
before = set(sys.modules)
text = open({str(EXAMPLE)!r}, "rb").read()
for wrong in (b"", b"5", b"x", b"true", b"[a]", b"{{a: b}}", b"null", b"'", b"\\xff", b"&a", b"!!x y"):
    for line in text.splitlines():
        key, colon, _ = line.partition(b": ")
        if colon:
            answer(b"[]\\n" + text.replace(line, key + colon + wrong, 1))
print(*(set(sys.modules) - before))
"""


def test_nothing_is_imported_once_rights_are_given_up() -> None:
    """All that reading takes is there before, since nobody can read what root has installed for itself."""
    done = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == ([], "")
