"""Values of the wrong kind, anywhere in the policy: said in YAML's words, with what to write instead."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from agent.core.quoting import quote, write_yaml
from agent.policy.reading import read_policy
from tests.fuzz.samples import POLICIES

ENTRY = """version: 1
volumes:
  - name: ckpt
    match: {volume_id: vol-0123456789abcdef1}
    filesystem: {type: ext4, format: if-blank}
    mount: {path: /data/ckpt}
"""
LONG_ARN = "arn:aws:ec2:us-east-1:123456789012:volume/vol-0123456789abcdef1"


def replaced(old: str, new: str) -> str:
    return ENTRY.replace(old, new)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            replaced("path: /data/ckpt", 'path: /data/ckpt, options: "noatime,nofail"'),
            (
                "line 6, column 40: volumes[0].mount.options: 'noatime,nofail' is not a list."
                " Write it as a list: options: [noatime, nofail]"
            ),
        ),
        (
            "version: 1\nagent: {allowed_roots: /scratch}",
            (
                "line 2, column 24: agent.allowed_roots: '/scratch' is not a list."
                " Write it as a list: allowed_roots: [/scratch]"
            ),
        ),
        (
            replaced("format: if-blank", 'format: if-blank, mkfs_options: "-m 0 -E a,b"'),
            (
                "line 5, column 62: volumes[0].filesystem.mkfs_options: '-m 0 -E a,b' is not a list."
                ' Write it as a list: mkfs_options: [-m, "0", -E, "a,b"]'
            ),
        ),
        (
            "version: 1\nvolumes:\n  ckpt: {match: {volume_id: vol-0123456789abcdef1}, block: {}}",
            (
                "line 3, column 3: volumes: {ckpt: {…}} is not a list."
                " Its items begin with a dash: - name: ckpt, and the item's other keys below name."
            ),
        ),
        (
            "version: 1\nclasses: [{name: fast}]",
            (
                "line 2, column 10: classes: [{…}] is not a mapping."
                " Write each under its name: classes: {fast: {type: …}}"
            ),
        ),
        (
            "version: 1\nclasses: {fast: gp3}",
            "line 2, column 17: classes.fast: 'gp3' is not a mapping. Write it as in {type: gp3}",
        ),
        (
            replaced("mount: {path: /data/ckpt}", "mount: /data/b"),
            (
                "line 6, column 12: volumes[0].mount: '/data/b' is not a mapping."
                " Write it as in mount: {path: /data/b}"
            ),
        ),
        (
            replaced("filesystem: {type: ext4, format: if-blank}", "filesystem: xfs"),
            (
                "line 5, column 17: volumes[0].filesystem: 'xfs' is not a mapping."
                " Write it as in filesystem: {type: xfs}"
            ),
        ),
        (
            replaced("{volume_id: vol-0123456789abcdef1}", "vol-0123456789abcdef1"),
            (
                "line 4, column 12: volumes[0].match: 'vol-0123456789abcdef1' is not a mapping."
                " Write it as in match: {volume_id: vol-0123456789abcdef1}"
            ),
        ),
        (
            replaced("{volume_id: vol-0123456789abcdef1}", "{tags: [{Key: role, Value: db}]}"),
            (
                "line 4, column 19: volumes[0].match.tags: [{…}] is not a mapping."
                " Write it as in tags: {role: db}"
            ),
        ),
        (
            replaced("format: if-blank", "format: true"),
            (
                "line 5, column 38: volumes[0].filesystem.format: true is not one of never or if-blank."
                " Did you mean if-blank?"
            ),
        ),
        (
            replaced("ext4", "XFS"),
            (
                "line 5, column 24: volumes[0].filesystem.type: 'XFS' is not one of ext4, xfs or btrfs."
                " Did you mean xfs?"
            ),
        ),
        (
            replaced("vol-0123456789abcdef1", LONG_ARN),
            (
                "line 4, column 24: volumes[0].match.volume_id: 'arn:aws:ec2:us-east-1:123456789012:volume/"
                "vol-0123456789abcd…' is not an EBS volume ID. Did you mean vol-0123456789abcdef1?"
            ),
        ),
        (
            replaced("vol-0123456789abcdef1", "VOL-0123456789ABCDEF1"),
            (
                "line 4, column 24: volumes[0].match.volume_id: 'VOL-0123456789ABCDEF1' is not an EBS volume"
                " ID. Did you mean vol-0123456789abcdef1?"
            ),
        ),
        (
            replaced("path: /data/ckpt", 'path: /data/ckpt, owner: "7:100"'),
            (
                "line 6, column 38: volumes[0].mount.owner: '7:100' is not a user's or group's name or"
                " number. Write both: owner: 7, group: 100"
            ),
        ),
        (
            f"{ENTRY}    grow: yes\n",
            "line 7, column 11: volumes[0].grow: 'yes' is not true or false. Write true.",
        ),
        (
            "version: 1\nclasses: {fast: {iops: '3,000'}}",
            (
                "line 2, column 24: classes.fast.iops: '3,000' is not a whole number."
                " Write it without quotes or marks: 3000"
            ),
        ),
        (
            replaced("vol-0123456789abcdef1", "vol0123456789abcdef1"),
            (
                "line 4, column 24: volumes[0].match.volume_id: 'vol0123456789abcdef1' is not an EBS volume"
                " ID. Did you mean vol-0123456789abcdef1?"
            ),
        ),
        (
            replaced("version: 1\n", ""),
            "line 1, column 1: version: The key 'version' is missing. Add version: 1",
        ),
        (
            replaced("type: ext4, ", ""),
            (
                "line 5, column 5: volumes[0].filesystem.type: The key 'type' is missing."
                " Add type: ext4 or xfs or btrfs"
            ),
        ),
        (
            "version: '1'",
            "line 1, column 10: version: '1' is not one of 1. Write it without quotes: 1",
        ),
    ],
)
def test_what_to_write_is_said(text: str, problem: str) -> None:
    """Each mistake has its line and column, is quoted as it was written, and says what is right."""
    assert [found.describe() for found in read_policy(text)[1]] == [problem]


def find_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, key)
        if isinstance(inner, (dict, list)):
            yield from find_places(inner, (*place, key))


WHOLE = yaml.safe_load(POLICIES[-1])
WRONG: tuple[Any, ...] = (
    {},
    {"a": 1},
    {"a": {"b": 1}},
    [],
    ["a"],
    [{"a": 1}],
    True,
    False,
    5,
    "some text",
    "",
)
PYTHON = re.compile(r"\bTrue\b|\bFalse\b|\bNone\b|\{'|\['|\b(?:tuple|dict|str|int|Input)\b")


@pytest.mark.parametrize("place", list(find_places(WHOLE)), ids=lambda place: ".".join(map(str, place)))
def test_every_value_of_another_kind_is_told_in_yaml(place: tuple[Any, ...]) -> None:
    """Whatever is written in the place of any value, what is wrong has a line and a way out, in YAML."""
    for wrong in WRONG:
        document = copy.deepcopy(WHOLE)
        holder: Any = document
        for key in place[:-1]:
            holder = holder[key]
        right = holder[place[-1]]
        holder[place[-1]] = copy.deepcopy(wrong)
        for problem in read_policy(yaml.safe_dump(document, sort_keys=False))[1]:
            assert problem.line, problem.describe()
            assert not PYTHON.search(problem.describe()), problem.describe()
            if type(wrong) is not type(right):
                assert problem.hint, problem.describe()


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("a b", "'a b'"),
        ("x" * 61, f"'{'x' * 60}…'"),
        ("a\nb", r"'a\nb'"),
        (True, "true"),
        (None, "null"),
        ({}, "{}"),
        ([], "[]"),
        ({"a": [1], "b": {"c": 1}, "d": {}, "e": 1}, "{a: […], b: {…}, d: {}, …}"),
        ([1, "no way", "true"], '[1, "no way", "true"]'),
        (10**80, f"{'1' + '0' * 59}…"),
    ],
)
def test_quotes(value: object, quoted: str) -> None:
    """A value is quoted as YAML has it, on one line, with a mark where it is cut."""
    assert quote(value) == quoted


@pytest.mark.parametrize(
    "text", ["a", "-m0", "a:b", "1", "true", "", "a b", "{x}", "[", "é", "#", "a: b", "@x"]
)
def test_suggestions_are_yaml(text: str) -> None:
    """What is suggested means the same when it is written down."""
    assert yaml.safe_load(f"x: {write_yaml([text])}") == {"x": [text]}
