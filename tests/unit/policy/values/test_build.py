from __future__ import annotations

from typing import Any

import pytest

from agent.core.errors import InvalidValueError
from agent.core.model import FormatRule, FsType
from agent.policy.entries import VolumeClass, VolumeEntry
from agent.policy.policy import Policy
from agent.policy.reading.models import find_sections, make_model
from agent.policy.values.build import build_section, list_fields

SOUND: dict[str, Any] = {
    "name": "a",
    "match": {"size": ">=1TiB", "tags": {"team": "x"}},
    "filesystem": {"type": "ext4", "format": "if-blank", "mkfs_options": ["-m0"]},
    "mount": {"path": "/data/a", "mode": "0770"},
    "snapshots": {"schedule": "0 * * * *", "lock": {"mode": "governance", "duration": "2d"}},
}


def test_values_are_built_as_they_are_kept() -> None:
    """What is written in words becomes numbers, enums and sections, and what is left out its default."""
    entry = build_section(VolumeEntry, SOUND)
    assert entry.filesystem is not None
    assert (entry.filesystem.type, entry.filesystem.format) == (FsType.EXT4, FormatRule.IF_BLANK)
    assert entry.filesystem.mkfs_options == ("-m0",)
    assert entry.mount is not None
    assert entry.mount.mode == 0o770
    assert entry.match is not None
    assert entry.match.size is not None
    assert 1 << 40 in entry.match.size
    assert entry.snapshots is not None
    assert entry.snapshots.lock is not None
    assert (entry.snapshots.lock.duration_s, entry.snapshots.freeze) == (172_800, True)
    assert (entry.grow, entry.claim) == (False, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mtch": {}}, "The key 'mtch' is not known."),
        ({"name": None}, "name: "),
        ({"match": []}, "match: "),
        ({"match": {"tags": {"a": 1}}}, "match: tags: Input should be a valid string"),
        ({"grow": 1}, "grow: Input should be a valid boolean"),
        ({"filesystem": {"type": "ext3"}}, "filesystem: type: Input should be 'ext4', 'xfs' or 'btrfs'"),
        ({"filesystem": {}}, "filesystem: The key 'type' is missing."),
        ({"filesystem": {"type": "xfs", "mkfs_options": "-f"}}, "Input should be a list"),
        ({"mount": {"path": "data"}}, "mount: path: 'data' is not absolute."),
        ({"snapshots": {"schedule": "0 * * * *", "keep": 0}}, "keep: Input should be greater than"),
        ({"snapshots": {"schedule": "0 * * * *", "keep": 1001}}, "keep: Input should be less than"),
    ],
)
def test_nothing_unsound_is_built(wrong: dict[str, Any], message: str) -> None:
    """The first fault ends it, in words that begin with its key."""
    with pytest.raises(InvalidValueError) as raised:
        build_section(VolumeEntry, {**SOUND, **wrong})
    assert message in raised.value.message


@pytest.mark.parametrize("content", [None, [], "gp3", 3])
def test_what_is_no_mapping_is_no_section(content: object) -> None:
    """Whatever comes in the place of a section is refused."""
    with pytest.raises(InvalidValueError, match="is not a mapping"):
        build_section(VolumeClass, content)


def test_each_section_is_declared_once() -> None:
    """What finds the faults of a file and what builds its values know the same keys."""
    for section in (Policy, *find_sections(Policy)):
        known = {field.alias or name for name, field in make_model(section).model_fields.items()}
        assert known == set(list_fields(section)), section
