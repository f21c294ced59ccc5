from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.yaml.events import FAST_LOADER, MAX_DEPTH, MAX_NODES, Mark
from agent.policy.yaml.problems import MAX_BYTES
from agent.policy.yaml.source import read_source

LOADERS = [pytest.param(yaml.SafeLoader, id="python"), pytest.param(FAST_LOADER, id="libyaml")]
LONGEST_S = 10.0
"""What no input may take, on a slow machine with PyYAML's Python scanner."""


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> Any:
    """Both scanners PyYAML may have."""
    return request.param


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("a: 1", {"a": 1}),
        ("a: 0770", {"a": "0770"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: [yes, no, on, off]", {"a": ["yes", "no", "on", "off"]}),
        ("a: [true, False, null, ~, ]", {"a": [True, False, None, None]}),
        ("a: '5'", {"a": "5"}),
        ("a: !!str 5", {"a": "5"}),
        ("a: 1.10", {"a": "1.10"}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: 99999999999999999999999", {"a": "99999999999999999999999"}),
        ("1: a", {"1": "a"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("\ufeffa: é", {"a": "é"}),
        ("a: >-\n  x\n  y\n", {"a": "x y"}),
        ("", None),
        ("# only a comment\n", None),
        ("---\n...\n", None),
        ("- a\n- b", ["a", "b"]),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(loader: Any, text: str, content: Any) -> None:
    """Words and numbers that YAML 1.1 turns into booleans, octals and dates stay as they are written."""
    source = read_source(text, loader)
    assert source.problems == []
    assert source.content == content


def test_every_part_knows_its_place(loader: Any) -> None:
    """Keys and values are found by line and column, counted from 1; what is absent, by what is around it."""
    source = read_source("a:\n  - x: 1\n    yé: z\n", loader)
    assert source.find_mark(("a", 0, "x")) == Mark(2, 8)
    assert source.find_mark(("a", 0, "yé"), at_key=True) == Mark(3, 5)
    assert source.find_mark(("a", 0, "missing")) == Mark(2, 5)
    assert source.find_mark(()) == Mark(1, 1)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, 1, "here twice; the first is on line 1"),
        ("a: !!python/object/apply:os.system ['x']", 1, 4, "!!python/object/apply:os.system"),
        ("a: !secret x", 1, 4, "!secret"),
        ("? [a]\n: b", 1, 3, "must be a word"),
        ("a: |\n  x\n", 1, 4, "a line break"),
        ('a: "x\\0y"', 1, 4, "U+0000"),
        ('a: "\\e[2J"', 1, 4, "U+001B"),
    ],
)
def test_what_is_odd_is_a_problem_at_its_place(
    loader: Any, text: str, line: int, column: int, words: str
) -> None:
    """Oddities that leave the rest readable are noted, and the rest is read."""
    source = read_source(text, loader)
    assert source.is_readable
    (problem,) = source.problems
    assert (problem.line, problem.column) == (line, column)
    assert words in problem.message


@pytest.mark.parametrize(
    ("raw", "line", "words"),
    [
        (b"a: 1\nb: \xff", 2, "not UTF-8: byte 0xff"),
        ("a: 1\nb: \x00", 2, "U+0000"),
        ("a: \ud800", 1, "U+D800"),
        ("\ta: 1", 1, "not YAML"),
        ("a: 1\n\tb: 2", 2, "not YAML"),
        ("a:\n - [1\n", 3, "that begins on line 2"),
        ("a: b: c", 1, "not YAML"),
        ("a: *x", 1, "anchored as &x"),
        ("a: &x [*x]", 1, "anchored as &x"),
        ("--- 1\n--- 2", 2, "second document"),
        ("[" * 5000, 1, "nested more than"),
        (
            "a: &a [x]\n" + "".join(f"k{n}: &b{n} [*{'a' if n == 0 else f'b{n - 1}'}]\n" for n in range(99)),
            32,
            "nested",
        ),
        (
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"k{n}: &b{n} [{','.join(['*' + ('a' if n == 0 else f'b{n - 1}')] * 10)}]\n"
                for n in range(30)
            ),
            5,
            "more than",
        ),
        ("[" + "a," * (MAX_NODES + 1) + "]", 1, "more than"),
        (" " * (MAX_BYTES + 1), 0, "larger than"),
        (b"\xc3\xa9" * MAX_BYTES, 0, "larger than"),
        ("%YAML 9" + "9" * 5000 + ".1\n---\na: 1", 1, "not YAML"),
        ('"\\U99999999"', 1, "not YAML"),
    ],
)
def test_broken_or_hostile_text_is_one_problem(loader: Any, raw: bytes | str, line: int, words: str) -> None:
    """What cannot be read, or would grow out of bounds, is refused with the line where that shows."""
    source = read_source(raw, loader)
    assert not source.is_readable
    (problem,) = source.problems
    assert words in problem.message
    assert problem.line == line


def test_tabs_are_named() -> None:
    """The commonest mistake in YAML gets its own hint."""
    (problem,) = read_source("a:\n\tb: 2").problems
    assert problem.hint is not None
    assert "spaces" in problem.hint


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "x" * (MAX_BYTES - 10),
        "#" * MAX_BYTES,
        "\n" * MAX_BYTES,
        "- " * (MAX_BYTES // 2),
        "{" * MAX_BYTES,
        "a: '" + "''" * (MAX_BYTES // 2 - 10) + "'",
        'a: "' + "\\u00e9" * (MAX_BYTES // 6 - 10) + '"',
        "&a " * (MAX_BYTES // 3),
        "? " * (MAX_BYTES // 2),
        "a" * 1000 + "\n" * 1000 + ": b",
    ],
)
def test_the_largest_inputs_end_in_time(loader: Any, text: str) -> None:
    """No shape of a file at the size limit keeps the agent busy."""
    began = time.thread_time()  # which stands still while others have the processor
    read_source(text, loader)
    assert time.thread_time() - began < LONGEST_S


@given(
    st.one_of(
        st.binary(max_size=300), st.text(max_size=300), st.text("[]{}&*!|>'\"%@,:?- \n\tab01~", max_size=120)
    )
)
def test_no_text_raises(raw: bytes | str) -> None:
    """Whatever the bytes, the answer is content or problems, and with both scanners."""
    for each in (yaml.SafeLoader, FAST_LOADER):
        source = read_source(raw, each)
        assert source.is_readable or source.problems


def test_depth_up_to_the_limit_is_read(loader: Any) -> None:
    """The depth limit refuses nothing short of it."""
    source = read_source("[" * MAX_DEPTH + "]" * MAX_DEPTH, loader)
    assert source.is_readable
