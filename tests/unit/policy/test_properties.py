"""Whatever is written, reading a policy ends soon, with a policy or with problems, and never otherwise."""

from __future__ import annotations

import time
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.policy.reading import check_policy, read_policy
from agent.policy.yaml.events import MAX_NODES
from agent.policy.yaml.problems import MAX_BYTES, MAX_PROBLEMS
from tests.unit.policy.samples import VOL_A

LONGEST_S = 10.0

KEYS = st.sampled_from(
    (
        "version",
        "agent",
        "classes",
        "volumes",
        "name",
        "match",
        "claim",
        "filesystem",
        "mount",
        "block",
        "grow",
        "required",
        "tune",
        "snapshots",
        "path",
        "options",
        "owner",
        "group",
        "mode",
        "type",
        "format",
        "label",
        "mkfs_options",
        "volume_id",
        "device_name",
        "size",
        "tags",
        "class",
        "per",
        "from",
        "schedule",
        "keep",
        "freeze",
        "lock",
        "duration",
        "http",
        "listen",
        "tls",
        "mqtt",
        "host",
        "port",
        "cloud",
        "iops",
        "x",
        "allowed_roots",
        "resync",
    )
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=20),
    st.sampled_from(
        [1, VOL_A, "500GiB", "ext4", "if-blank", "/data/a", "/data/{name}", "0770", "60s", "-F", "/", "{"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=25,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "name": SCALARS,
        "match": st.dictionaries(
            st.sampled_from(["volume_id", "size", "tags", "type", "x"]), TREES, max_size=3
        ),
        "claim": st.dictionaries(st.sampled_from(["class", "size", "per", "from"]), TREES, max_size=4),
        "filesystem": st.dictionaries(st.sampled_from(["type", "format", "mkfs_options"]), TREES, max_size=3),
        "mount": st.dictionaries(st.sampled_from(["path", "options", "mode"]), TREES, max_size=3),
        "block": TREES,
        "snapshots": TREES,
        "grow": SCALARS,
    },
)


def _check(text: str | bytes) -> None:
    policy, problems = read_policy(text)
    assert (policy is None) == bool(problems)
    assert len(problems) <= MAX_PROBLEMS
    assert all(problem.line >= 0 and problem.message for problem in problems)


@given(st.one_of(st.binary(max_size=400), st.text(max_size=400)))
def test_arbitrary_bytes(raw: bytes | str) -> None:
    """Noise is a list of problems."""
    _check(raw)


@given(TREES)
def test_arbitrary_content(content: Any) -> None:
    """Any tree of values in the place of the policy is a list of problems, or a policy."""
    _check(yaml.safe_dump(content, allow_unicode=True))


@given(st.lists(ENTRIES, max_size=4), st.dictionaries(st.text(max_size=5), TREES, max_size=2), TREES)
def test_nearly_policies(volumes: list[Any], classes: dict[str, Any], agent: Any) -> None:
    """Files that are nearly policies are read to the end, whatever is in the place of a value."""
    _check(yaml.safe_dump({"version": 1, "agent": agent, "classes": classes, "volumes": volumes}))


@settings(max_examples=50)
@given(
    names=st.lists(
        st.from_regex(r"[a-uw-z][a-z0-9._-]{0,20}", fullmatch=True), min_size=1, max_size=5, unique=True
    ),
    fs_type=st.sampled_from(["ext4", "xfs", "btrfs"]),
    grow=st.booleans(),
    mode=st.integers(0, 0o7777),
    read_ahead=st.integers(0, 1 << 16),
)
def test_valid_policies_say_what_was_written(
    *, names: list[str], fs_type: str, grow: bool, mode: int, read_ahead: int
) -> None:
    """What is written in a valid policy is what it says once read."""
    names = [name for name in names if name != "by-id"] or ["a"]
    volumes = [
        {
            "name": name,
            "match": {"size": f"{index + 1}GiB"},
            "filesystem": {"type": fs_type},
            "mount": {"path": f"/data/{name}", "mode": f"{mode:04o}"},
            "grow": grow,
            "tune": {"read_ahead": f"{read_ahead * 4}KiB"},
        }
        for index, name in enumerate(names)
    ]
    policy, problems = read_policy(yaml.safe_dump({"version": 1, "volumes": volumes}))
    assert problems == []
    assert policy is not None
    assert [entry.name for entry in policy.volumes] == names
    for entry in policy.volumes:
        assert entry.mount is not None
        assert entry.filesystem is not None
        assert (entry.mount.path, entry.mount.mode) == (f"/data/{entry.name}", mode)
        assert (entry.filesystem.type, entry.grow) == (fs_type, grow)
        assert entry.tune.read_ahead_bytes == read_ahead * 4096


def test_the_most_mistakes_end_in_time() -> None:
    """Files full of mistakes, as large as files may be, are answered without delay."""
    texts = [
        "version: 1\nvolumes:\n" + "- {nme: a}\n" * (MAX_NODES // 4),
        "version: 1\nvolumes:\n" + "- {name: a, match: {size: 1GiB}, block: {}}\n" * (MAX_NODES // 12),
        "version: 1\nvolumes: [" + "a," * (MAX_NODES // 2) + "]",
        "version: 1\n" + "".join(f"k{n}: 1\n" for n in range(MAX_NODES // 3)),
        "version: 1\n" + "k" * (MAX_BYTES // 2) + ": 1\n",
        "version: 1\nvolumes:\n"
        + "".join(
            f"- {{name: a{n}, match: {{size: 1GiB}}, filesystem: {{type: xfs}},"
            f" mount: {{path: /data{'/x' * 1900}/{n}}}}}\n"
            for n in range(250)
        ),
        "version: 1\nvolumes:\n"
        + "".join(
            f"- {{name: a{n}, match: {{size: 1GiB}}, filesystem: {{type: xfs}},"
            f" mount: {{path: /data{'/x' * 60}/{n}}}}}\n"
            for n in range(1200)
        ),
        "version: 1\nclasses: {c: {tags: {" + ",".join(f"k{n}: v" for n in range(MAX_NODES // 3)) + "}}}",
        "version: 1\nvolumes: [{name: a, match: {size: " + "9" * 500_000 + "}}]",
    ]
    for text in texts:
        began = time.thread_time()
        check_policy(text)
        assert time.thread_time() - began < LONGEST_S, text[:60]
